"""`python -m vespo_openrlhf.figure`: the paper's figures, of your losses and of your runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DESCRIPTION = """\
Draw what losses make of the importance weight W (`weights`), or how runs went (`training`).
"""
EXAMPLES = """\
examples:
  vespo figure weights                          # writes weights.svg: VESPO, SAPO, GSPO, hard clip
  vespo figure weights vespo topr my_loss.py:capped --tokens 1000
  vespo figure weights vespo vespo,shape=pessimistic topr
  vespo figure training runs/vespo runs/grpo --benchmarks aime24 aime25 --out panel.png
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="vespo figure",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    weights = kinds.add_parser(
        "weights",
        help="phi(W) and f(W) of losses, for both signs of the advantage",
        description="phi(W), the coefficient of grad log pi, and the surrogate f(W) with "
        "phi = W f', measured on the losses by their gradient.",
    )
    weights.add_argument(
        "losses",
        nargs="*",
        metavar="LOSS",
        help="a loss by name, or FILE.py:FUNCTION, and ,OPTION=VALUE for each option (default: "
        "vespo sapo gspo ppo)",
    )
    weights.add_argument(
        "--tokens",
        type=int,
        default=1,
        metavar="T",
        help="draw over the W of a response of T tokens with equal ratios; 1, as in the paper, "
        "takes W for a token's ratio as well (default 1)",
    )
    training = kinds.add_parser(
        "training",
        help="training dynamics of runs, side by side",
        description="Reward, response length, entropy, KL to the rollout policy, log-perplexity "
        "of the rollout, gradient norm and accuracy over optimizer updates, a line per run. "
        "Accuracy is that of --eval.dataset, and of `vespo eval watch --out RUN/FOLDER`.",
    )
    training.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a --run.dir")
    training.add_argument(
        "--benchmarks",
        nargs="+",
        default=(),
        metavar="NAME",
        help="of the evaluations to draw (default: the first two)",
    )
    for kind in (weights, training):
        kind.add_argument(
            "--out",
            type=Path,
            metavar="FILE",
            help="SVG, PNG or PDF, by its ending (default: KIND.svg here)",
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the figure; returns the exit status: 0, or 2 for what the user can mend."""
    parser = build_parser()
    options = parser.parse_args(argv)
    out = options.out or Path(f"{options.kind}.svg")
    try:
        if options.kind == "weights":
            from .weights import LOSSES, draw

            if options.tokens < 1:
                raise ValueError(f"--tokens {options.tokens}: a response has at least one")
            drawing = draw(options.losses or LOSSES, options.tokens)
        else:
            from . import training

            drawing = training.draw(options.folders, options.benchmarks)
        save(drawing, out)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


def save(drawing: Figure, path: Path) -> None:
    """Write a figure on white, its text as text: the same bytes for the same figure.

    Raises:
        ValueError: no format is called like the file's ending.
    """
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "figure"}):
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        drawing.savefig(path, metadata=metadata, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
