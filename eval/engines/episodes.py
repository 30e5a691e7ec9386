"""Episodes of an agent, played on an engine turn by turn.

Agents play on an asyncio loop in a thread of its own; whoever steps the engine never waits for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError  # its own before Python 3.11
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from vespo_openrlhf.agents import Agent
from vespo_openrlhf.agents.calling import contained
from vespo_openrlhf.agents.episode import CLOSE_SECONDS, Episode, Sampled, run_episode
from vespo_openrlhf.agents.loading import load_agent
from vespo_openrlhf.eval.engines import FAILED, Completion, Request
from vespo_openrlhf.eval.errors import EvaluationError

# Episodes under way, in units of what the engine can run at a time: the batch stays full while as
# many again wait for their environments.
_AHEAD = 2
_WAIT_S = 0.1
# What an agent that is out of time may take to be cancelled and closed, and then some.
_GRACE_S = 2 * CLOSE_SECONDS + 10


@dataclass(frozen=True)
class Play:
    """The agent whose episodes take the place of single responses.

    Attributes:
        path: as `agents.loading.load_agent` takes it.
        timeout_s: that the environment of an episode may take, all in all; sampling does not
            count, so that what fails does not hang on the engine's load.

    Raises:
        ValueError: there is no such agent, or no time.
    """

    path: str
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"--agent-timeout must be above 0, not {self.timeout_s:g}")
        where, name = self.path, ""
        if ".py:" in where:
            where, _, name = where.rpartition(":")
        if where.endswith(".py"):  # Ray's workers stand in other folders
            where = str(Path(where).absolute())
        object.__setattr__(self, "path", f"{where}:{name}" if name else where)
        self.load()

    def load(self) -> type[Agent]:
        """The agent."""
        return load_agent(self.path)

    def as_json(self) -> dict[str, Any]:
        """By what two agents are told apart: name, limits, and a hash of the file."""
        agent = self.load()
        content = Path(inspect.getfile(agent)).read_bytes()
        return {
            "name": agent.__name__,
            "checksum": hashlib.sha256(content).hexdigest()[:12],
            "timeout_s": self.timeout_s,
        }


class TurnEngine(Protocol):
    """Samples turns: tokens in, tokens out."""

    @property
    def tokenizer(self) -> Any:
        """Of transformers."""
        ...

    @property
    def capacity(self) -> int:
        """How many turns it samples at a time."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens that it takes, prompt and response together."""
        ...

    @property
    def busy(self) -> bool:
        """Whether anything is queued or running."""
        ...

    def add_turn(
        self, number: int, tokens: list[int], max_tokens: int, seed: int, temperature: float
    ) -> None:
        """Queue a turn, after these tokens."""
        ...

    def step_turns(self) -> list[tuple[int, Sampled]]:
        """One forward pass; the turns that finished with it, by their numbers."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Clock:
    """Seconds that an episode's environment has taken, from now on."""

    def __init__(self) -> None:
        self._taken = 0.0
        self._since: float | None = time.monotonic()

    @property
    def seconds(self) -> float:
        """So far."""
        return self._taken + (time.monotonic() - self._since if self._since is not None else 0.0)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """While a turn is sampled."""
        self._taken, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.monotonic()


class EpisodeEngine:
    """An engine whose every request is an episode.

    Args:
        engine: samples the turns.
        play: the agent.
        max_tokens: of a turn.
    """

    def __init__(self, engine: TurnEngine, play: Play, max_tokens: int) -> None:
        self._engine = engine
        self._agent = play.load()
        self._timeout_s = play.timeout_s
        self._max_tokens = max_tokens
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Sampled]] = {}
        self._finished: list[Completion] = []
        self._left = 0
        self._heard = time.monotonic()  # when the loop's thread, or the engine, last did something
        self._places = asyncio.Semaphore(_AHEAD * engine.capacity)
        # What the loop's thread has for the one that steps: only that touches the engine.
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def capacity(self) -> int:
        """How many turns are sampled at a time."""
        return self._engine.capacity

    @property
    def busy(self) -> bool:
        """Whether any episode is to be played yet."""
        return self._left > 0

    def add(self, requests: Mapping[int, Request]) -> None:
        """Queue episodes by their index."""
        self._left += len(requests)
        self._heard = time.monotonic()
        for index, request in requests.items():
            asyncio.run_coroutine_threadsafe(self._play(index, request), self._loop)

    def step(self) -> list[Completion]:
        """One forward pass, or a moment's wait where all are with their environments; the episodes
        that have ended.

        Raises:
            EvaluationError: the engine gave way.
        """
        with contextlib.suppress(queue.Empty):
            if not self._engine.busy:
                self._take(self._inbox.get(timeout=_WAIT_S))
            while True:
                self._take(self._inbox.get_nowait())
        if not self._engine.busy and time.monotonic() - self._heard > self._timeout_s + _GRACE_S:
            raise EvaluationError(
                f"nothing has been heard of {self._agent.__name__} for {self._timeout_s:g} s and "
                "more, beyond what an episode may take (--agent-timeout): an async method of it "
                "blocks, and holds all episodes up. Make it a plain method, which has a thread"
            )
        if self._engine.busy:
            self._heard = time.monotonic()
            for number, sampled in self._engine.step_turns():
                answer = partial(_settle, self._asked.pop(number), sampled)
                self._loop.call_soon_threadsafe(answer)
        finished, self._finished = self._finished, []
        self._left -= len(finished)
        return finished

    def _take(self, word: Callable[[], None]) -> None:
        self._heard = time.monotonic()
        word()

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Completions as episodes end."""
        self.add(dict(enumerate(requests)))
        while self.busy:
            yield from self.step()

    def close(self) -> None:
        """Break off what is played, and close its agents."""

        async def break_off() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=CLOSE_SECONDS)

        with contextlib.suppress(FutureTimeoutError):  # an async method holds the loop up
            asyncio.run_coroutine_threadsafe(break_off(), self._loop).result(2 * CLOSE_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._engine.close()

    async def _play(self, index: int, request: Request) -> None:
        async with self._places:
            completion = await self._outcome(index, request)
        self._inbox.put(lambda: self._finished.append(completion))

    async def _outcome(self, index: int, request: Request) -> Completion:
        name = self._agent.__name__
        turns = itertools.count()
        clock = Clock()

        async def generate(tokens: list[int], most: int) -> Sampled:
            seed = turn_seed(request.seed, next(turns))
            most = min(most, self._max_tokens)
            with clock.standing_still():
                return await self._sample(tokens, most, seed, request.temperature)

        async def play() -> Episode:
            prompt, tokenizer = request.prompt.text, self._engine.tokenizer
            return await run_episode(
                *(self._agent(), prompt, request.label, generate, tokenizer),
                self._engine.max_length,
            )

        try:
            episode = await self._in_time(contained(play()), clock)
        except Exception as error:
            told = f"{name} failed: {type(error).__name__}: {error}"
            return Completion(index, "", None, FAILED, told)
        if episode is None:
            told = f"the environment of {name} took more than {self._timeout_s:g} s"
            return Completion(index, "", None, FAILED, told)
        return Completion(
            index,
            episode.turns[-1].action,
            sum(turn.end - turn.start for turn in episode.turns),
            "length" if episode.truncated else "stop",
            episode=_facts(episode, request, self._engine.tokenizer),
        )

    async def _in_time(self, play: Coroutine[Any, Any, Episode], clock: Clock) -> Episode | None:
        """The episode; None where the clock has run out before its end."""
        task = asyncio.ensure_future(play)
        try:
            while not task.done() and (left := self._timeout_s - clock.seconds) > 0:
                await asyncio.wait({task}, timeout=left)
            if task.cancelled():
                raise RuntimeError("it has cancelled itself")  # nobody else has
            if task.done():
                return task.result()
        finally:
            task.cancel()
        await asyncio.wait({task}, timeout=CLOSE_SECONDS)
        return None

    async def _sample(self, tokens: list[int], most: int, seed: int, heat: float) -> Sampled:
        number = next(self._numbers)
        answer = self._asked[number] = self._loop.create_future()
        self._inbox.put(partial(self._engine.add_turn, number, tokens, most, seed, heat))
        return await answer


def _settle(asked: asyncio.Future[Sampled], sampled: Sampled) -> None:
    if not asked.done():  # broken off meanwhile
        asked.set_result(sampled)


def turn_seed(seed: int, turn: int) -> int:
    """The seed of a turn, from 0: of the first the episode's own, so that an agent of one turn
    hears what a single response would have been; of others a hash, 0 to 2^31 - 1."""
    if turn == 0:
        return seed
    digest = hashlib.sha256(json.dumps([seed, turn]).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _facts(episode: Episode, request: Request, tokenizer: Any) -> dict[str, Any]:
    """What a record holds of an episode."""
    read = tokenizer.decode(
        episode.tokens[: episode.turns[0].start], clean_up_tokenization_spaces=False
    )
    return {
        **({"first_observation": read} if read != request.prompt.text else {}),
        "turns": [
            {
                "action": turn.action,
                "observation": turn.observation,
                "reward": turn.reward,
                "seconds": round(turn.environment_seconds, 3),
            }
            for turn in episode.turns
        ],
        "agent": {"reward": episode.reward, "score": episode.score, "logs": episode.logs},
    }
