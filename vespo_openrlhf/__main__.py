"""The console command `vespo`: `vespo train ...` is `python -m vespo_openrlhf.train ...`."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train with VESPO or a rival, on OpenRLHF",
    "check": "check a recipe before a node is rented",
    "simulate": "size a cluster and a lag bound",
    "data": "prepare prompts",
    "recorded": "import rollouts of other trainers, and look at recorded ones",
    "reward": "ask the verifier, audit golds, or serve it over HTTP",
    "eval": "evaluate models on benchmarks, and compare them",
    "replay": "compare losses on a run's recorded samples",
    "study": "compare losses under staleness, without a GPU",
    "report": "a page on one run or several",
    "figure": "the paper's figures, of losses and of runs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a module of this package as a program; only that one is imported.

    Returns:
        0, or 2 for a command that does not exist. A command's own status is raised by it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print("usage: vespo COMMAND ...    vespo COMMAND --help says more\n")
        for name, text in COMMANDS.items():
            print(f"  {name:<10}{text}")
        return 0
    if command not in COMMANDS:
        print(f"vespo: no command {command!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"vespo {command}", *words[1:]]
    runpy.run_module(f"vespo_openrlhf.{command}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
