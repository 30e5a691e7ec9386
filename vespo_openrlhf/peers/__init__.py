"""Our loop beside its peers on one machine: stock OpenRLHF and TRL, the same job for each.

`task` says what is trained, at two sizes, and `uneven` makes the larger one's model and data.
`stacks` starts each peer and reads what it recorded; `stock` is OpenRLHF with nothing of ours,
`trl_run` the only module that runs in TRL's own environment, which `trl_env` makes. `watch`
looks at a process and its children, `figures` works out what is compared. The way in is
`scripts/bench_peers.py`.
"""
