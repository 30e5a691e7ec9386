"""The arithmetic of batches, where it comes out even, and whether the data fill one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vespo_openrlhf.bridge.roles import ranks
from vespo_openrlhf.bridge.rules import sizes
from vespo_openrlhf.bridge.scheduler_config import scheduler_config
from vespo_openrlhf.check.findings import Finding, warning

_NO_LIMIT = int(1e8)  # OpenRLHF's default of --data.max_samples


@dataclass(frozen=True)
class Batches:
    """The arithmetic of a run.

    Attributes:
        prompts: in a rollout batch.
        samples: responses per prompt.
        responses: in an update.
        updates: N, per rollout batch.
        ranks: data-parallel ranks of the trainer, each with `responses / ranks` of an update.
        episodes: passes over the prompts.
        all_prompts: in all passes; None if their number is unknown.
    """

    prompts: int
    samples: int
    responses: int
    updates: int
    ranks: int
    episodes: int
    all_prompts: int | None

    @classmethod
    def of(cls, flags: Mapping[str, Any], rows: int | None) -> Batches:
        """From resolved flags, and the rows of the prompt data if they are known."""
        prompts, samples = flags["rollout.batch_size"], flags["rollout.n_samples_per_prompt"]
        return cls(
            prompts=prompts,
            samples=samples,
            responses=flags["train.batch_size"],
            updates=prompts * samples // flags["train.batch_size"],
            ranks=ranks(flags),
            episodes=flags["train.num_episodes"],
            all_prompts=all_prompts(flags, rows),
        )

    @property
    def total(self) -> int | None:
        """Rollout batches of the whole run, the last one perhaps short."""
        return None if self.all_prompts is None else -(-self.all_prompts // self.prompts)


def all_prompts(flags: Mapping[str, Any], rows: int | None) -> int | None:
    """Prompts of all passes; without the data what --data.max_samples says."""
    limit: int = flags["data.max_samples"]
    if rows is None and limit >= _NO_LIMIT:
        return None
    episodes: int = flags["train.num_episodes"]
    return min(limit, limit if rows is None else rows) * episodes


def add_up(flags: dict[str, Any]) -> bool:
    """Whether the batches divide as `rules.FLAG_RULES` have it, so that there is a `Batches`."""
    try:
        scheduler_config(flags)
        for rule in (sizes.check_ranks, sizes.check_update):
            rule(flags)
    except ValueError:
        return False
    return True


def check_prompts(flags: Mapping[str, Any], rows: int | None) -> Iterator[Finding]:
    """At least one rollout batch is a whole one."""
    available, batch = all_prompts(flags, rows), flags["rollout.batch_size"]
    if available is not None and available < batch:
        yield warning(
            f"all passes together have {available} prompts, fewer than a rollout batch of {batch} "
            "(--rollout.batch_size): the only batch is a short one",
            f"take more data, raise --train.num_episodes, or set --rollout.batch_size to at most "
            f"{available}",
        )
