"""What a checkpoint holds of a run beside its models: the scheduler, and rollouts to be trained."""

from __future__ import annotations

import contextlib
import json
import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vespo_openrlhf.bridge.run.checkpoints import Checkpoints
from vespo_openrlhf.files import written_whole
from vespo_openrlhf.scheduling import Scheduler

logger = logging.getLogger(__name__)


class Snapshot(NamedTuple):
    """A run at the end of a rollout batch.

    Attributes:
        states: what DeepSpeed keeps with the models.
        rollouts: of the groups that are complete and in no batch yet, by ticket.
    """

    step: int
    states: dict[str, Any]
    rollouts: dict[int, list[Any]]


class RunState:
    """The run's part of its checkpoints.

    Args:
        ckpt: OpenRLHF's flags of that name.
    """

    def __init__(self, ckpt: Any) -> None:
        self._ckpt = ckpt
        self._checkpoints = Checkpoints(Path(ckpt.path))
        self._rollouts = BufferedRollouts(Path(ckpt.path))

    def snapshot(self, step: int, scheduler: Scheduler) -> Snapshot | None:
        """Of the scheduler as it is now; None where no checkpoint is due."""
        if step % self._ckpt.save_steps:
            return None
        states = {
            "episode": 0,  # OpenRLHF's own account; ours is the ledger's
            "global_step": step,
            "total_consumed_prompts": scheduler.ledger.drawn,
            "scheduler": json.dumps(scheduler.state_dict()),
        }
        groups = scheduler.live.complete_groups()
        return Snapshot(step, states, {group.ticket: list(group.payloads) for group in groups})

    def save(self, snapshot: Snapshot, save_models: Callable[[], None]) -> None:
        """Write a checkpoint, and delete the oldest.

        Args:
            save_models: has every rank write its part, with the snapshot's states.

        Raises:
            CheckpointError: it was not written.
        """
        tag = _tag(snapshot.step)
        with self._checkpoints.saving(tag):
            self._rollouts.save(tag, snapshot.rollouts)
            save_models()
        self._checkpoints.rotate(self._ckpt.max_num, self._ckpt.max_mem)

    @contextlib.contextmanager
    def saving_best(self, step: int) -> Iterator[None]:
        """The models of a best evaluation are saved in here, if it is one; the last best goes."""
        tag = f"best_{_tag(step)}"
        with self._checkpoints.saving(tag):
            yield
        self._checkpoints.keep_best(tag)

    def restore(self, scheduler: Scheduler, states: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is none of ours, or of other data.
        """
        if "scheduler" not in states:
            raise ValueError(
                f"the checkpoint in {self._ckpt.path} has no scheduler state: it was written "
                "by OpenRLHF's own trainer or holds the best evaluation only. Start from its "
                "model with --actor.model_name_or_path, and another --ckpt.path"
            )
        step = states["global_step"]
        rollouts = self._rollouts.load(_tag(step))
        scheduler.load_state_dict(json.loads(states["scheduler"]), rollouts)
        complete = scheduler.live.complete
        logger.info(
            "resumed at global step %d, version %d, with %d buffered groups and %d prompts to "
            "send again",
            *(step, scheduler.version, complete),
            len(scheduler.ledger.outstanding()) - complete,
        )

    def advice(self) -> str:
        """How to go on with a run that ends now."""
        newest = self._checkpoints.newest()
        if newest is None:
            return "No checkpoint was saved so far; --ckpt.save_steps says when"
        return (
            f"The last checkpoint is {newest} in {self._ckpt.path}: start the run again with "
            "--ckpt.load_enable to go on from it"
        )


def _tag(step: int) -> str:
    return f"global_step{step}"


class BufferedRollouts:
    """The rollouts of complete groups that no batch has taken yet, saved with each checkpoint.

    Args:
        checkpoints: OpenRLHF's checkpoint folder; ours is a folder beside its own.
    """

    def __init__(self, checkpoints: Path) -> None:
        self._folder = checkpoints / "rollouts"

    def save(self, tag: str, rollouts: Mapping[int, list[Any]]) -> None:
        """Write those of the checkpoint `tag`; done before the checkpoint itself is."""
        with written_whole(self._folder / f"{tag}.pt") as draft:
            torch.save(dict(rollouts), draft)

    def load(self, tag: str) -> dict[int, list[Any]]:
        """Those of the checkpoint `tag`; none where the file is gone, and they are made anew."""
        path = self._folder / f"{tag}.pt"
        if not path.exists():
            logger.warning(
                "%s is not on this node, %s: the groups that were complete are made anew. All "
                "nodes must share the run folder and the checkpoints",
                *(path, platform.node()),
            )
            return {}
        # Our own file, with OpenRLHF's classes in it.
        loaded: dict[int, list[Any]] = torch.load(path, weights_only=False)
        return {ticket: [r and r.parked() for r in group] for ticket, group in loaded.items()}
