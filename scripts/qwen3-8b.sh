#!/usr/bin/env bash
# Qwen3-8B-Base, synchronous, with the lengths and batches of the paper.
#
#   scripts/qwen3-8b.sh [FLAG...]
#
# 16 GPUs of 80 GB (2 nodes), trainer and engines in turn on all of them; N = 4 unless set.
#
# Not as in the paper: ZeRO-3 instead of Megatron. For a dense model of this size it costs little:
# 16 GB of weights are gathered per pass, hidden behind some seconds of computing per micro-batch.
# shellcheck source=recipe.sh
source "$(dirname "$0")/recipe.sh"
setup Qwen/Qwen3-8B-Base dapo-math-17k
paper

# Trainer: 16 shards.
trainer 16384
flags+=(--actor.num_nodes 2 --actor.num_gpus_per_node 8 --ds.zero_stage 3)
# Engines: one per GPU, in turn with the trainer.
in_turn
flags+=(--vllm.num_engines 16 --vllm.tensor_parallel_size 1 --vllm.gpu_memory_utilization 0.8)
submit "$@"
