"""How well a model plays the calculator's episodes, by the turn that they end in.

python -m vespo_openrlhf.quickstart.episodes --model DIR --problems FILE.jsonl --out FILE.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vespo_openrlhf.agents.episode import Episode
from vespo_openrlhf.embedded.arithmetic import Problem
from vespo_openrlhf.embedded.model import reproducible
from vespo_openrlhf.embedded.playing import play
from vespo_openrlhf.eval.metrics import summarise
from vespo_openrlhf.files import write_text

REPEATS = 4


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
    parser = argparse.ArgumentParser(prog="python -m vespo_openrlhf.quickstart.episodes")
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
