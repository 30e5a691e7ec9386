#!/usr/bin/env bash
# Qwen3-30B-A3B-Base, fully asynchronous: 48 GPUs roll out while 16 train.
#
#   scripts/qwen3-30b-a3b-async.sh [FLAG...]
#
# 64 GPUs of 80 GB (8 nodes). N = 4 updates (unless set) of 256 prompts x 8 responses per rollout
# batch and one weight sync after them; engines take new weights in mid-response (partial rollout).
# No trained token is older than 2N - 1 = 7 updates: 3 within its batch and one batch of 4 ahead,
# which is the paper's staleness threshold of 1.0 made a hard bound on tokens. W starts from the
# engine's log-probs, as in the published asynchronous script: the trainer's, made anew with newer
# weights, would know nothing of the lag. The 24 models that are kept take 1.5 TB.
#
# Not as in the paper: ZeRO-3 instead of Megatron; see qwen3-30b-a3b-sync.sh. With 16 GPUs each
# holds 4 times the optimizer state it does there, and gathers as much: if the engines are idle
# (scheduler/engine_idle), move GPUs to the trainer with --actor.num_nodes 4
# --vllm.num_engines 16. What else differs, and why: docs/fidelity.md.
# shellcheck source=recipe.sh
source "$(dirname "$0")/recipe.sh"
setup Qwen/Qwen3-30B-A3B-Base dapo-math-17k
paper
mixture

# Asynchronous, with the bound.
flags+=(
  --train.async_enable --train.partial_rollout_enable
  --lag.max $((2 * N - 1)) --lag.sync_every "$N" --lag.on_stale wait
)
# Trainer: 16 shards.
trainer 16384
flags+=(--actor.num_nodes 2 --actor.num_gpus_per_node 8)
sharded
flags+=(--actor.entropy_coef 0) # logged, and no part of the loss
# Engines: 24 of 2 GPUs.
flags+=(--vllm.num_engines 24 --vllm.tensor_parallel_size 2 --vllm.gpu_memory_utilization 0.9)
submit "$@"
