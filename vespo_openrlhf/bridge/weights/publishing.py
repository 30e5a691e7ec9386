"""The driver's part in a sync: engines stand still, take the weights, prove that they have them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import ray

from vespo_openrlhf.bridge.driver import Driver, RayEngine
from vespo_openrlhf.bridge.errors import LostEnginesError, StoppedError
from vespo_openrlhf.bridge.weights import check as weight_check
from vespo_openrlhf.bridge.weights.sender import Sent

logger = logging.getLogger(__name__)


class Publisher:
    """Has the actor's ranks give their weights to engines, whichever are alive.

    Args:
        args: OpenRLHF's flags.
        actors: the policy's ranks, OpenRLHF's `RayActorGroup`.
        driver: of the engines.
        trial_prompts: see `weight_check.trial_prompts`.
    """

    def __init__(
        self, args: Any, actors: Any, driver: Driver, trial_prompts: list[list[int]]
    ) -> None:
        self._args = args
        self._actors = actors
        self._driver = driver
        self._trial_prompts = trial_prompts
        self._checked: set[str] = set()  # engines by name: each life once
        self._recomputed: list[tuple[int, float]] = []  # see `VersionedRollout.begin_update`
        self._sent: list[Sent] = []

    async def publish(self, version: int, names: Sequence[str]) -> list[RayEngine]:
        """Give the actor's weights to the engines of these names.

        Returns:
            Those that go on with them. The others have failed, and are given up.

        Raises:
            RefusedWeightsError: an engine cannot load them, or holds others.
            StoppedError: an engine's log-probs are not the trainer's.
        """
        driver = self._driver
        engines = driver.by_name(names)
        asleep = self._args.vllm.enable_sleep and version > 0
        if asleep:  # nothing is under way, and what is on the GPU beside the weights comes last
            engines = await driver.ask(engines, "wake_up", tags=["weights"])
        else:
            begun = await driver.answers(engines, "begin_update")
            self._recomputed += itertools.chain.from_iterable(begun.values())
            engines = list(begun)
        engines = await self._send(engines)
        if asleep:
            engines = await driver.ask(engines, "wake_up", tags=["kv_cache"])
        engines = await driver.ask(engines, "end_update", version)
        return await self._check(engines, version)

    def drain(self) -> dict[str, float]:
        """Metrics of what was published since the last call."""
        metrics: dict[str, float] = {}
        if self._recomputed:
            tokens, seconds = zip(*self._recomputed, strict=True)
            metrics |= {"recompute/tokens": sum(tokens), "recompute/seconds": sum(seconds)}
        if self._sent:
            metrics |= {
                "weights/messages": fmean(sent.messages for sent in self._sent),
                "weights/seconds": fmean(sent.seconds for sent in self._sent),
            }
        self._recomputed, self._sent = [], []
        return metrics

    async def _send(self, engines: list[RayEngine]) -> list[RayEngine]:
        if not engines:
            return []
        ranks = self._actors.async_run_method(
            "publish", [engine.name for engine in engines], [engine.actor for engine in engines]
        )
        try:
            sent, *_ = await asyncio.gather(*ranks)  # all took part in the same
        except LostEnginesError as lost:
            for engine in engines:
                self._driver.engine_failed(engine, getattr(lost, "cause", lost))
            return []
        except ray.exceptions.RayError:
            await self._driver.ask(engines, "is_alive")  # where none may fail, it says so
            raise
        self._sent.append(sent)
        return engines

    async def _check(self, engines: list[RayEngine], version: int) -> list[RayEngine]:
        """Of each engine, what it makes of the first trained weights it is given; see
        `weight_check`."""
        allowed = weight_check.tolerance(
            self._args.vllm.weight_tolerance, self._args.ds.param_dtype
        )
        due = [engine for engine in engines if version and engine.name not in self._checked]
        if not (due and allowed):
            return engines
        trials = await self._driver.answers(due, "try_out", self._trial_prompts)
        for engine, tried in trials.items():
            tokens, _, experts = zip(*tried, strict=True)
            replayed = experts if all(rows is not None for rows in experts) else None
            ranks = self._actors.async_run_method("score", tokens, replayed)
            gap = weight_check.difference(tried, (await asyncio.gather(*ranks))[0])
            if not gap <= allowed:
                raise StoppedError(weight_check.complaint(engine.name, version, gap, allowed))
            self._checked.add(engine.name)
            logger.info(
                "%s samples from the policy of version %d: its log-probs are %.2g away from the "
                "trainer's, of %g allowed",
                *(engine.name, version, gap, allowed),
            )
        return [engine for engine in engines if not engine.dead]
