"""The calculator's episodes, played by a model in this process, and how well they went.

python -m vespo_openrlhf.embedded.playing --model DIR --problems FILE.jsonl --out FILE.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from vespo_openrlhf.agents.episode import Episode, Sampled, run_episode
from vespo_openrlhf.embedded.arithmetic import Problem
from vespo_openrlhf.embedded.calculator import Calculator
from vespo_openrlhf.embedded.model import Model, reproducible
from vespo_openrlhf.embedded.options import MAX_LENGTH, MAX_RESPONSE_TOKENS
from vespo_openrlhf.embedded.tokenizer import chat_text
from vespo_openrlhf.eval.metrics import summarise
from vespo_openrlhf.files import write_text

REPEATS = 4


class Batches:
    """Turns of many episodes in one batch: what is asked waits until all that are played ask."""

    def __init__(self, model: Model, tokenizer: PreTrainedTokenizerFast, *, greedy: bool) -> None:
        self._model = model
        self._tokenizer = tokenizer
        # top_k spelled out: transformers truncates to the 50 likeliest by default.
        self._how: dict[str, Any] = (
            {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0}
        )
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

    @torch.no_grad()
    def _answer(self) -> None:
        asked, self._asked = self._asked, []
        end, pad = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        batch = self._tokenizer.pad(
            {"input_ids": [tokens for tokens, _ in asked]}, padding_side="left", return_tensors="pt"
        )
        rows = self._model.generate(**batch, max_new_tokens=MAX_RESPONSE_TOKENS, **self._how)
        for (_, answer), row in zip(asked, rows[:, batch["input_ids"].shape[1] :], strict=True):
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


def summary(problems: Sequence[Problem], episodes: Sequence[Episode], repeats: int) -> Any:
    """As `vespo eval run` summarises a benchmark, and by the turn that they ended in `by_turn`:
    the share of episodes, and how many of them were right.

    Args:
        problems: P.
        episodes: P x repeats, repeat by repeat.
        repeats: of each problem.
    """
    records = [
        {
            **{"id": problem.prompt, "repeat": repeat, "correct": bool(episode.reward)},
            **{"reason": "correct" if episode.reward else "wrong", "extracted": None},
            "tokens": sum(turn.end - turn.start for turn in episode.turns),
            "finish_reason": "length" if episode.truncated else "stop",
        }
        for (repeat, problem), episode in zip(
            ((repeat, problem) for repeat in range(repeats) for problem in problems),
            episodes,
            strict=True,
        )
    ]
    by_turn = {}
    for turn in sorted({len(episode.turns) for episode in episodes}):
        ended = [episode for episode in episodes if len(episode.turns) == turn]
        right = sum(episode.reward for episode in ended)
        by_turn[str(turn)] = {"share": len(ended) / len(episodes), "accuracy": right / len(ended)}
    return {**summarise(records), "by_turn": by_turn}


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the problems of a file, sampled and greedy, and write the summaries."""
    parser = argparse.ArgumentParser(prog="python -m vespo_openrlhf.embedded.playing")
    parser.add_argument("--model", type=Path, required=True, help="its folder")
    parser.add_argument("--problems", type=Path, required=True, help="JSON lines, with a prompt")
    parser.add_argument("--out", type=Path, required=True, help="the summaries, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    lines = map(json.loads, options.problems.read_text().splitlines())
    problems = [Problem(*map(int, line["prompt"].rstrip("=").split("+"))) for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    with reproducible(random.Random(f"playing-{options.seed}").getrandbits(32)):
        sampled = play(model, tokenizer, problems * REPEATS)
        greedy = play(model, tokenizer, problems, greedy=True)
    benchmarks = {
        "heldout": summary(problems, sampled, REPEATS),
        "heldout-greedy": summary(problems, greedy, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, json.dumps({"benchmarks": benchmarks}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
