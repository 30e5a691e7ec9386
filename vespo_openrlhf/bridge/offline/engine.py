"""An engine whose samples were made before."""

from __future__ import annotations

import asyncio

from vespo_openrlhf.bridge.driver import Driver
from vespo_openrlhf.bridge.offline.rollouts import to_rollout
from vespo_openrlhf.recorded.options import Rewarding
from vespo_openrlhf.recorded.reading import Recording
from vespo_openrlhf.recorded.schema import RecordedSample
from vespo_openrlhf.scheduling import Request


class ReplayEngine:
    """Answers each request with the recorded group of that row; see `scheduling.Engine`.

    To the scheduler its tokens are of the version that they are asked for at; the versions that
    were recorded go with each sample.

    Args:
        driver: on whose loop it works.
        recording: its groups are the data set's rows.
        max_length: of a sample, in tokens.
        rewarding: whose rewards the samples have.
    """

    name = "recording"

    def __init__(
        self,
        driver: Driver,
        recording: Recording,
        max_length: int,
        rewarding: Rewarding = "recorded",
    ) -> None:
        self._rewarding = rewarding
        self._driver = driver
        self._recording = recording
        self._max_length = max_length
        self._asked: list[Request] = []
        self._at_work = False

    def generate(self, request: Request) -> None:
        """Answer a request, after those before it."""
        self._asked.append(request)
        if not self._at_work:
            self._at_work = True
            self._driver.spawn(self._work())

    def abort(self, ticket: int) -> None:
        """Forget a request."""
        self._asked = [request for request in self._asked if request.ticket != ticket]

    async def _work(self) -> None:
        try:
            while self._asked:
                request = self._asked.pop(0)
                group = await asyncio.to_thread(self._recording.read, request.prompt.row)
                for place, sample in enumerate(group):
                    self._tell(request, place, sample)
                self._driver.wake()
        finally:
            self._at_work = False

    def _tell(self, request: Request, place: int, sample: RecordedSample | None) -> None:
        scheduler = self._driver.scheduler
        if sample is None:
            scheduler.on_generated(request.ticket, place, ((request.version, 0),))
            scheduler.on_scored(request.ticket, place, None, None, "not_recorded")
            return
        tokens = int(sample.action_mask.sum())
        scheduler.on_generated(request.ticket, place, ((request.version, tokens),))
        rollout = to_rollout(sample, self._max_length, self._rewarding)
        rewards = rollout.experience.rewards
        reward = 0.0 if rewards is None else float(rewards[0])  # which a model gives later
        scheduler.on_scored(request.ticket, place, reward, rollout)
