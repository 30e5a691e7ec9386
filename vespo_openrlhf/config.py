"""Our own options, beside OpenRLHF's: their flags, their defaults and their help.

Each group is a frozen dataclass; a field is the flag `--{group}.{field}`, dotted as OpenRLHF's are,
with its default, help and check.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from vespo_openrlhf.agents.options import AgentOptions
from vespo_openrlhf.losses.distillation import DistillOptions
from vespo_openrlhf.losses.kernel import KernelOptions
from vespo_openrlhf.losses.registry import POLICY_LOSS_NAMES, option_defaults
from vespo_openrlhf.options import Options, fields, option
from vespo_openrlhf.recorded.options import OfflineOptions
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.scheduling.lag import LagOptions
from vespo_openrlhf.scheduling.options import RolloutOptions

_Options = TypeVar("_Options", bound=Options)


#: Options of losses that have a flag of their own; --vespo.loss_options takes all the others.
LOSS_OPTION_FLAGS = {
    "anchor": "--vespo.anchor",
    "length_normalisation": "--vespo.length_normalisation",
    "loss_agg_mode": "--actor.loss_agg_mode",
    "clip_low": "--actor.eps_clip_low_high LOW HIGH",
    "clip_high": "--actor.eps_clip_low_high LOW HIGH",
    "dual_clip": "--actor.dual_clip",
} | {spec.name: f"--vespo.{spec.name}" for spec in dataclasses.fields(KernelOptions)}


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
class LossOptions(Options):
    """What every policy loss of ours may be given, beside options of its own."""

    anchor: Literal["rollout", "old"] = option(
        "rollout",
        "what the importance weight starts from: rollout (the log-probs the engine sampled with) "
        "or old (the trainer's recomputation, which knows nothing of the lag)",
    )
    length_normalisation: Literal["none", "sqrt", "full"] = option(
        "none",
        "log W divided by 1 (none), the square root of the length (sqrt) or the length (full): "
        "ablations of VESPO; its paper's TOPR is topr with full",
    )
    recompute_old_log_probs: bool = option(
        False,
        "recompute old_log_probs although the loss does not read them: one more forward pass, for "
        "the metrics that tell lag from engine mismatch",
    )
    on_nonfinite: Literal["stop", "skip"] = option(
        "stop",
        "a loss or gradient norm that is not finite: stop the run, or skip the update; either way "
        "its batch is saved in the checkpoint folder",
    )
    loss_options: Mapping[str, str] = option(
        factory=dict,
        help="options of the loss that have no flag of their own, and of a loss of your own all of "
        f"its keyword arguments. With their defaults: {_own_loss_options()}",
    )


@dataclass(frozen=True)
class EngineOptions(Options):
    """What the engines must keep to."""

    weight_tolerance: float | None = option(
        None,
        "how far an engine's log-probs of the tokens it samples may be from the trainer's at the "
        "same weights, as a mean absolute difference in nats; tried on a few tokens after the "
        "first sync and whenever an engine has joined, and above it the run stops. 0: no check "
        "(default: 1e-4 in float32, 0.1 in bfloat16 and float16; raise it for engines that are "
        "meant to differ)",
        at_least=0,
        because="it is a difference of log-probs, and 0 means no check",
    )
    verify_weights: bool = option(
        False,
        "after every sync, send all weights a second time, and have each engine compare its "
        "tensors, bit for bit, with those that an engine started from these weights would have: a "
        "weight that vLLM has packed, merged or tied in its own way, and that the sync did not "
        "reach, stops the run by its name. For a new model or version of vLLM, on a short run: a "
        "sync takes two to four times as long",
    )


@dataclass(frozen=True)
class MoeOptions(Options):
    """What is done about the choice of experts, of a policy that is a mixture of them."""

    routing_replay: Literal["off", "engine"] = option(
        "off",
        "which experts a token takes in training: those of the trainer's own router (off), or "
        "those that it took in the engine when it was sampled (engine), so that the importance "
        "weight measures lag, and not that the two sides round differently; see "
        "docs/mixture-of-experts.md",
    )


@dataclass(frozen=True)
class ActorOptions(Options):
    """How the policy and its reference are computed."""

    log_prob_head: Literal["chunked", "full"] = option(
        "chunked",
        "how they are computed from the last hidden states: a block of logits at a time, and only "
        "where a response's token is predicted (chunked), or by way of all logits, as OpenRLHF "
        "does (full). Values and gradients are the same to rounding; full it is in any case with "
        "ring attention, tensor parallelism, deepcompile, images, and models that do with their "
        "logits what the head does not know",
    )


@dataclass(frozen=True)
class PromptOptions(Options):
    """What becomes of the prompts, beside OpenRLHF's --data flags."""

    overlong_prompts: Literal["refuse", "skip"] = option(
        "refuse",
        "a prompt with more tokens, chat template and all, than --data.max_len less "
        "--rollout.max_new_tokens leaves would lose its beginning: do not start (refuse), or leave "
        "it out (skip); the trainer's log then has its row, and rows are numbered without it",
    )


@dataclass(frozen=True)
class RunOptions(Options):
    """Where a run leaves what it made."""

    dir: str | None = option(
        None,
        "a folder for all that the run leaves: the resolved flags (config.json), metrics.jsonl, "
        "tensorboard/, checkpoints/ and the final model/, unless OpenRLHF's own flag for one of "
        "them says otherwise. One process at a time holds it, and what a resume goes back behind "
        "moves to superseded/ in it",
    )
    record: bool = option(
        False,
        "keep every sample that the engines deliver, trained or not, as Parquet shards in "
        "recorded/ of the run folder: tokens, log-probs, versions, rewards. --offline.data trains "
        "from them again; see docs/offline.md",
    )


@dataclass(frozen=True)
class NodeOptions(Options):
    """Which nodes of a Ray cluster a run uses for what, by their labels."""

    trainer: Mapping[str, str] = option(
        factory=dict,
        help="labels of the nodes whose GPUs take the models that are trained or asked in "
        "training: policy, critic, reference and reward model; with --train.colocate_all also the "
        "engines (default: any nodes)",
    )
    rollout: Mapping[str, str] = option(
        factory=dict,
        help="labels of the nodes whose GPUs take the engines (default: any nodes)",
    )


class FlagGroup(NamedTuple):
    """A section of `--help`: a dataclass of options, whose fields become flags.

    A field's type says how its flag is read: bool, int, float, str, one of these or None, a
    Literal, a tuple of them, or a mapping of names to strings (written NAME=VALUE).
    """

    prefix: str
    title: str
    options: type
    #: Gives the instance whose values the flags default to; None: `options()`.
    defaults: Callable[[], Any] | None = None


GROUPS = (
    FlagGroup(
        "vespo",
        "VESPO: phi(W) = W^c1 exp(c2 (1 - W)), with --actor.policy_loss_type vespo",
        KernelOptions,
    ),
    FlagGroup("vespo", "policy losses: VESPO and its rivals", LossOptions),
    FlagGroup(
        "lag",
        "lag: how old a trained token may be, in optimizer updates, with --train.async_enable",
        LagOptions,
    ),
    FlagGroup(
        "rollout",
        "streaming: groups are dispatched one by one and scored as they finish",
        RolloutOptions,
    ),
    FlagGroup(
        "agent",
        "agents: episodes of many turns, with --train.agent_func_path",
        AgentOptions,
    ),
    FlagGroup("vllm", "engines: the weights are checked where they arrive", EngineOptions),
    FlagGroup("moe", "mixtures of experts", MoeOptions),
    FlagGroup("actor", "log-probs of the policy and its reference", ActorOptions),
    FlagGroup("data", "prompts", PromptOptions),
    FlagGroup(
        "reward",
        "reward, with --reward.remote_url reward/math_reward.py or a make_reward_func of yours; "
        "see reward/README.md. What REWARD_OPTIONS in the environment sets is the default here",
        RewardOptions,
        RewardOptions.from_env,
    ),
    FlagGroup(
        "offline",
        "offline: recorded samples in the place of engines; see docs/offline.md",
        OfflineOptions,
    ),
    FlagGroup("distill", "distillation: a teacher's opinion of each token", DistillOptions),
    FlagGroup("run", "run folder", RunOptions),
    FlagGroup(
        "nodes",
        "nodes: which of a Ray cluster's nodes are used for what, by the labels they were started "
        "with (scripts/ray-node.sh worker HEAD:6379 --labels group=rollout); see "
        "docs/scaling-out.md",
        NodeOptions,
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
        for spec, hint, choices in fields(group.options):
            flag, text = f"--{group.prefix}.{spec.name}", spec.metadata["help"].replace("%", "%%")
            default = getattr(defaults, spec.name)
            if spec.default is False:
                section.add_argument(flag, action="store_true", default=default, help=text)
                continue
            if default not in (None, "", {}, ()):
                shown = str(default).lower() if isinstance(default, bool) else default
                text += f" (default: {shown})"
            section.add_argument(flag, help=text, **_argument(spec.name, hint, default, choices))


def _argument(name: str, hint: Any, default: Any, choices: Collection[str]) -> dict[str, Any]:
    """What `add_argument` needs to read a value of the type `hint`, as `fields` has it."""
    if hint is bool:
        return {"type": _boolean, "default": default, "metavar": "{true,false}"}
    if typing.get_origin(hint) is tuple:
        return _argument(name, typing.get_args(hint)[0], default, choices) | {"nargs": "+"}
    if hint is Mapping:
        # A list in the flags, because OpenRLHF makes a namespace of every dict among them.
        pairs = [f"{key}={value}" for key, value in default.items()]
        return {"type": _pair, "nargs": "+", "default": pairs, "metavar": "NAME=VALUE"}
    assert hint in (int, float, str), f"no flag can be made of {name}: {hint}"
    metavar = None if choices else name.upper()
    return {"type": hint, "default": default, "choices": choices or None, "metavar": metavar}


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


def read(kind: type[_Options], flags: Mapping[str, Any]) -> _Options:
    """The options of one of the `GROUPS`, from parsed flags (dotted names), checked.

    Raises:
        ValueError: one is out of range, or needs another; the message begins with its flag.
    """
    (group,) = (group for group in GROUPS if group.options is kind)
    values = {}
    for field, hint, _ in fields(group.options):
        value = flags[f"{group.prefix}.{field.name}"]
        values[field.name] = dict(p.split("=", 1) for p in value) if hint is Mapping else value
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"--{group.prefix}.{error}") from error


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


def chunked_log_probs(flags: Mapping[str, Any]) -> bool:
    """Whether log-probs are computed without all the logits, for models that the head can take."""
    return (
        flags["actor.log_prob_head"] == "chunked"
        and flags["ds.ring_attn_size"] == flags["ds.tensor_parallel_size"] == 1
        and not flags["ds.deepcompile"]
    )
