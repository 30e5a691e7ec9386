# Sourced by the recipes beside it: what they share. A recipe begins with `setup MODEL DATASET`,
# adds flags of its own to the array `flags`, and ends in `submit "$@"`: one `ray job submit`.
#
# Environment of every recipe:
#   MODEL      model folder or hub id, as the cluster's nodes see it
#   DATA       prompts: JSONL or Parquet with the columns prompt and label
#   EVAL_DATA  problems that the paper's recipes evaluate in training, columns as in DATA (default:
#              the validation split that was prepared with DATA; with a DATA of your own none)
#   RUN_DIR    run folder, on storage that every node sees; started again with the same one, a run
#              goes on from its last checkpoint, so runs that differ in flags need folders that
#              differ (default: runs/RECIPE-LOSS-nN; a MODEL, LORA_RANK or ROUTING_REPLAY that is
#              given comes after RECIPE)
#   LOSS       vespo, or a rival with the settings of the paper: grpo, gspo, sapo, topr (W^(1/T) in
#              place of W; --vespo.length_normalisation none for the canonical one); or any other
#              name that --actor.policy_loss_type knows
#   LORA_RANK  train adapters of this rank (32, say) in the place of all weights, at ten times the
#              learning rate
#   ROUTING_REPLAY   of a mixture of experts: off, as in the paper's main runs and the published
#              scripts (default); engine, and the trainer's token goes through the experts it took in
#              the engine: R3 of the paper's figure 5. W is then free of what the two sides chose
#              differently. The figure's R2, the choice of the trainer's own old weights, is not here
#   MINI_BATCH, SAMPLES, N   prompts per update, responses per prompt, updates per rollout batch
#              (of Table 1: 256, 8, 8)
#   WITHOUT    names of flags to leave out, without dashes: "ds.packing_samples vllm.enable_sleep"
#   PYTHON     the nodes' interpreter (default: .venv/bin/python of this clone, else python)
#   RAY_API_SERVER_ADDRESS   the cluster (Ray's own variable; default: http://127.0.0.1:8265)
#
# What follows on the command line is appended, and wins over the recipe:
#   RUN_DIR=runs/faster scripts/qwen3-8b.sh --actor.adam.lr 2e-6 --train.seed 1
# Will it fit, and how long will it take?   python -m vespo_openrlhf.check scripts/qwen3-8b.sh
# shellcheck shell=bash
set -euo pipefail
recipe=$(basename "$0" .sh)
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

_header() { sed -n "2,/^[^#]/{/^[^#]/d;/shellcheck/d;s/^# \{0,1\}//;p}" "$1"; }
case ${1:-} in -h | --help)
  _header "$0"
  echo
  sed -n '/^# Environment/,/^# shellcheck/{/shellcheck/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
  exit 0
  ;;
esac

flags=()

# setup MODEL DATASET: model, data, loss and batches, unless the environment says otherwise.
setup() {
  if [[ -z ${DATA:-} ]]; then
    DATA=$repository/data/$2/train.parquet
    : "${EVAL_DATA=$repository/data/$2/validation.parquet}"
  fi
  : "${MODEL:=$1}" "${LOSS:=vespo}"
  : "${MINI_BATCH:=256}" "${SAMPLES:=8}" "${N=4}"
  [[ $MODEL == "$1" ]] || recipe+=-$(basename "$MODEL")
  recipe+=${LORA_RANK:+-lora$LORA_RANK}
  case $N in '' | *[!0-9]* | 0*) echo "$recipe: N is a number of updates, got '$N'" >&2; exit 2 ;; esac

  # Prompts as chat, with rule-based rewards.
  flags+=(
    --actor.model_name_or_path "$MODEL"
    --data.prompt_dataset "$DATA" --data.input_key prompt --data.label_key label
    --data.apply_chat_template --reward.remote_url "$repository/reward/math_reward.py"
  )
  # The loss. Each has the clips, temperatures, exponents and mean over tokens or sequences it was
  # published with by default; the paper's TOPR alone is not the published one.
  # Reward minus the group's mean, over its standard deviation; no KL penalty, no entropy bonus.
  flags+=(
    --actor.policy_loss_type "${LOSS/#grpo/ppo}"
    --algo.advantage.estimator group_norm --algo.kl.init_coef 0
  )
  if [[ $LOSS == topr ]]; then flags+=(--vespo.length_normalisation full); fi
  # N updates on each rollout batch. OpenRLHF counts a rollout batch in prompts and a training
  # batch, one update, in responses. A checkpoint every 64 updates, or as near as N allows. The
  # responses to a prompt share its KV cache.
  every=$((N < 64 ? 64 / N : 1))
  flags+=(
    --rollout.batch_size $((N * MINI_BATCH)) --rollout.n_samples_per_prompt "$SAMPLES"
    --vllm.enable_prefix_caching
    --train.batch_size $((MINI_BATCH * SAMPLES)) --ckpt.save_steps "$every"
  )
}

# The paper's lengths, and 24 passes over 16,384 prompts: 1,536 updates (the paper: 1,500). Prompts
# above 1,024 tokens are left out. The paper reports the best checkpoint of each method: the model of
# every checkpoint is kept, for `vespo eval watch` to choose from, and EVAL_DATA evaluated with it.
paper() {
  lengths 1024 15360
  flags+=(--data.max_samples 16384 --train.num_episodes 24 --data.overlong_prompts skip)
  flags+=(--ckpt.save_hf)
  if [[ -n ${EVAL_DATA:-} ]]; then
    flags+=(
      --eval.dataset "$EVAL_DATA" --eval.steps "$every"
      --eval.temperature 1.0 --eval.n_samples_per_prompt 4 --ckpt.best_metric_key none
    )
  fi
}

# lengths PROMPT RESPONSE, in tokens, and sampling from the whole distribution, which W needs.
lengths() {
  flags+=(
    --data.max_len $(($1 + $2)) --rollout.max_new_tokens "$2"
    --rollout.temperature 1.0 --rollout.top_p 1.0
  )
}

# The published optimizer, ZeRO with recomputed activations, sequences packed up to $1 tokens. With
# LORA_RANK ten times its learning rate; alpha stays, which makes that do for any rank.
trainer() {
  local lr=1e-6
  if [[ -n ${LORA_RANK:-} ]]; then
    lr=1e-5
    flags+=(--ds.lora.rank "$LORA_RANK" --ds.lora.alpha 32)
  fi
  flags+=(
    --actor.adam.lr "$lr" --actor.lr_scheduler constant --actor.lr_warmup_ratio 0
    --actor.adam.betas 0.9 0.999 --actor.adam.weight_decay 0.01
    --actor.gradient_checkpointing_enable
    --ds.packing_samples --train.dynamic_batch_enable --train.max_tokens_per_gpu "$1"
    --rollout.max_tokens_per_gpu "$1"
  )
}

# A mixture of experts: whose choice of experts is trained.
mixture() {
  : "${ROUTING_REPLAY:=off}"
  [[ $ROUTING_REPLAY == off ]] || recipe+=-replay-$ROUTING_REPLAY
  flags+=(--moe.routing_replay "$ROUTING_REPLAY")
}

# Weights, gradients and optimizer in shards; gradients of micro-batches are added up in float32, as
# in the published code (DeepSpeed's default is the weights' bfloat16, and ZeRO-2 knows no other).
sharded() { flags+=(--ds.zero_stage 3 --ds.grad_accum_dtype fp32); }

# Synchronous: trainer and engines on the same GPUs, in turn. Engines sleep while the trainer works,
# as its optimizer does while they do.
#
# W starts from the trainer's own log-probs of the rollout batch, as in the published synchronous
# scripts, for every method that the paper runs: it measures the batch's updates, and not what engine
# and trainer make differently of the same weights. --vespo.anchor rollout measures both. Other losses
# keep their own anchor.
in_turn() {
  flags+=(--train.colocate_all --vllm.enable_sleep --ds.enable_sleep)
  case $LOSS in vespo | grpo | gspo | sapo | topr | cispo | bapo) flags+=(--vespo.anchor old) ;; esac
}

# Left out of `flags`: what WITHOUT names, with its values.
_without() {
  local kept=() flag keep=1
  for flag in "${flags[@]}"; do
    if [[ $flag == --* ]]; then
      keep=1
      [[ " ${WITHOUT:-} " == *" ${flag#--} "* ]] && keep=
    fi
    [ $keep ] && kept+=("$flag")
  done
  flags=("${kept[@]}")
}

# submit [FLAG...]: `ray job submit` with the flags so far and those of the user.
submit() {
  local run=${RUN_DIR:-$repository/runs/$recipe-$(basename "$LOSS")-n$N}
  local python=$repository/.venv/bin/python
  [ -x "$python" ] || python=python
  command -v ray >/dev/null || PATH=$PATH:$repository/.venv/bin
  flags+=(--run.dir "$run" --ckpt.max_num 2 --ckpt.load_enable)
  _without
  exec ray job submit -- "${PYTHON:-$python}" -m vespo_openrlhf.train "${flags[@]}" "$@"
}
