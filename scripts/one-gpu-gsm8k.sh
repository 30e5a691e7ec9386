#!/usr/bin/env bash
# Qwen3-0.6B on GSM8K with one GPU: the smallest run on a real model.
#
#   scripts/one-gpu-gsm8k.sh [FLAG...]
#   MODEL=Qwen/Qwen3-1.7B scripts/one-gpu-gsm8k.sh
#   MODEL=Qwen/Qwen3-4B LORA_RANK=32 scripts/one-gpu-gsm8k.sh
#
# One GPU of 24 GB for 0.6B, of 48 GB for 1.7B; with LORA_RANK of 24 GB for 1.7B, of 48 GB for 4B.
# Trainer and engine take turns on it, because asynchronous training takes two. An update takes 32
# prompts x 8 responses, N = 4 unless set.
#
# Not as in the paper: a smaller model, batch and response (2,048 tokens). ZeRO shards nothing on
# one GPU; stage 2 is here for its sleep, which moves the optimizer to the host and back. It adds up
# the gradients of micro-batches in bfloat16.
# shellcheck source=recipe.sh
source "$(dirname "$0")/recipe.sh"
: "${MINI_BATCH:=32}"
setup Qwen/Qwen3-0.6B gsm8k
lengths 512 2048
flags+=(--train.num_episodes 2)

trainer 4096
flags+=(--actor.num_nodes 1 --actor.num_gpus_per_node 1 --ds.zero_stage 2)
in_turn
flags+=(--vllm.num_engines 1 --vllm.gpu_memory_utilization 0.7)
submit "$@"
