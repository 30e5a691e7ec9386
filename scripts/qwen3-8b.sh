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
: "${MODEL:=Qwen/Qwen3-8B-Base}" "${DATA:=$repository/data/dapo-math-17k/train.parquet}" "${N:=4}"

flags+=(--actor.model_name_or_path "$MODEL" --data.max_samples 16384 --train.num_episodes 24)
math_data
lengths 1024 15360
loss
batch "$N"

# Trainer: 16 shards.
trainer 16384
flags+=(--actor.num_nodes 2 --actor.num_gpus_per_node 8 --ds.zero_stage 3)
# Engines: one per GPU, asleep while the trainer works.
flags+=(
  --train.colocate_all --vllm.num_engines 16 --vllm.tensor_parallel_size 1
  --vllm.gpu_memory_utilization 0.8 --vllm.enable_sleep --ds.enable_sleep
  --vllm.enable_prefix_caching
)
submit "$recipe-$LOSS-n$N" "$@"
