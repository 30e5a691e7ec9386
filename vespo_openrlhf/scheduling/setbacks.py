"""When groups come back without a use: how long to hold back, and when to stop the run."""

from __future__ import annotations

from collections.abc import Collection

from .groups import Group
from .ledger import Prompt

#: Seconds from the first loss to the first new try; doubled with each that fails, up to the last.
FIRST_DELAY, LAST_DELAY = 1.0, 20.0
#: Tries of a rollout batch's worth of groups, after which rewards are given up.
ROUNDS = 8
#: A run is not stopped for fewer prompts in a row than these, however small its batches.
FEWEST_LOST, FEWEST_REFUSED = 16, 256
#: Rollout batches' worth of groups that dynamic filtering may refuse in a row.
REFUSED_BATCHES = 4


class Setbacks:
    """Groups that were lost for want of rewards, or refused by the filter, in a row.

    A group without rewards opens an outage, and any group with them ends it. Meanwhile prompts
    are sent out a few at a time, further and further apart, and fresh ones, so that none is given
    up for it: a reward server that is deployed anew costs a minute, not the data. The groups sent
    before the outage are lost with it and tell nothing new, so only those sent since then count
    towards the end of the run; where no reward ever came, all do, and nothing is held back.

    Args:
        batch: groups in a rollout batch.
    """

    def __init__(self, batch: int) -> None:
        self._lost_limit = max(batch, FEWEST_LOST)
        self._refused_limit = max(REFUSED_BATCHES * batch, FEWEST_REFUSED)
        self._batch = batch
        self._scored = False  # whether any group ever got its rewards
        self._since: int | None = None  # the first ticket sent in the outage; None: there is none
        self._prompts: set[Prompt] = set()  # of the groups sent and lost in it
        self._delay = 0.0
        self._resume_at: float | None = None  # nothing is sent before; None: a try is under way
        self.refused = 0

    @property
    def outage(self) -> bool:
        """Whether rewards have stopped coming, or have not come so far."""
        return self._since is not None or bool(self._prompts)

    @property
    def hopeless(self) -> str | None:
        """Why the run should stop, if it should."""
        if len(self._prompts) >= self._lost_limit:
            return f"{len(self._prompts)} prompts in a row got no finite reward"
        if self.refused >= self._refused_limit:
            return f"dynamic filtering refused {self.refused} groups in a row"
        return None

    def lose(self, group: Group, next_ticket: int, now: float) -> None:
        """Too few of the group's samples were scored; `next_ticket` is that of the next group."""
        if not self._scored:
            self._prompts.add(group.prompt)
            return
        if self._since is None:
            self._since, self._delay, self._resume_at = next_ticket, FIRST_DELAY, now + FIRST_DELAY
        elif group.ticket >= self._since:
            self._prompts.add(group.prompt)
            if self._resume_at is None:
                self._delay = min(2 * self._delay, LAST_DELAY)
                self._resume_at = now + self._delay

    def score(self) -> None:
        """A group has its rewards."""
        self._scored, self._since, self._resume_at = True, None, None
        self._prompts.clear()

    def refuse(self, refused: bool) -> bool:
        """What the filter said of a group; whether it is time to say so in the log."""
        self.refused = self.refused + 1 if refused else 0
        return refused and self.refused % self._batch == 0

    def may_send(self, in_flight: Collection[int]) -> bool:
        """Whether another group may be sent beside those in flight, by ticket."""
        if self._since is None:
            return True
        if self._resume_at is not None:
            return False
        tries = sum(ticket >= self._since for ticket in in_flight)
        return tries * ROUNDS < self._lost_limit

    def next(self) -> float | None:
        """When more may be sent, on the scheduler's clock; None while nothing is held back."""
        return self._resume_at

    def tick(self, now: float) -> None:
        """Try again, if it is time."""
        if self._resume_at is not None and now >= self._resume_at:
            self._resume_at = None
