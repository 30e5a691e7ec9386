"""The prompt stream: every prompt once per epoch, trained or accounted for by name.

Whatever happens to a prompt on its way (a drop, a dead engine, a restart), its one occurrence in
an epoch is in exactly one of these places: not drawn yet, outstanding, trained, filtered out, or
abandoned. The ledger refuses every other move, and its state is plain JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter, deque
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

logger = logging.getLogger(__name__)

Outcome = Literal["trained", "filtered", "abandoned"]

_UNDRAWN, _OUTSTANDING, _TRAINED, _FILTERED, _ABANDONED = range(5)
#: A prompt that was lost to engines or rewards more often than this is abandoned, by name.
MAX_FAILURES = 4

_STATUS = {"trained": _TRAINED, "filtered": _FILTERED, "abandoned": _ABANDONED}


class Prompt(NamedTuple):
    """One occurrence of a prompt: its epoch and its row in the data set, both from 0."""

    epoch: int
    row: int
    name: str


class PromptLedger:
    """Hands out prompts and keeps account of each.

    Args:
        names: one per row of the data set, all different.
        epochs: passes over the data set.
        shuffle_seed: each epoch is shuffled by it; None keeps the order of the data set.

    Raises:
        ValueError: no prompts, names that repeat, or epochs below 1.
    """

    def __init__(
        self, names: Sequence[str], epochs: int = 1, shuffle_seed: int | None = None
    ) -> None:
        if not names or epochs < 1:
            raise ValueError(f"need prompts and epochs, got {len(names)} and {epochs}")
        if len(set(names)) != len(names):
            repeated = [name for name, times in Counter(names).items() if times > 1]
            raise ValueError(f"prompt names must differ; repeated: {', '.join(repeated[:5])}")
        self.names = names
        self.epochs = epochs
        self._shuffle_seed = shuffle_seed
        self._cursor = 0
        self._order: tuple[int, Sequence[int]] = (-1, range(0))
        self._sent_again: deque[Prompt] = deque()
        self._status: dict[int, bytearray] = {}
        self._failures: dict[Prompt, int] = {}
        self._drops: dict[Prompt, int] = {}

    @property
    def drawn(self) -> int:
        """Occurrences handed out so far, each counted once however often it was sent."""
        return self._cursor

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing to draw now; a prompt that comes back changes that."""
        return not self._sent_again and self._cursor >= len(self.names) * self.epochs

    def peek(self, *, fresh: bool = False) -> Prompt:
        """The prompt that `draw` would hand out. The ledger must not be exhausted.

        Args:
            fresh: one that was never drawn, if there is any; otherwise those that came back go
                first.
        """
        return self._sent_again[0] if self._goes_back(fresh) else self._next_fresh()

    def draw(self, *, fresh: bool = False) -> Prompt:
        """The next prompt, which is then outstanding; see `peek`."""
        if self._goes_back(fresh):
            return self._sent_again.popleft()
        prompt = self._next_fresh()
        self._cursor += 1
        self._move(prompt.epoch, prompt.row, _UNDRAWN, _OUTSTANDING)
        return prompt

    def settle(self, prompt: Prompt, outcome: Outcome) -> None:
        """An outstanding prompt has come to its end in this epoch."""
        self._move(prompt.epoch, prompt.row, _OUTSTANDING, _STATUS[outcome])
        self._failures.pop(prompt, None)
        self._drops.pop(prompt, None)

    def drop(self, prompt: Prompt) -> None:
        """An outstanding prompt became too old to be used, and is to be sent again."""
        self._drops[prompt] = self._drops.get(prompt, 0) + 1
        self._send_again(prompt)

    def lose(self, prompt: Prompt) -> bool:
        """An outstanding prompt was lost to an engine or to a reward.

        Returns:
            Whether it is to be sent again; otherwise it is abandoned now.
        """
        failures = self._failures[prompt] = self._failures.get(prompt, 0) + 1
        if failures <= MAX_FAILURES:
            self._send_again(prompt)
            return True
        self.settle(prompt, "abandoned")
        logger.warning(
            "prompt %s of epoch %d is abandoned: lost %d times to engines or rewards",
            *(prompt.name, prompt.epoch, failures),
        )
        return False

    def drops(self, prompt: Prompt) -> int:
        """How often the prompt was dropped in this epoch."""
        return self._drops.get(prompt, 0)

    def names_with(self, outcome: Outcome, epoch: int) -> list[str]:
        """The names with that outcome in that epoch, in the order of the data set."""
        return [self.names[row] for row in self._rows(epoch, _STATUS[outcome])]

    def account(self) -> list[dict[str, Any]]:
        """What became of every prompt, per epoch that was begun: how many were trained and were
        not drawn, and the names of those that were filtered, abandoned, or are outstanding."""
        return [
            {
                "trained": len(self._rows(epoch, _TRAINED)),
                "undrawn": len(self._rows(epoch, _UNDRAWN)),
                **{
                    name: [self.names[row] for row in self._rows(epoch, status)]
                    for name, status in (
                        ("filtered", _FILTERED),
                        ("abandoned", _ABANDONED),
                        ("outstanding", _OUTSTANDING),
                    )
                },
            }
            for epoch in sorted(self._status)
        ]

    def outstanding(self) -> list[Prompt]:
        """Drawn and not settled: in flight, buffered, in training or waiting to be sent again."""
        return [
            Prompt(epoch, row, self.names[row])
            for epoch in sorted(self._status)
            for row in self._rows(epoch, _OUTSTANDING)
        ]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, as plain JSON data."""
        return {
            "fingerprint": self._fingerprint,
            "cursor": self._cursor,
            "outstanding": [
                [p.epoch, p.row, self._drops.get(p, 0), self._failures.get(p, 0)]
                for p in self.outstanding()
            ],
            **{
                outcome: [
                    [epoch, row]
                    for epoch in sorted(self._status)
                    for row in self._rows(epoch, _STATUS[outcome])
                ]
                for outcome in ("filtered", "abandoned")
            },
        }

    def load_state_dict(self, state: dict[str, Any], elsewhere: set[tuple[int, int]]) -> None:
        """Go on from `state`; outstanding prompts are sent again, before any new one.

        Args:
            state: of `state_dict`, on the same prompts.
            elsewhere: (epoch, row) of the outstanding prompts that need no sending, because
                their groups were saved whole.

        Raises:
            ValueError: the state belongs to other prompts or another shuffle.
        """
        if state["fingerprint"] != self._fingerprint:
            raise ValueError(
                "the checkpoint was written on other prompts, or with another shuffle seed: "
                "resume with the data set and the seed of that run"
            )
        if state["cursor"] > len(self.names) * self.epochs:
            raise ValueError(f"the checkpoint is beyond the {self.epochs} epochs of this run")
        self._cursor = state["cursor"]
        self._status = {}
        for drawn in range(0, self._cursor, len(self.names)):
            epoch = drawn // len(self.names)
            for row in self._epoch_order(epoch)[: self._cursor - drawn]:
                self._move(epoch, row, _UNDRAWN, _TRAINED)
        for outcome in ("filtered", "abandoned"):
            for epoch, row in state[outcome]:
                self._move(epoch, row, _TRAINED, _STATUS[outcome])
        self._sent_again.clear()
        self._drops, self._failures = {}, {}
        for epoch, row, drops, failures in state["outstanding"]:
            prompt = Prompt(epoch, row, self.names[row])
            self._move(epoch, row, _TRAINED, _OUTSTANDING)
            if drops:
                self._drops[prompt] = drops
            if failures:
                self._failures[prompt] = failures
            if (epoch, row) not in elsewhere:
                self._sent_again.append(prompt)

    def _goes_back(self, fresh: bool) -> bool:
        """Whether the next prompt is one that came back."""
        return bool(self._sent_again) and not (
            fresh and self._cursor < len(self.names) * self.epochs
        )

    def _next_fresh(self) -> Prompt:
        epoch, place = divmod(self._cursor, len(self.names))
        assert epoch < self.epochs, "drawn from an exhausted ledger"
        row = self._epoch_order(epoch)[place]
        return Prompt(epoch, row, self.names[row])

    def _send_again(self, prompt: Prompt) -> None:
        assert self._status[prompt.epoch][prompt.row] == _OUTSTANDING, f"{prompt} is settled"
        self._sent_again.append(prompt)

    def _epoch_order(self, epoch: int) -> Sequence[int]:
        if self._order[0] != epoch:
            order: Sequence[int] = range(len(self.names))
            if self._shuffle_seed is not None:
                shuffled = list(order)
                random.Random(f"{self._shuffle_seed}/{epoch}").shuffle(shuffled)
                order = shuffled
            self._order = (epoch, order)
        return self._order[1]

    def _move(self, epoch: int, row: int, before: int, after: int) -> None:
        status = self._status.get(epoch)
        if status is None:
            status = self._status[epoch] = bytearray(len(self.names))
        assert status[row] == before, f"epoch {epoch}, row {row}: {status[row]} to {after}"
        status[row] = after

    def _rows(self, epoch: int, status: int) -> list[int]:
        found = self._status.get(epoch, b"")
        return [row for row, value in enumerate(found) if value == status]

    @cached_property
    def _fingerprint(self) -> str:
        text = json.dumps([self._shuffle_seed, *self.names])
        return hashlib.sha256(text.encode()).hexdigest()
