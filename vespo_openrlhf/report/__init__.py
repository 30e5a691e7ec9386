"""A training run as one HTML page, from what it left in its run folder; several side by side.

`runs` reads the folders, `charts` draws, `page` puts the page together,
`python -m vespo_openrlhf.report RUN_DIR` is the command. Reads files only: neither torch nor Ray.
"""

from .page import write_report

__all__ = ["write_report"]
