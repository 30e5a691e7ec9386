"""Python's collector of cyclic garbage, set for processes that import the whole stack and keep it.

A run's processes import a million objects that live as long as they do. With Python's own
thresholds the collector walks through them again and again: a fifth of what the imports cost, and
later a pause of 0.1 s and more at any allocation.
"""

import gc

_THRESHOLDS = gc.get_threshold()


def relax() -> None:
    """Look less often; before the imports."""
    gc.set_threshold(50_000, 20, 100)


def settle() -> None:
    """Look as often as ever, and never at what is there by now; once a process is up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
