# Sourced by the recipes beside it: what they share. Each builds an array `flags` and ends in
# `submit "$@"`, which hands it to `ray job submit`.
#
# Environment of every recipe:
#   MODEL      model folder or hub id, as the cluster's nodes see it
#   DATA       prompts: JSONL or Parquet with the columns prompt and label
#   RUN_DIR    run folder, on storage that every node sees; started again with the same one, a run
#              goes on from its last checkpoint (default: runs/NAME-LOSS[-nN])
#   LOSS       vespo, or a rival with the settings of the paper: grpo, gspo, sapo; or any other
#              name that --actor.policy_loss_type knows
#   MINI_BATCH, SAMPLES, N   prompts per update, responses per prompt, updates per rollout batch
#   WITHOUT    names of flags to leave out, without dashes: "ds.packing_samples vllm.enable_sleep"
#   PYTHON     the nodes' interpreter (default: .venv/bin/python of this clone, else python)
#   RAY_API_SERVER_ADDRESS   the cluster (Ray's own variable; default: http://127.0.0.1:8265)
#
# What follows on the command line is appended, and wins over the recipe:
#   LOSS=gspo scripts/qwen3-8b.sh --actor.adam.lr 2e-6 --train.seed 1
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

: "${LOSS:=vespo}" "${MINI_BATCH:=256}" "${SAMPLES:=8}"
flags=()

# The loss. Each has the clips, temperatures or exponents it was published with by default.
loss() {
  flags+=(--actor.policy_loss_type "${LOSS/#grpo/ppo}")
  # Reward minus the group's mean, over its standard deviation; no KL penalty, no entropy bonus.
  flags+=(--algo.advantage.estimator group_norm --algo.kl.init_coef 0)
}

# batch N: N updates on each rollout batch. OpenRLHF counts a rollout batch in prompts and a
# training batch, one update, in responses. A checkpoint every 64 updates, or as near as N allows.
batch() {
  case ${1:-} in '' | *[!0-9]* | 0) echo "$recipe: N is a number of updates, got '${1:-}'" >&2; exit 2 ;; esac
  flags+=(
    --rollout.batch_size $(($1 * MINI_BATCH)) --rollout.n_samples_per_prompt "$SAMPLES"
    --train.batch_size $((MINI_BATCH * SAMPLES)) --ckpt.save_steps $(($1 < 64 ? 64 / $1 : 1))
  )
}

# lengths PROMPT RESPONSE, in tokens, and sampling from the whole distribution, which W needs.
lengths() {
  flags+=(
    --data.max_len $(($1 + $2)) --rollout.max_new_tokens "$2"
    --rollout.temperature 1.0 --rollout.top_p 1.0
  )
}

# Prompts as chat, with rule-based rewards.
math_data() {
  flags+=(
    --data.prompt_dataset "$DATA" --data.input_key prompt --data.label_key label
    --data.apply_chat_template --reward.remote_url "$repository/reward/math_reward.py"
  )
}

# Constant learning rate, ZeRO with recomputed activations, sequences packed up to $1 tokens.
trainer() {
  flags+=(
    --actor.adam.lr 1e-6 --actor.lr_scheduler constant --actor.lr_warmup_ratio 0
    --actor.gradient_checkpointing_enable
    --ds.packing_samples --train.dynamic_batch_enable --train.max_tokens_per_gpu "$1"
    --rollout.max_tokens_per_gpu "$1"
  )
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

# submit RUN_NAME [FLAG...]: `ray job submit` with the flags so far and those of the user.
submit() {
  local run=${RUN_DIR:-$repository/runs/$1} python=$repository/.venv/bin/python
  shift
  [ -x "$python" ] || python=python
  command -v ray >/dev/null || PATH=$PATH:$repository/.venv/bin
  flags+=(--run.dir "$run" --ckpt.max_num 2 --ckpt.load_enable)
  _without
  exec ray job submit -- "${PYTHON:-$python}" -m vespo_openrlhf.train "${flags[@]}" "$@"
}
