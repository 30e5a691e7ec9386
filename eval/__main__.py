"""`python -m eval run`: sample a model on a file of problems and report its accuracy."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.metrics import avg_at_k


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; returns the exit status: 0, or 2 for what the user can mend."""
    arguments = _parser().parse_args(argv)
    try:
        summary = run(arguments)
    except ValueError as error:
        print(f"python -m eval: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary, indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser(
        "run",
        help="generate, verify, and summarise",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    run_parser.add_argument("--model", required=True, help="model folder or hub id")
    run_parser.add_argument(
        "--problems", required=True, help="JSONL or Parquet file with columns prompt and label"
    )
    run_parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    run_parser.add_argument("--repeats", type=int, default=4, help="samples per problem (k)")
    run_parser.add_argument("--temperature", type=float, default=1.0)
    run_parser.add_argument("--max-tokens", type=int, default=1024, help="longest response")
    run_parser.add_argument("--seed", type=int, default=0)
    return parser


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sampled and greedy accuracy; writes `responses.jsonl` and `summary.json` into `--out`.

    Raises:
        ValueError: the problems cannot be read, or the model has no chat template.
    """
    from eval.generate import Generator
    from reward import verify

    problems = _read_problems(arguments.problems)
    generator = Generator(arguments.model, max_tokens=arguments.max_tokens, seed=arguments.seed)
    passes = {
        "sampled": (arguments.repeats, arguments.temperature),
        "greedy": (1, 0.0),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {
        "model": str(arguments.model),
        "problems": len(problems),
        "repeats": arguments.repeats,
        "temperature": arguments.temperature,
    }
    with open(arguments.out / "responses.jsonl", "w", encoding="utf-8") as file:
        for name, (repeats, temperature) in passes.items():
            sampled = generator.sample(
                [problem["prompt"] for problem in problems],
                repeats=repeats,
                temperature=temperature,
            )
            correct = []
            for index, (problem, responses) in enumerate(zip(problems, sampled, strict=True)):
                verdicts = [verify(response.text, problem["label"]) for response in responses]
                correct.append([verdict.correct for verdict in verdicts])
                for repeat, (response, verdict) in enumerate(zip(responses, verdicts, strict=True)):
                    line = {"problem": index, "repeat": repeat, "pass": name, **problem}
                    line |= {**vars(response), **vars(verdict)}
                    file.write(json.dumps(line) + "\n")
            mean = avg_at_k(correct)
            summary[name] = {"accuracy": mean.value, "standard_error": mean.standard_error}
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _read_problems(path: str) -> list[dict[str, str]]:
    from vespo_openrlhf.data import checks

    checks.check_prompts(path, input_key="prompt", label_key="label", split="train")
    from datasets import load_dataset

    kind = "json" if path.endswith((".json", ".jsonl")) else "parquet"
    rows = load_dataset(kind, data_files=path, split="train")
    return [{"prompt": row["prompt"], "label": str(row["label"])} for row in rows]


if __name__ == "__main__":
    sys.exit(main())
