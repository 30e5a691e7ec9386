#!/usr/bin/env bash
# Sets itself up, then runs every check: lint, types, and all tests. Arguments go to pytest:
#
#   scripts/test.sh                 everything
#   scripts/test.sh tests/unit      seconds
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh --dev
bin=.venv/bin
$bin/ruff check .
$bin/ruff format --check .
$bin/mypy
exec $bin/python -m pytest "$@"
