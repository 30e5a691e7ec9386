"""Our own options, beside OpenRLHF's: their flags, their defaults and their help.

Each group is a frozen dataclass that validates itself; its fields become flags
`--{group}.{field}`, dotted as OpenRLHF's are.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vespo_openrlhf.losses.kernel import KernelCoefficients
from vespo_openrlhf.losses.registry import POLICY_LOSS_NAMES, option_defaults
from vespo_openrlhf.reward.options import LANGUAGES, RewardOptions
from vespo_openrlhf.scheduling.lag import LagOptions
from vespo_openrlhf.scheduling.options import RolloutOptions


@dataclass(frozen=True)
class LossOptions:
    """What every policy loss of ours may be given, beside options of its own."""

    anchor: Literal["rollout", "old"] = "rollout"
    length_normalisation: Literal["none", "sqrt", "full"] = "none"
    recompute_old_log_probs: bool = False
    on_nonfinite: Literal["stop", "skip"] = "stop"
    loss_options: Mapping[str, str] = field(default_factory=dict)


#: Options of losses that have a flag of their own; --vespo.loss_options takes all the others.
LOSS_OPTION_FLAGS = {
    "anchor": "--vespo.anchor",
    "length_normalisation": "--vespo.length_normalisation",
    "loss_agg_mode": "--actor.loss_agg_mode",
    "clip_low": "--actor.eps_clip_low_high LOW HIGH",
    "clip_high": "--actor.eps_clip_low_high LOW HIGH",
    "dual_clip": "--actor.dual_clip",
} | {spec.name: f"--vespo.{spec.name}" for spec in dataclasses.fields(KernelCoefficients)}


def _own_loss_options() -> str:
    """The options that --vespo.loss_options takes, by loss, with their defaults."""
    lists = []
    for name in POLICY_LOSS_NAMES:
        own = {k: v for k, v in option_defaults(name).items() if k not in LOSS_OPTION_FLAGS}
        # ppo's own need --vespo.anchor old, and then the loss is OpenRLHF's.
        if own and name != "ppo":
            lists.append(f"{name}: {' '.join(f'{k}={v}' for k, v in own.items())}")
    return "; ".join(lists)


@dataclass(frozen=True)
class EngineOptions:
    """What the engines must keep to."""

    weight_tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.weight_tolerance is not None and not self.weight_tolerance >= 0:
            raise ValueError(
                f"vllm.weight_tolerance must be 0 or more, not {self.weight_tolerance:g}: it is a "
                "difference of log-probs, and 0 means no check"
            )


@dataclass(frozen=True)
class ActorOptions:
    """How the policy and its reference are computed."""

    log_prob_head: Literal["chunked", "full"] = "chunked"


@dataclass(frozen=True)
class PromptOptions:
    """What becomes of the prompts, beside OpenRLHF's --data flags."""

    overlong_prompts: Literal["refuse", "skip"] = "refuse"


@dataclass(frozen=True)
class RunOptions:
    """Where a run leaves what it made."""

    dir: str | None = None


@dataclass(frozen=True)
class NodeOptions:
    """Which nodes of a Ray cluster a run uses for what, by their labels."""

    trainer: Mapping[str, str] = field(default_factory=dict)
    rollout: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FlagGroup:
    """A dataclass of options and how `--help` presents it.

    A field's type says how its flag is read: bool, int, float, str, one of these or None, a
    Literal, a tuple of them, or a mapping of names to strings (written NAME=VALUE).

    Args:
        prefix: of the flags; two groups may share one.
        title: of the section in `--help`.
        options: the dataclass; its defaults make a valid instance.
        help: an entry for every field.
        choices: for fields of few values whose type does not list them.
        defaults: gives the instance whose values the flags default to; None: `options()`.
    """

    prefix: str
    title: str
    options: type
    help: Mapping[str, str]
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    defaults: Callable[[], Any] | None = None


GROUPS = (
    FlagGroup(
        "vespo",
        "VESPO: phi(W) = W^c1 exp(c2 (1 - W)), with --actor.policy_loss_type vespo",
        KernelCoefficients,
        {
            "c1_pos": "power of W where the advantage is >= 0; 0 or more, and below 1 "
            "what the policy has given up weighs without bound against what it samples itself",
            "c2_pos": "decay in W where the advantage is >= 0; above 0",
            "c1_neg": "power of W where the advantage is < 0; as c1_pos",
            "c2_neg": "decay in W where the advantage is < 0; above 0",
        },
    ),
    FlagGroup(
        "vespo",
        "policy losses: VESPO and its rivals",
        LossOptions,
        {
            "anchor": "what the importance weight starts from: rollout (the log-probs the engine "
            "sampled with) or old (the trainer's recomputation, which knows nothing of the lag)",
            "length_normalisation": "log W divided by 1 (none), the square root of the length "
            "(sqrt) or the length (full): ablations of VESPO; its paper's TOPR is topr with full",
            "recompute_old_log_probs": "recompute old_log_probs although the loss does not read "
            "them: one more forward pass, for the metrics that tell lag from engine mismatch",
            "on_nonfinite": "a loss or gradient norm that is not finite: stop the run, or skip the "
            "update; either way its batch is saved in the checkpoint folder",
            "loss_options": "options of the loss that have no flag of their own, and of a loss of "
            f"your own all of its keyword arguments. With their defaults: {_own_loss_options()}",
        },
    ),
    FlagGroup(
        "lag",
        "lag: how old a trained token may be, in optimizer updates, with --train.async_enable",
        LagOptions,
        {
            "max": "L, the bound on the lag of the oldest token of any trained sample: time on the "
            "engine, in the queue and in the batch all count. 0 is on-policy and needs one update "
            "per rollout batch; higher lets engines and trainer wait less (default: the least "
            "that lets the next batch be generated while one trains, 2N - 1 for N updates per "
            "rollout batch)",
            "on_stale": "about a group that would become too old: the trainer waits for it (wait); "
            "it is dropped and its prompt sent again, at most twice (drop); it is trained all the "
            "same and counted, which makes the bound soft (keep)",
            "sync_every": "k, updates from one weight sync to the next; above N it adds to the lag "
            "(default: one sync per rollout batch, k = N)",
            "target_ess": "steer the working lag, within --lag.max, to this effective sample size "
            "of the importance weights, as a share of the batch between 0 and 1 (default: the "
            "working lag is --lag.max)",
            "kv": "the KV cache of unfinished responses when an engine takes new weights, with "
            "--train.partial_rollout_enable: recompute it, so that a token depends on the weights "
            "of its version alone; or keep it, which costs nothing, and later tokens attend to "
            "what older weights made of the earlier ones",
            "policy": "what decides when a prompt is sent and where, which groups train next, and "
            "when the engines take new weights: bounded keeps to --lag.max; fifo has no bound, and "
            "the lag is what comes of it; or a class of yours, as package.module:Class or "
            "path/to/file.py:Class",
        },
    ),
    FlagGroup(
        "rollout",
        "streaming: groups are dispatched one by one and scored as they finish",
        RolloutOptions,
        {
            "in_flight_per_engine": "sequences kept in flight on each engine, at most; fewer make "
            "each faster, so that long responses fit into a tighter --lag.max",
            "reward_timeout": "seconds after which a sample without a verdict is given up: it is "
            "left out of its group",
            "engine_timeout": "seconds without a new token, or without an answer, after which an "
            "engine that has work is taken for hung: it is killed, started again with the present "
            "weights, and its prompts are sent again",
        },
    ),
    FlagGroup(
        "vllm",
        "engines: the weights are checked where they arrive",
        EngineOptions,
        {
            "weight_tolerance": "how far an engine's log-probs of the tokens it samples may be "
            "from the trainer's at the same weights, as a mean absolute difference in nats; tried "
            "on a few tokens after the first sync and whenever an engine has joined, and above it "
            "the run stops. 0: no check (default: 1e-4 in float32, 0.1 in bfloat16 and float16; "
            "raise it for engines that are meant to differ)"
        },
    ),
    FlagGroup(
        "actor",
        "log-probs of the policy and its reference",
        ActorOptions,
        {
            "log_prob_head": "how they are computed from the last hidden states: a block of logits "
            "at a time, and only where a response's token is predicted (chunked), or by way of all "
            "logits, as OpenRLHF does (full). Values and gradients are the same to rounding; full "
            "it is in any case with ring attention, tensor parallelism, deepcompile, images, and "
            "models that do with their logits what the head does not know",
        },
    ),
    FlagGroup(
        "data",
        "prompts",
        PromptOptions,
        {
            "overlong_prompts": "a prompt with more tokens, chat template and all, than "
            "--data.max_len less --rollout.max_new_tokens leaves would lose its beginning: do not "
            "start (refuse), or leave it out (skip); the trainer's log then has its row, and rows "
            "are numbered without it",
        },
    ),
    FlagGroup(
        "reward",
        "reward, with --reward.remote_url reward/math_reward.py or a make_reward_func of yours; "
        "see reward/README.md. What REWARD_OPTIONS in the environment sets is the default here",
        RewardOptions,
        {
            "require_box": "an answer must stand in \\boxed{}; false also takes one that follows "
            '"answer:"',
            "timeout_s": "seconds one comparison may run before its process is killed",
            "sources": "labels of this source are scored by a function of yours, "
            "score(response, label, prompt): gsm8k=path/to/file.py:score",
            "tokenizer": "name or path of the tokenizer that counts tokens for "
            "--reward.overlong_max",
            "overlong_max": "DAPO's soft overlong punishment: the longest response in tokens, 0 "
            "for none",
            "overlong_buffer": "tokens before --reward.overlong_max over which the punishment "
            "grows to its full",
            "overlong_penalty": "that full punishment",
            "truncation_penalty": "taken off where the response does not end its turn",
            "format_reward": "given for one <think> block with an answer after it",
            "repetition_penalty": "times the share of n-grams that are repeats, taken off",
            "repetition_ngram": "the n, in words",
            "language": "what the answer's prose must be written in",
            "language_penalty": "times the share of letters in another script, taken off",
            "clip_low": "the reward with all terms is clipped to at least this",
            "clip_high": "and to at most this",
        },
        {"language": LANGUAGES},
        RewardOptions.from_env,
    ),
    FlagGroup(
        "run",
        "run folder",
        RunOptions,
        {
            "dir": "a folder for all that the run leaves: the resolved flags (config.json), "
            "metrics.jsonl, tensorboard/, checkpoints/ and the final model/, unless OpenRLHF's "
            "own flag for one of them says otherwise. One process at a time holds it, and what a "
            "resume goes back behind moves to superseded/ in it"
        },
    ),
    FlagGroup(
        "nodes",
        "nodes: which of a Ray cluster's nodes are used for what, by the labels they were started "
        "with (scripts/ray-node.sh worker HEAD:6379 --labels group=rollout); see "
        "docs/scaling-out.md",
        NodeOptions,
        {
            "trainer": "labels of the nodes whose GPUs take the models that are trained or asked "
            "in training: policy, critic, reference and reward model; with --train.colocate_all "
            "also the engines (default: any nodes)",
            "rollout": "labels of the nodes whose GPUs take the engines (default: any nodes)",
        },
    ),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every option of ours to `parser`, in titled groups at the end.

    Raises:
        ValueError: the environment sets an option that is unknown or out of range.
    """
    for group in GROUPS:
        section = parser.add_argument_group(group.title)
        defaults = (group.defaults or group.options)()
        hints = typing.get_type_hints(group.options)
        for spec in dataclasses.fields(group.options):
            flag, text = f"--{group.prefix}.{spec.name}", group.help[spec.name].replace("%", "%%")
            default = getattr(defaults, spec.name)
            if spec.default is False:
                section.add_argument(flag, action="store_true", default=default, help=text)
                continue
            if default not in (None, "", {}, ()):
                shown = str(default).lower() if isinstance(default, bool) else default
                text += f" (default: {shown})"
            section.add_argument(
                flag,
                help=text,
                **_argument(spec.name, hints[spec.name], default, group.choices.get(spec.name)),
            )


def _argument(name: str, hint: Any, default: Any, choices: Sequence[str] | None) -> dict[str, Any]:
    """What `add_argument` needs to read a value of the type `hint`."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (hint,) = (member for member in members if member is not type(None))
        return _argument(name, hint, default, choices)
    if hint is bool:
        return {"type": _boolean, "default": default, "metavar": "{true,false}"}
    if origin is tuple:
        return _argument(name, members[0], default, choices) | {"nargs": "+"}
    if origin is Mapping:
        # A list in the flags, because OpenRLHF makes a namespace of every dict among them.
        pairs = [f"{key}={value}" for key, value in default.items()]
        return {"type": _pair, "nargs": "+", "default": pairs, "metavar": "NAME=VALUE"}
    if origin is Literal:
        hint, choices = type(members[0]), members
    assert hint in (int, float, str), f"no flag can be made of {name}: {hint}"
    metavar = None if choices else name.upper()
    return {"type": hint, "default": default, "choices": choices, "metavar": metavar}


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false") from None


def _pair(text: str) -> str:
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return text


def kernel_options(flags: Mapping[str, Any]) -> dict[str, float]:
    """The kernel's coefficients from parsed flags (dotted names), checked.

    Raises:
        ValueError: one is out of range; the message names the flag.
    """
    try:
        coefficients = KernelCoefficients(**_fields(KernelCoefficients, "vespo", flags))
    except ValueError as error:
        raise ValueError(f"--vespo.{error}") from error
    return dataclasses.asdict(coefficients)


def loss_options(flags: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`--vespo.loss_options` from parsed flags (dotted names), each value as its default's type.

    Args:
        flags: every flag.
        defaults: the options of the loss that is asked for, with their defaults. An option that
            is not among them is kept: the loss says what it thinks of it.

    Raises:
        ValueError: an option is given twice, has a flag of its own, or a value of another type.
    """
    options: dict[str, Any] = {}
    own_loss = ":" in flags["actor.policy_loss_type"]
    for pair in flags["vespo.loss_options"]:
        name, text = pair.split("=", 1)
        if name in options:
            raise ValueError(f"--vespo.loss_options gives {name} twice")
        if name in LOSS_OPTION_FLAGS and not own_loss:
            raise ValueError(
                f"--vespo.loss_options {pair}: write {LOSS_OPTION_FLAGS[name]}, the flag of "
                "this option"
            )
        try:
            options[name] = _value(text, defaults.get(name))
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"--vespo.loss_options {pair}: {error}") from None
    return options


def _value(text: str, default: Any) -> Any:
    """`text` as a value of the type of `default`; a number or a word where that says nothing."""
    if isinstance(default, bool):
        return _boolean(text)
    if isinstance(default, str):
        return text
    try:
        return int(text) if isinstance(default, int) else float(text)
    except ValueError:
        if isinstance(default, int | float):
            kind = "whole number" if isinstance(default, int) else "number"
            raise ValueError(f"expected a {kind}, such as {default}") from None
        return text


def lag_options(flags: Mapping[str, Any]) -> LagOptions:
    """`--lag.*` from parsed flags (dotted names), checked.

    Raises:
        ValueError: one is out of range; the message names it. Whether the bound can be kept with
            the run's batch sizes is for `scheduling.LagBudget` to say.
    """
    try:
        return LagOptions(**_fields(LagOptions, "lag", flags))
    except ValueError as error:
        raise ValueError(f"--{error}") from error


def rollout_options(flags: Mapping[str, Any]) -> RolloutOptions:
    """`--rollout.*` of ours from parsed flags (dotted names), checked.

    Raises:
        ValueError: one is out of range; the message names the flag.
    """
    try:
        return RolloutOptions(**_fields(RolloutOptions, "rollout", flags))
    except ValueError as error:
        raise ValueError(f"--rollout.{error}") from error


def chunked_log_probs(flags: Mapping[str, Any]) -> bool:
    """Whether log-probs are computed without all the logits, for models that the head can take."""
    return (
        flags["actor.log_prob_head"] == "chunked"
        and flags["ds.ring_attn_size"] == flags["ds.tensor_parallel_size"] == 1
        and not flags["ds.deepcompile"]
    )


def engine_options(flags: Mapping[str, Any]) -> EngineOptions:
    """`--vllm.*` of ours from parsed flags (dotted names), checked.

    Raises:
        ValueError: one is out of range; the message names it.
    """
    try:
        return EngineOptions(**_fields(EngineOptions, "vllm", flags))
    except ValueError as error:
        raise ValueError(f"--{error}") from error


def reward_options(flags: Mapping[str, Any]) -> RewardOptions:
    """The reward's options from parsed flags (dotted names), checked.

    Raises:
        ValueError: one is out of range, or needs another; the message names it.
    """
    values = _fields(RewardOptions, "reward", flags)
    values["sources"] = dict(pair.split("=", 1) for pair in values["sources"])
    try:
        return RewardOptions(**values)
    except ValueError as error:
        raise ValueError(f"--reward.{error}") from error


def _fields(options: type, prefix: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    names = [spec.name for spec in dataclasses.fields(options)]
    return {name: flags[f"{prefix}.{name}"] for name in names}
