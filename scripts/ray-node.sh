#!/usr/bin/env bash
# Makes this machine a node of a Ray cluster, for the recipes that take several. By hand:
#
#   scripts/ray-node.sh head                  on the first node; prints the address of the others
#   scripts/ray-node.sh worker HEAD:6379      on each other node
#   scripts/qwen3-8b.sh                       on the first node
#
# Every node needs this repository and the model at the same paths, installed with
# scripts/install.sh. What follows is passed on to `ray start`; --block keeps it in the foreground,
# --labels group=rollout makes it a node that a run's --nodes.rollout group=rollout chooses.
# Stop a node with `ray stop`. Under SLURM, scripts/ray.slurm does all of it.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
command -v ray >/dev/null || PATH=$PATH:$repository/.venv/bin
cd "$repository"

case ${1:-} in
  head)
    shift
    # The dashboard takes jobs, and whoever reaches it runs code: on this machine only.
    exec ray start --head --port 6379 --dashboard-host 127.0.0.1 --disable-usage-stats "$@"
    ;;
  worker)
    address=${2:?ray-node.sh: worker HEAD:6379}
    shift 2
    exec ray start --address "$address" --disable-usage-stats "$@"
    ;;
  *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; [[ ${1:-} == -h || ${1:-} == --help ]] || exit 2 ;;
esac
