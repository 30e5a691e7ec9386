"""`vespo eval`: run, score, compare, report, watch and bench evaluations, and a paper's."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vespo_openrlhf.eval.errors import EvaluationError

COMMANDS = ("run", "score", "compare", "report", "paper", "watch", "bench")
DESCRIPTION = """\
Evaluate language models on benchmarks with checkable answers.

  vespo eval run --model Qwen/Qwen3-1.7B --benchmarks aime24:32,math500:4 --out runs/qwen3
  vespo eval score runs/qwen3                      judge again, without generating
  vespo eval compare runs/base runs/qwen3          paired tests between models
  vespo eval report runs/base runs/qwen3           one HTML file to look through
  vespo eval paper runs/qwen3                      VESPO's published numbers beside yours
  vespo eval watch runs/train/ckpt --out runs/curve   checkpoints as they appear
  vespo eval bench --model Qwen/Qwen3-1.7B         what the harness costs over plain vLLM

Killed at any point, the same `run` command resumes and generates only what is missing.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0; 2 for what the user can mend, 1 for what gave way outside, or requests that failed; 128
        and the signal's number where one stopped it: 130 for Ctrl-C, 143 for SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="vespo eval",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args(arguments[:1]).command
    try:
        with _orderly_end():
            module = importlib.import_module(f"vespo_openrlhf.eval.commands.{command}")
            code: int = module.main(arguments[1:])
            return code
    except (ValueError, OSError) as error:
        print(f"vespo eval {command}: error: {error}", file=sys.stderr)
        return 2
    except EvaluationError as error:
        print(f"vespo eval {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"\nvespo eval {command}: interrupted", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: what came back is written first."""

    def stop(signum: int, _: object) -> None:
        raise KeyboardInterrupt(signum)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as nohup has it
                before[signum] = signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


if __name__ == "__main__":
    sys.exit(main())
