"""How a run trains from recorded rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vespo_openrlhf.options import Options, option


@dataclass(frozen=True)
class OfflineOptions(Options):
    """`--offline.*`: samples that were made before take the place of engines."""

    data: tuple[str, ...] = option(
        (),
        "train from these recorded rollouts, and start no engine: run folders of --run.record, or "
        "folders of shards, as python -m vespo_openrlhf.recorded import makes them of other data",
    )
    epochs: int = option(1, "passes over them", at_least=1)
    order: Literal["recorded", "shuffled"] = option(
        "recorded",
        "as the run trained them, and those that it never trained last (recorded); or in another "
        "order in each epoch, by --train.seed (shuffled)",
    )
    behaviour: Literal["recorded", "initial", "uniform"] = option(
        "recorded",
        "the policy that sampled them, which the importance weight starts from: the one that was "
        "recorded; taken to be the one that training starts from, whose log-probs are computed "
        "once and kept in the run folder (initial); or taken to have given every response to a "
        "prompt the same probability (uniform). For data without log-probs the last two are all "
        "there is",
    )
