"""What results say: to look at, to publish, and against one another.

`folders` reads what `vespo eval run` wrote. For the HTML page `figures` and `heatmap` draw,
`samples` chooses what can be leafed through, `page` puts it together; `markdown` makes tables for a
paper, `tables` for a terminal. `comparison` tests whether runs differ, `best` names the best
checkpoint, and `curve` draws all of them.
"""
