#!/usr/bin/env bash
# From a fresh clone to a trained reasoning model: installs what this machine needs into .venv,
# then builds a tiny model and its data, trains it with VESPO through `ray job submit`, and
# evaluates it before and after. Run again, it skips what is done.
#
#   scripts/quickstart.sh [--cpu] [--moe] [--agent] [--distill] [--seed N] [--batches N] [--out DIR]
#
#   --cpu        the CPU stack even where there is a GPU
#   --moe        a mixture of experts, Qwen3-MoE of the same width, in the place of the dense Qwen3
#   --agent      an agent of two turns, which learns to ask a calculator instead of guessing
#   --distill    a student half as wide, which learns from a teacher in the place of the reward
#   --seed N     of data, demonstrations and training (default: 0)
#   --batches N  rollout batches to train for (default: 16)
#   --out DIR    folder for everything (default: runs/quickstart-seedN,
#                with --moe runs/quickstart-moe-seedN, and so on)
set -euo pipefail
cd "$(dirname "$0")/.."

cpu=
for argument in "$@"; do
  case $argument in
    --cpu) cpu=--cpu ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
  esac
done
scripts/install.sh $cpu
exec .venv/bin/python -m vespo_openrlhf.quickstart "$@"
