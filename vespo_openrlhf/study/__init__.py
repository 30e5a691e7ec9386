"""The stability study: does staleness bring a loss down? On a laptop, on the stack's own losses.

cells.py is what a run is and presets.py which ones are run, task.py, model.py and warm_start.py
what is trained, trainer.py one run, runner.py and store.py many, statistics.py and analysis.py what
they say, figures.py, tables.py and page.py how it is shown, claims.py the tables of docs/study.
`python -m vespo_openrlhf.study --help` is the way in.
"""
