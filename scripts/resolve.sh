#!/usr/bin/env bash
# Does requirements.txt, the GPU machine's, still have a solution on every Python it is meant for?
# Reads the index's metadata and downloads no wheel; part of scripts/test.sh. Where no index
# answers there is nothing to ask, and it says so and passes.
#
#   scripts/resolve.sh [REQUIREMENTS]
#
# UV_INDEX_URL, UV_EXTRA_INDEX_URL   uv's own variables: the index to ask (default: PyPI)
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;; esac

requirements=${1:-requirements.txt}
uv=.venv/bin/uv
[ -x $uv ] || uv=uv
settings=$(mktemp --suffix=.toml) log=$(mktemp)
trap 'rm -f "$settings" "$log"' EXIT
# flash-attn comes as source only, and its setup.py imports torch to say what it depends on. What
# it says is written here instead; that it builds is for the GPU machine to show.
cat >"$settings" <<TOML
[[dependency-metadata]]
name = "flash-attn"
version = "$(sed -n 's/^flash-attn==//p' requirements.txt)"
requires-dist = ["torch", "einops"]
TOML
for python in 3.10 3.11 3.12; do
  if "$uv" pip compile --quiet --config-file "$settings" --python-version $python \
    --python-platform x86_64-manylinux_2_28 --no-header "$requirements" >/dev/null 2>"$log"; then
    echo "[resolve] $requirements on Python $python: a solution"
  elif grep -qiE 'error sending request|failed to fetch|dns|timed out|connect' "$log" &&
    ! grep -q 'No solution' "$log"; then
    echo "[resolve] no package index answers: not checked"
    exit 0
  else
    echo "[resolve] $requirements has no solution on Python $python:" >&2
    cat "$log" >&2
    exit 1
  fi
done
