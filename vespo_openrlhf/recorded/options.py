"""How a run trains from recorded rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from vespo_openrlhf.options import Options, option

#: Whose reward a recorded sample is trained with: its own; the run's reward model's, which scores
#: it anew in the trainer; or none, 0 where none was recorded, where a teacher alone is heard.
Rewarding: TypeAlias = Literal["recorded", "model", "none"]


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
        "what the run trained, in its order (recorded); or all that was recorded, in another order "
        "in each epoch, by --train.seed (shuffled)",
    )
    behaviour: Literal["recorded", "initial", "uniform"] = option(
        "recorded",
        "the policy that sampled them, which the importance weight starts from: the one that was "
        "recorded; taken to be the one that training starts from, whose log-probs are computed "
        "once and kept in the run folder (initial); or taken to have given every response to a "
        "prompt the same probability (uniform). For data without log-probs the last two are all "
        "there is",
    )
