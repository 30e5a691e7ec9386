"""The garbage collector of a run's processes, before and after they are up."""

import gc

from vespo_openrlhf.bridge import collector


def test_it_looks_seldom_at_the_start_and_never_again_at_what_is_there_then() -> None:
    before = gc.get_threshold()
    try:
        collector.relax()
        assert gc.get_threshold() > collector._THRESHOLDS
        collector.settle()
        assert gc.get_threshold() == collector._THRESHOLDS
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
