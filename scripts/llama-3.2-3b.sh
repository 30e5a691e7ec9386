#!/usr/bin/env bash
# Llama-3.2-3B-Instruct, synchronous, with the lengths and batches of the paper.
#
#   scripts/llama-3.2-3b.sh [FLAG...]
#
# 8 GPUs of 80 GB (1 node), trainer and engines in turn on all of them; N = 4 unless set. The model
# is behind a licence on the hub: log in there once, or give MODEL a folder.
#
# Not as in the paper: ZeRO-2 instead of Megatron. Weights and one bucket of gradients lie whole on
# each GPU (7.4 GB), only gradients and optimizer are shared; nothing is gathered in a pass.
# shellcheck source=recipe.sh
source "$(dirname "$0")/recipe.sh"
setup meta-llama/Llama-3.2-3B-Instruct dapo-math-17k
paper

# Trainer: data parallel over 8 GPUs.
trainer 16384
flags+=(--actor.num_nodes 1 --actor.num_gpus_per_node 8 --ds.zero_stage 2)
# Engines: one per GPU, in turn with the trainer.
in_turn
flags+=(--vllm.num_engines 8 --vllm.tensor_parallel_size 1 --vllm.gpu_memory_utilization 0.8)
submit "$@"
