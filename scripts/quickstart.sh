#!/usr/bin/env bash
# From a fresh clone to a trained reasoning model: installs what this machine needs into .venv,
# then builds a tiny model and its data, trains it with VESPO through `ray job submit`, and
# evaluates it before and after. Run again, it skips what is done.
#
#   scripts/quickstart.sh [--cpu] [--seed N] [--out DIR] ...      (--help lists the rest)
set -euo pipefail
cd "$(dirname "$0")/.."

install=()
for argument in "$@"; do
  if [ "$argument" = --cpu ]; then install+=(--cpu); fi
done
scripts/install.sh "${install[@]}"
exec .venv/bin/python -m vespo_openrlhf.quickstart "$@"
