"""Self-contained HTML pages: text, tables and matplotlib figures in one file, with no network.

`page.Page` collects sections of blocks and writes the file; `blocks` makes text and tables,
`figures` inlines matplotlib as SVG in the page's own colours, `browser` shows samples with
filters, `arguments` are what a report is given. matplotlib is imported when a figure is made.
"""

from .arguments import distinct_names, report_parser
from .blocks import (
    Block,
    details,
    facts,
    joined,
    legend,
    paragraph,
    raw,
    settings_table,
    table,
    tiles,
)
from .browser import Part, Problem, Sample, mark_answer, sample_browser
from .figures import SERIES, figure, line_style, plotting
from .page import Page

__all__ = [
    "SERIES",
    "Block",
    "Page",
    "Part",
    "Problem",
    "Sample",
    "details",
    "distinct_names",
    "facts",
    "figure",
    "joined",
    "legend",
    "line_style",
    "mark_answer",
    "paragraph",
    "plotting",
    "raw",
    "report_parser",
    "sample_browser",
    "settings_table",
    "table",
    "tiles",
]
