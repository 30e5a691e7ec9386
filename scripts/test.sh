#!/usr/bin/env bash
# Sets itself up, then runs every check: lint, types, whether requirements.txt can be resolved, whether
# the documentation can be built, and all tests. Arguments go to pytest:
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
[ $# -eq 0 ] || exec $bin/python -m pytest "$@"
scripts/resolve.sh
$bin/python scripts/docs_site.py
# The unit tests side by side, one to a core. The others two at a time, as most start the whole stack,
# and one alone leaves a third of two cores idle.
OMP_NUM_THREADS=1 $bin/python -m pytest tests/unit -n logical --maxprocesses 8 --dist loadfile
exec $bin/python -m pytest tests/integration tests/e2e -n 2 --dist loadfile --durations 40
