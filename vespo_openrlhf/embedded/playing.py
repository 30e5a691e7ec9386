"""The calculator's episodes, played by a model in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from vespo_openrlhf.agents.episode import Episode, Sampled, run_episode
from vespo_openrlhf.embedded.arithmetic import Problem
from vespo_openrlhf.embedded.calculator import Calculator
from vespo_openrlhf.embedded.model import Model, respond
from vespo_openrlhf.embedded.options import MAX_LENGTH, MAX_RESPONSE_TOKENS
from vespo_openrlhf.embedded.tokenizer import chat_text


class Batches:
    """Turns of many episodes in one batch: what is asked waits until all that are played ask."""

    def __init__(self, model: Model, tokenizer: PreTrainedTokenizerFast, *, greedy: bool) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._greedy = greedy
        self._asked: list[tuple[list[int], asyncio.Future[Sampled]]] = []

    async def play(self, problems: Sequence[Problem]) -> list[Episode]:
        """An episode of each problem."""
        played = [asyncio.create_task(self._episode(problem)) for problem in problems]
        while living := sum(not task.done() for task in played):
            await asyncio.sleep(0)
            if len(self._asked) == living:
                self._answer()
        return [task.result() for task in played]

    async def _episode(self, problem: Problem) -> Episode:
        prompt, tokenizer = chat_text(self._tokenizer, problem.prompt), self._tokenizer
        return await run_episode(
            Calculator(), prompt, problem.label, self._generate, tokenizer, MAX_LENGTH
        )

    async def _generate(self, tokens: list[int], most: int) -> Sampled:
        assert most >= MAX_RESPONSE_TOKENS
        answer: asyncio.Future[Sampled] = asyncio.get_running_loop().create_future()
        self._asked.append((tokens, answer))
        return await answer

    def _answer(self) -> None:
        asked, self._asked = self._asked, []
        end, pad = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        batch = self._tokenizer.pad(
            {"input_ids": [tokens for tokens, _ in asked]}, padding_side="left", return_tensors="pt"
        )
        rows = respond(self._model, batch, greedy=self._greedy)
        for (_, answer), row in zip(asked, rows, strict=True):
            tokens = [token for token in row.tolist() if token != pad]
            stopped = tokens[-1:] == [end]
            answer.set_result(Sampled(tokens, None, "stop" if stopped else "length"))


def play(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    *,
    greedy: bool = False,
) -> list[Episode]:
    """An episode of each problem, all side by side, at temperature 1 unless `greedy`."""
    return asyncio.run(Batches(model, tokenizer, greedy=greedy).play(problems))


def episode_accuracy(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    *,
    samples: int = 1,
    greedy: bool = False,
) -> float:
    """Share of episodes that end with the right answer; see `model.accuracy`."""
    episodes = play(model, tokenizer, list(problems) * (1 if greedy else samples), greedy=greedy)
    return sum(episode.reward for episode in episodes) / len(episodes)
