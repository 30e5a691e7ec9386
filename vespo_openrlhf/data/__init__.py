"""Prompts in, prompts out: training data prepared, and checked before a run may start on it.

`python -m vespo_openrlhf.data prepare NAME` makes Parquet that training reads: `sources` says where
each dataset is and how a row reads, `overlap` finds problems that a benchmark has too, `prepare`
puts the steps together, `card` writes down what happened. `checks` looks at a run's model, reward
and prompts before Ray starts. `reading` reads files and hub datasets, for these and for `eval`.
"""
