#!/usr/bin/env bash
# Qwen3-30B-A3B-Base, synchronous, N updates on every rollout batch: the paper's main runs.
#
#   scripts/qwen3-30b-a3b-sync.sh N [FLAG...]      N = 4, 8, 16, 32 or 64
#
# 64 GPUs of 80 GB (8 nodes), trainer and engines in turn on all of them. An update takes 256
# prompts x 8 responses; 24 passes over 16,384 prompts make 1,536 updates (the paper: 1,500). The 24
# models that are kept take 1.5 TB.
#
# Not as in the paper: OpenRLHF trains with ZeRO-3 where the paper's framework has Megatron. ZeRO-3
# gathers all 61 GB of weights for each forward and each backward pass of each micro-batch, experts
# that no token chose included; expert parallelism moves tokens instead. It fits, the update is the
# same, but the trainer waits for the network: a few times slower, least on NVLink plus 400 Gb/s
# per GPU. Engine and trainer may choose different experts for a token, unless ROUTING_REPLAY is
# engine. As in the published synchronous scripts, W starts from the trainer's log-probs and does not
# see that; with --vespo.anchor rollout it does, and on long responses it then measures little else
# (docs/choosing-n-and-lag.md). At N = 64 a rollout batch is 131,072 responses: keep 150 GB of host
# memory free on the node of the job. What else differs, and why: docs/fidelity.md.
# shellcheck source=recipe.sh
source "$(dirname "$0")/recipe.sh"
N=${1:-${N:-}}
shift || true
setup Qwen/Qwen3-30B-A3B-Base dapo-math-17k
paper
mixture

# Trainer: 64 shards of weights, gradients and optimizer.
trainer 16384
flags+=(--actor.num_nodes 8 --actor.num_gpus_per_node 8)
sharded
flags+=(--actor.entropy_coef 0) # logged, and no part of the loss
# Engines: 32 of 2 GPUs, in turn with the trainer.
in_turn
flags+=(--vllm.num_engines 32 --vllm.tensor_parallel_size 2 --vllm.gpu_memory_utilization 0.8)
submit "$@"
