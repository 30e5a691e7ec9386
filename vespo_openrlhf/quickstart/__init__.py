"""One command from nothing to a trained model: what `scripts/quickstart.sh` runs.

`pipeline` is the order of things, `local_ray` a Ray that is stopped again whatever happens,
`job` the submission and its progress, `plot` the picture of the run.
"""
