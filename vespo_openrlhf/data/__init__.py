"""Prompts in, prompts out: training data prepared, and checked before a run may start on it.

`python -m vespo_openrlhf.data prepare NAME` makes Parquet that training reads: `sources` says where
each dataset is and how a row reads, `steps` drop rows (by `overlap` those of the benchmarks, which
`kept_out` reads), `account` counts them, `publish` writes what is left, and its data `card`.
`checks` and `lengths` look at a run's reward and prompts before Ray starts.
"""
