"""`python -m vespo_openrlhf.replay RUN`: the same samples, another loss."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PROGRAM = "python -m vespo_openrlhf.replay"

DESCRIPTION = """\
Train from the samples that a run has recorded (train --run.record), once with each loss, from the
model that the run started from, and put the trainings side by side. No engine is started: every
loss sees the same responses with the same rewards and the same log-probs of the policy that sampled
them, in the order in which the run trained them. So what differs is the loss, and not the luck of
the sampling; what it does not show is what a loss would have sampled next.

Everything else is as in the run: batches, optimizer, schedule, advantages. The run's own loss keeps
its options (clips, coefficients); another takes what it was published with.
"""

EXAMPLES = """\
examples:
  # the quickstart's run, recorded; and each model's accuracy on its held-out problems
  python -m vespo_openrlhf.replay runs/quickstart-seed0/run --loss vespo grpo gspo \\
    --benchmarks runs/quickstart-seed0/embedded/heldout.jsonl:4 --out runs/replay

  # how far each loss can be pushed off-policy: one pass and four, in three orders
  python -m vespo_openrlhf.replay RUN --loss vespo gspo --epochs 1 4 --seeds 0 1 2 --out runs/far

  # flags of vespo_openrlhf.train after --, for all of them
  python -m vespo_openrlhf.replay RUN --loss vespo sapo --out runs/slow -- --actor.adam.lr 1e-6

It leaves OUT/LOSS-eEPOCHS[-sSEED]/ for each training, a run folder with its log in job.log;
OUT/report.html, with all of them in one page; and OUT/table.json, with the table's figures. The
same command goes on where it was interrupted: what is finished is found, a training that was not is
started anew.
"""


def build_parser() -> argparse.ArgumentParser:
    """Our own options; what stands after -- is training's."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} RUN --loss LOSS [LOSS ...] --out OUT [option ...] [-- FLAG ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the --run.dir of a recorded run")
    parser.add_argument(
        "--loss",
        nargs="+",
        required=True,
        metavar="LOSS",
        help="names as --actor.policy_loss_type takes them, or path/to/file.py:function; grpo is "
        "ppo",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument(
        "--epochs",
        nargs="+",
        type=int,
        default=[1],
        metavar="N",
        help="passes over the recording, a training for each number (default: 1). Every pass is in "
        "the order of the run, unless there are --seeds",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[],
        metavar="S",
        help="instead of the order of the run, train in another one in each pass, drawn with this "
        "seed; of several seeds the table has the mean and its standard error (default: the order "
        "of the run, and its --train.seed)",
    )
    parser.add_argument(
        "--benchmarks",
        metavar="NAME[:K],...",
        help="evaluate the model of each training, and the one they start from, on these with K "
        "responses to each problem: as vespo eval run takes them, such as problems.jsonl:4",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if a cell failed, 2 for what the user can mend, 130 if
    interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    place = words.index("--") if "--" in words else len(words)
    options = build_parser().parse_args(words[:place])
    # SIGINT too: a shell ignores it in background jobs, and Python then leaves it so.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _interrupt)
    try:
        return _run(options, words[place + 1 :])
    except (ValueError, OSError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, extra: Sequence[str]) -> int:
    # Not before --help has been answered: these import torch.
    from vespo_openrlhf.check import resolve
    from vespo_openrlhf.quickstart.evaluator import Evaluator
    from vespo_openrlhf.replay.accuracy import Accuracy
    from vespo_openrlhf.replay.cells import make_cells, make_jobs, remember
    from vespo_openrlhf.replay.flags import read_config
    from vespo_openrlhf.replay.running import compare

    run, out = options.run.resolve(), options.out.resolve()
    config = read_config(run)
    cells = make_cells(options.loss, options.epochs, options.seeds)
    jobs = make_jobs(cells, run, config, out, resolve.build_parser(), extra)
    accuracy = None
    with Evaluator(out / "evaluator.log") as evaluator:
        if options.benchmarks:
            flags = jobs[0].flags
            accuracy = Accuracy(evaluator, options.benchmarks, flags)
            accuracy.check(flags["actor.model_name_or_path"])
        remember(out, run, extra)
        if config.get("moe.routing_replay", "off") != "off":
            print(
                "note: the run replayed its engines' routing, which a recording does not hold: "
                "here |log W| has the router's rounding in it"
            )
        return compare(jobs, out, accuracy)


def _interrupt(number: int, frame: object) -> NoReturn:
    """Let every `with` and `finally` on the stack stop what it started."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
