"""A judgement for a reader, and for a program."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import TYPE_CHECKING, Any

from vespo_openrlhf.check.memory import GIB

if TYPE_CHECKING:
    from vespo_openrlhf.check.judgement import Judgement
    from vespo_openrlhf.check.replay import Replay
    from vespo_openrlhf.check.resolve import Resolved

_WIDTH = 100
_NAME = 13


def as_json(resolved: Resolved, judgement: Judgement) -> dict[str, Any]:
    """Every flag, finding and estimate; bytes as bytes."""
    known = dataclasses.asdict(judgement)
    if judgement.replay is None:
        del known["replay"]
    return {
        "flags": resolved.flags,
        **known,
        "parameters": judgement.shape and judgement.shape.parameters,
    }


def as_text(resolved: Resolved, judgement: Judgement) -> str:
    """The resolved configuration, the estimates, and then what was found."""
    lines = _configuration(resolved)
    lines += ["", *_facts(resolved.flags, judgement), ""]
    for level in ("note", "warning", "error"):
        lines += [
            f"{level:<9}{finding}" for finding in judgement.findings if finding.level == level
        ]
    number = len(judgement.errors)
    lines.append(f"{number} to change" if number else "ready: nothing has to be changed")
    return "\n".join(lines)


def _configuration(resolved: Resolved) -> list[str]:
    """Flags that differ from their defaults, group by group."""
    groups: dict[str, list[str]] = {}
    for name in sorted(resolved.given):
        group, _, option = name.partition(".")
        value = resolved.flags[name]
        shown = option if value is True else f"{option}={_short(value)}"
        groups.setdefault(group, []).append(shown)
    return [_entry(f"--{group}.", "  ".join(options)) for group, options in groups.items()]


def _entry(name: str, text: str) -> str:
    """A name and what belongs to it, in two columns."""
    return textwrap.fill(
        f"{name:<{_NAME}}{text}",
        width=_WIDTH,
        subsequent_indent=" " * _NAME,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)


def _facts(flags: dict[str, Any], judgement: Judgement) -> list[str]:
    facts: list[tuple[str, str]] = []
    shape, sizes, speed = judgement.shape, judgement.batches, judgement.speed
    if shape is not None:
        kind = f"{shape.active_parameters / 1e9:.1f} B of them active" if shape.experts else "dense"
        if rank := flags["ds.lora.rank"]:
            trained = shape.adapter_parameters(rank)
            kind += f"; LoRA of rank {rank} trains {trained / 1e6:.1f} M beside them"
        facts.append(("model", f"{shape.parameters / 1e9:.2f} B parameters, {kind}"))
    if judgement.cluster is not None:
        facts.append(("cluster", str(judgement.cluster)))
    if sizes is not None:
        facts.append(
            (
                "batches",
                f"N = {sizes.updates} updates of {sizes.responses} responses "
                f"({sizes.responses / sizes.ranks:g} per rank) from {sizes.prompts} prompts x "
                f"{sizes.samples}",
            )
        )
        facts.append(("lag", _lag(flags)))
        if sizes.total is not None:
            facts.append(
                (
                    "run",
                    f"{sizes.total} rollout batches of {sizes.updates} updates "
                    f"({sizes.episodes} passes)",
                )
            )
    for memory in judgement.memory:
        terms = sorted(memory.terms.items(), key=lambda term: -term[1])
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in terms if size > GIB / 20)
        of = f"{memory.total / GIB:.1f} of {memory.gpu / GIB:.0f} GiB"
        facts.append(("GPU memory", f"{memory.place}: {of} = {parts}"))
    if judgement.engine is not None:
        full = judgement.engine.tokens // flags["data.max_len"]
        facts.append(
            ("KV cache", f"{judgement.engine.tokens:,} tokens per engine, {full} of the longest")
        )
    host = ", ".join(
        f"{name} {size / GIB:.0f} GiB" for name, size in judgement.host.items() if size > GIB
    )
    if host:
        facts.append(("host memory", host))
    if judgement.replay is not None:
        facts.append(("experts", _replay(judgement.replay)))
    if speed is not None:
        facts.append(("time", _time(flags, speed)))
    return [_entry(name, text) for name, text in facts]


def _replay(replay: Replay) -> str:
    return (
        f"{replay.token} bytes a token to replay: {replay.engine / GIB:.2f} GiB of host memory for "
        f"each engine; {replay.store / GIB:.0f} GiB in the object store of the job's node for "
        f"{replay.responses} responses of the mean length ({replay.store_longest / GIB:.0f} if all "
        f"are of the longest); {replay.micro_batch / GIB:.2f} GiB of a trainer's GPU"
    )


def _lag(flags: dict[str, Any]) -> str:
    from vespo_openrlhf.bridge.scheduler_config import scheduler_config
    from vespo_openrlhf.scheduling import make_policy
    from vespo_openrlhf.scheduling.lag import minimum_lag

    config = scheduler_config(flags)
    updates, limit = config.updates_per_batch, make_policy(config).limit
    sync_every = config.lag.sync_every or updates
    how = "asynchronous" if flags["train.async_enable"] else "synchronous"
    bound = f"no bound on the lag (--lag.policy {config.lag.policy})"
    if limit is not None:
        bound = (
            f"no trained token older than {limit} updates (the least that is possible: "
            f"{minimum_lag(updates, sync_every)})"
        )
    return f"{how}: {bound}, a weight sync every {sync_every}"


def _time(flags: dict[str, Any], speed: Any) -> str:
    how = "at once" if flags["train.async_enable"] else "in turn"
    text = (
        f"{speed.batch / 60:.1f} min per rollout batch: generation {speed.generate / 60:.1f} "
        f"({speed.tokens_per_second:.0f} tokens/s per GPU, mean response "
        f"{speed.mean_response:.0f}) and training {speed.train / 60:.1f} {how}"
    )
    if speed.gather > 0:
        text += f"; ZeRO-3 gathers for {speed.gather / 60:.1f}"
    if speed.hours is not None:
        text += f"; {speed.hours:.1f} hours in all"
    return text + " (estimated, not measured)"
