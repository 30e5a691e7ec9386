#!/usr/bin/env bash
# Llama-3.2-3B-Instruct, synchronous, with the lengths and batches of the paper's Table 1.
#
#   scripts/llama-3.2-3b.sh [FLAG...]
#
# 8 GPUs of 80 GB (1 node), trainer and engines in turn on all of them; N = 8 unless set. The model
# is behind a licence on the hub: log in there once, or give MODEL a folder. The 24 models that are
# kept take 160 GB.
#
# Not as in the paper: 8 GPUs where it has 32 H20; ZeRO-3 where it trains dense models with FSDP,
# which shards alike: 6 GB of weights are gathered per pass. What else differs, and why:
# docs/fidelity.md.
# shellcheck source=recipe.sh
source "$(dirname "$0")/recipe.sh"
: "${N=8}"
setup meta-llama/Llama-3.2-3B-Instruct dapo-math-17k
paper

# Trainer: 8 shards.
trainer 16384
flags+=(--actor.num_nodes 1 --actor.num_gpus_per_node 8)
sharded
flags+=(--actor.entropy_coef 0) # logged, and no part of the loss
# Engines: one per GPU, in turn with the trainer.
in_turn
flags+=(--vllm.num_engines 8 --vllm.tensor_parallel_size 1 --vllm.gpu_memory_utilization 0.8)
submit "$@"
