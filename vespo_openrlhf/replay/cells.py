"""The trainings of a comparison: each loss, for each number of epochs, in each order."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf import models
from vespo_openrlhf.bridge import rules
from vespo_openrlhf.bridge.run.recordings import open_recording
from vespo_openrlhf.check.flags import check_options
from vespo_openrlhf.files import write_text
from vespo_openrlhf.recorded.reading import find_shards
from vespo_openrlhf.redact import redact
from vespo_openrlhf.replay.flags import loss_flag, to_words, training_flags

_PLAN_FILE = "replay.json"
#: Flags that a cell's own place decides, and the option that does.
_OF_CELL = {
    "actor.policy_loss_type": "--loss",
    "offline.data": "RUN",
    "offline.epochs": "--epochs",
    "offline.order": "--seeds",
    "train.seed": "--seeds",
    "run.dir": "--out",
    "ckpt.load_enable": "nothing, as a cell that was interrupted is started anew",
}


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        loss: as it was asked for.
        epochs: passes over the recording.
        seed: of the order of each epoch; None: as the run trained.
    """

    loss: str
    epochs: int
    seed: int | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        loss = self.loss.rpartition("/")[2].replace(":", "-")
        return f"{loss}-e{self.epochs}" + ("" if self.seed is None else f"-s{self.seed}")

    def __str__(self) -> str:
        passes = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
        return f"{self.loss}, {passes}" + ("" if self.seed is None else f", seed {self.seed}")


@dataclass(frozen=True)
class Job:
    """A cell that can be started.

    Attributes:
        cell: which one.
        folder: its `--run.dir`.
        arguments: of `vespo_openrlhf.train`.
        flags: the same, parsed and completed, but for its folder.
        batches: rollout batches it will train, more or less.
    """

    cell: Cell
    folder: Path
    arguments: list[str]
    flags: dict[str, Any]
    batches: int


def make_cells(losses: Sequence[str], epochs: Sequence[int], seeds: Sequence[int]) -> list[Cell]:
    """All of them, a loss after the other.

    Raises:
        ValueError: two would have one folder, or a number is below 1.
    """
    if min(epochs) < 1:
        raise ValueError(f"--epochs {min(epochs)}: set it to at least 1")
    orders: Sequence[int | None] = seeds or [None]
    cells = [Cell(loss, passes, seed) for loss in losses for passes in epochs for seed in orders]
    names = [cell.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two trainings would be {name}: give each loss, number of epochs and seed once"
            )
    return cells


def make_jobs(
    cells: Sequence[Cell],
    run: Path,
    config: Mapping[str, Any],
    out: Path,
    parser: argparse.ArgumentParser,
    extra: Sequence[str],
) -> list[Job]:
    """The command line of every cell, checked as training will check it.

    Args:
        cells: all that are wanted.
        run: the recorded run.
        config: its flags.
        out: the comparison's folder; each cell has one in it.
        parser: of training.
        extra: training flags for all cells, which win over the run's.

    Raises:
        ValueError: training would refuse them, or the run's start is no longer there.
    """
    for word in extra:
        flag = word.partition("=")[0].removeprefix("--")
        if word.startswith("--") and flag in _OF_CELL:
            raise ValueError(f"{word} after --: {_OF_CELL[flag]} decides it; leave it out")
    jobs: list[Job] = []
    batches = 0
    for cell in cells:
        folder = out / cell.name
        own: dict[str, Any] = {
            "offline.data": [str(run)],
            "offline.epochs": cell.epochs,
            "run.dir": str(folder),
        }
        if cell.seed is not None:
            own |= {"offline.order": "shuffled", "train.seed": cell.seed}
        wanted = training_flags(config, loss_flag(cell.loss)) | own
        arguments = [*to_words(wanted, parser), *extra]
        flags = _checked(cell, vars(parser.parse_args(arguments)), run)
        if not jobs:
            groups = len(open_recording(flags).names)
            batches = -(-groups // flags["rollout.batch_size"])
        jobs.append(Job(cell, folder, arguments, flags, batches * cell.epochs))
    return jobs


def _checked(cell: Cell, parsed: dict[str, Any], run: Path) -> dict[str, Any]:
    """The flags completed as training does. What is in the cell's folder is not looked at: a
    finished cell stays, and one that was begun is removed."""
    flags = copy.deepcopy(parsed) | {"run.dir": f"{parsed['run.dir']}/none"}
    if faults := list(check_options(flags)):
        raise ValueError(f"{cell}: {'; '.join(map(str, faults))}")
    try:
        model = models.check_model(flags["actor.model_name_or_path"])
    except ValueError as error:
        raise ValueError(
            f"{error}. {run} was started from it, and so must be what is compared with it: put it "
            "back, or say where it is now: -- --actor.model_name_or_path MODEL"
        ) from error
    for rule in rules.MODEL_RULES:
        rule(flags, models.text_config(model))
    return flags


def remember(out: Path, run: Path, extra: Sequence[str]) -> None:
    """Keep in the comparison's folder what its cells have in common.

    Raises:
        ValueError: it holds a comparison of other samples, or with other flags.
    """
    shards = {path.name: path.stat().st_size for path in find_shards(run)}
    now = redact({"run": str(run), "recorded": shards, "flags": list(extra)})
    path = out / _PLAN_FILE
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            what = {
                "run": "another run",
                "recorded": "another recording of the run",
                "flags": "other flags after --",
            }
            raise ValueError(
                f"--out {out} holds a comparison on {' and '.join(what[c] for c in changed)}: name "
                "another folder, or remove this one"
            )
    write_text(path, json.dumps(now, indent=1) + "\n")
