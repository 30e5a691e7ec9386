#!/usr/bin/env bash
# Qwen3-8B-Base on DAPO-Math-17k with 8 GPUs, asynchronous: 4 roll out while 4 train.
#
#   scripts/eight-gpu-dapo-math.sh [FLAG...]
#
# 8 GPUs of 80 GB (1 node). An update takes 32 prompts x 8 responses, N = 4 unless set; a weight
# sync after each rollout batch, engines take new weights in mid-response, and no trained token is
# older than 2N - 1 updates unless --lag.max says otherwise.
#
# Not as in the paper: responses of 8,192 tokens, updates 8 times smaller, ZeRO-3 where it trains
# dense models with FSDP, and asynchronous, which it tries on the mixture of experts alone. With 4
# shards, 37 GB of each GPU are weights, gradients and optimizer; where that is too much,
# --ds.adam_offload moves the optimizer to the host and makes an update some 10 s longer.
# shellcheck source=recipe.sh
source "$(dirname "$0")/recipe.sh"
: "${MINI_BATCH:=32}"
setup Qwen/Qwen3-8B-Base dapo-math-17k
lengths 1024 8192
flags+=(--data.max_samples 16384 --train.num_episodes 2)

# Asynchronous; --lag.max is 2N - 1 unless given.
flags+=(--train.async_enable --train.partial_rollout_enable)
trainer 9216
flags+=(--actor.num_nodes 1 --actor.num_gpus_per_node 4)
sharded
flags+=(--vllm.num_engines 4 --vllm.gpu_memory_utilization 0.9)
submit "$@"
