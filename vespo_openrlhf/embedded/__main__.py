"""`python -m vespo_openrlhf.embedded --out DIR`: build the embedded model and its data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vespo_openrlhf.embedded.build import build
from vespo_openrlhf.embedded.options import BuildOptions, WarmStart
from vespo_openrlhf.options import fields

DESCRIPTION = """\
Build what the quickstart trains: a tiny Qwen3, or Qwen3-MoE, and an addition data set. Half a
minute on two hyperthreads; no GPU, no download. Writes

  DIR/model          Hugging Face folder: float32 weights, tokenizer with chat template
  DIR/train.jsonl    one problem a line: prompt, label, datasource, solution
  DIR/heldout.jsonl  the same; shares no problem with train.jsonl
  DIR/manifest.json  the options, the accuracy of the model, a hash of every file

A prompt is `347+586=`, a solution one line a column from the ones up, then the boxed sum:

  7+6=13
  4+8+1=13
  3+5+1=9
  \\boxed{933}

The model is warmed up on solutions of which most are by a student who forgets to carry (no
`+1`, and so a wrong sum: every problem has a carry). It adds columns well and mostly forgets to
carry; training it with rewards for right sums teaches it to. With --agent who is right asks a
calculator instead, in a turn of its own: calc(347+586). Same options, same files; run
again, it finds them and does nothing.
"""

EXAMPLES = """\
examples:
  python -m vespo_openrlhf.embedded --out runs/embedded
  python -m vespo_openrlhf.embedded --out runs/seed1 --seed 1
  python -m vespo_openrlhf.embedded --out runs/moe --moe
  python -m vespo_openrlhf.embedded --out runs/agent --agent
  python -m vespo_openrlhf.embedded --out runs/student --small
  python -m vespo_openrlhf.embedded --out runs/teacher --forget-share 0  # always right
  python -m vespo_openrlhf.embedded --out runs/hard --forget-share 0.9   # right is rare
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, and print the accuracy of the warm start.

    Args:
        arguments: of the command line; those of the process if None.

    Returns:
        0, or 2 for options or a folder that cannot be built, with the reason on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m vespo_openrlhf.embedded",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to build in")
    for field, kind, _ in (*fields(BuildOptions), *fields(WarmStart)):
        if field.name in ("seed", "train_problems", "heldout_problems", "steps", "forget_share"):
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=kind,
                default=field.default,
                help=f"{field.metadata['help']} (default {field.default})",
            )
    parser.add_argument(
        "--moe", action="store_true", help="a mixture of experts (Qwen3-MoE) of the same width"
    )
    parser.add_argument(
        "--agent",
        action="store_true",
        help="demonstrations of an agent: who is right asks a calculator and copies its answer",
    )
    parser.add_argument(
        "--small", action="store_true", help="half as wide: a student that the other can teach"
    )
    parser.add_argument("--force", action="store_true", help="build even if it is there already")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    try:
        chosen = BuildOptions(
            seed=options.seed,
            moe=options.moe,
            agent=options.agent,
            small=options.small,
            train_problems=options.train_problems,
            heldout_problems=options.heldout_problems,
            warm_start=WarmStart(steps=options.steps, forget_share=options.forget_share),
        )
        report = build(options.out, chosen, progress=not options.quiet, force=options.force)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"{'built' if report.built else 'found, nothing to do'}: {options.out}")
    print(
        f"held-out accuracy of the warm start: {report.sampled:.3f} sampled at temperature 1, "
        f"{report.greedy:.3f} greedy"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
