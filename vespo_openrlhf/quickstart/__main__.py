"""`python -m vespo_openrlhf.quickstart`: what `scripts/quickstart.sh` runs after installing."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vespo_openrlhf import cpu
from vespo_openrlhf.quickstart.pipeline import Plan, execute


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where a step failed or did not help, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="scripts/quickstart.sh",
        description="Build a tiny model and its data, train it with VESPO on OpenRLHF, Ray, vLLM "
        "and DeepSpeed, and evaluate it before and after.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--cpu", action="store_true", help="the CPU stack even if there is a GPU")
    parser.add_argument(
        "--moe", action="store_true", help="a mixture of experts in the place of the dense model"
    )
    parser.add_argument(
        "--agent",
        action="store_true",
        help="an agent of two turns, which learns to ask a calculator instead of guessing",
    )
    parser.add_argument(
        "--distill",
        action="store_true",
        help="a student half as wide, which learns from a teacher in the place of the reward",
    )
    parser.add_argument("--seed", type=int, default=0, help="of data, demonstrations and training")
    parser.add_argument(
        "--batches", type=int, default=Plan.batches, help="rollout batches to train for"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for everything (default: runs/quickstart-seed{SEED}, with --moe "
        "runs/quickstart-moe-seed{SEED}, and so on)",
    )
    arguments = parser.parse_args(argv)
    if arguments.cpu:
        os.environ[cpu.FORCE_VARIABLE] = "1"
    kind = "moe-" * arguments.moe + "agent-" * arguments.agent + "distill-" * arguments.distill
    name = f"quickstart-{kind}seed{arguments.seed}"
    out = (arguments.out or Path("runs") / name).resolve()
    # SIGINT too: a shell ignores it in background jobs, and Python then leaves it so.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored: under nohup
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        kinds = arguments.moe, arguments.agent, arguments.distill
        plan = Plan(out, arguments.seed, arguments.batches, *kinds)
        return execute(plan)
    except (RuntimeError, ValueError, OSError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; everything that was started has been stopped", file=sys.stderr)
        return 130


def _interrupt(number: int, frame: object) -> NoReturn:
    """Let every `with` and `finally` on the stack stop what it started."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
