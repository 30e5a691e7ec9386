#!/usr/bin/env bash
# Makes .venv and installs what this machine needs: the GPU stack where there is an NVIDIA GPU,
# the CPU stack elsewhere. Does nothing when it has already been done for these requirements.
#
#   scripts/install.sh [--cpu] [--dev]
#
#   --cpu   the CPU stack even where there is a GPU
#   --dev   also what the checks need (scripts/test.sh)
#
# TORCH_INDEX_URL   a package index with CPU builds of torch, where yours has none; otherwise a
#                   CPU machine gets the ordinary build, which works and is some gigabytes larger
# PYTHON            the interpreter to make .venv with (default: python3), 3.10 or newer
set -euo pipefail
cd "$(dirname "$0")/.."

stack=cpu extras=
command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU && stack=gpu
for argument in "$@"; do
  case $argument in
    --cpu) stack=cpu ;;
    --dev) extras='[dev]' ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "install.sh: unknown argument $argument (see --help)" >&2; exit 2 ;;
  esac
done

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  { echo "install.sh: $python is older than 3.10; set PYTHON to a newer one" >&2; exit 2; }

[ -x .venv/bin/python ] || "$python" -m venv .venv
wanted=$(cat requirements*.txt pyproject.toml | cksum)" $PWD $stack"
# With what the checks need there is no less, so it serves those who do not ask for that too.
case $(cat .venv/installed 2>/dev/null) in "$wanted$extras" | "${wanted}[dev]") exit 0 ;; esac

pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
say() { printf '[install] %s\n' "$*"; }
say "torch ($stack stack)"
torch=$(grep -m1 '^torch==' requirements.txt)
"${pip[@]}" ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$torch"
if [ $stack = gpu ]; then
  say "OpenRLHF, Ray, DeepSpeed, vLLM; flash-attn may be built here, which takes a while"
  "${pip[@]}" ninja packaging wheel "setuptools>=77"
  "${pip[@]}" --no-build-isolation -r requirements.txt
else
  say "OpenRLHF, Ray, DeepSpeed, vLLM for the CPU (about 3 minutes the first time)"
  "${pip[@]}" -r requirements-cpu.txt
  "${pip[@]}" --no-deps -r requirements-cpu-nodeps.txt
fi
say "this project"
"${pip[@]}" -e ".$extras"
echo "$wanted$extras" >.venv/installed
