#!/usr/bin/env bash
# Sets itself up, then runs every check: lint, types, whether requirements.txt can be resolved, and
# all tests. Arguments go to pytest:
#
#   scripts/test.sh                 everything
#   scripts/test.sh tests/unit      a few minutes
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh --dev
# The report pages are opened in a real browser; where there is none, those tests are skipped.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v chromium >/dev/null; then
  (apt-get update && apt-get install -y --no-install-recommends chromium) >/dev/null 2>&1 ||
    echo "test.sh: chromium could not be installed; the browser tests are skipped" >&2
fi
bin=.venv/bin
$bin/ruff check .
$bin/ruff format --check .
$bin/mypy
[ $# -gt 0 ] || scripts/resolve.sh
exec $bin/python -m pytest "$@"
