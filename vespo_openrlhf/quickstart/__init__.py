"""One command from nothing to a trained model: what `scripts/quickstart.sh` runs.

`pipeline` is the order of things, `cluster` a local Ray that is stopped again whatever happens,
`job` the submission and its progress, `plot` the picture of the run.
"""
