"""Evaluations beside other work, by one process that imports vLLM once for all of them.

The import takes longer than the evaluations do. `python -m vespo_openrlhf.quickstart.evaluator`
reads the arguments of an evaluation as one line of JSON, and forks a process for it that is ready
to go; its answer is a line with the exit status. It ends with its standard input, which the end of
its parent closes, and so does the evaluation.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).resolve().parents[2]
_LOOK_MS = 100
_GRACE_S = 10.0


class Evaluator:
    """A context manager around that process, which starts when it is first needed.

    Args:
        log: file that takes what the imports say.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Evaluator:
        return self

    def prepare(self) -> None:
        """Begin with the imports."""
        if self._process is not None:
            return
        with open(self._log, "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=_REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,  # to be stopped with the evaluation it has started
            )

    def __exit__(self, *exception: Any) -> None:
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                # To the end of its output, which the evaluation holds open as well.
                self._process.communicate(timeout=_GRACE_S)
                return

    def start(self, arguments: Sequence[str], log: Path) -> Callable[[], None]:
        """Begin `vespo eval run` with these arguments; one at a time.

        Args:
            arguments: of the command.
            log: file that takes its output.

        Returns:
            What waits for its end. Raises RuntimeError if it failed; the message holds the end of
            its log.
        """
        self.prepare()
        assert self._process is not None
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        with contextlib.suppress(BrokenPipeError):  # its end is what is waited for below
            print(json.dumps([str(log), *arguments]), file=requests, flush=True)

        def wait() -> None:
            if (answer := answers.readline()) == "0\n":
                return
            shown = log if answer else self._log
            tail = shown.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"the evaluation failed; the end of {shown}:\n{tail}")

        return wait


def serve() -> None:
    """Import, then fork a process for each line of standard input."""
    from vespo_openrlhf.eval.__main__ import main
    from vespo_openrlhf.eval.engines.offline import import_vllm

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a package says on being imported is no answer
    import_vllm()
    for line in sys.stdin:
        log, *arguments = json.loads(line)
        if child := os.fork():
            print(_status(child), file=answers, flush=True)
            continue
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = main(["run", *arguments])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # of what was imported nothing needs to be taken down


def _status(child: int) -> int:
    """The exit status of a process of ours, once it has one. Where standard input ends first there
    is nobody to tell, and all of our session ends."""
    asker = select.poll()
    asker.register(0, 0)  # that it hangs up is always told
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if asker.poll(_LOOK_MS):
            os.killpg(0, signal.SIGTERM)
    return os.waitstatus_to_exitcode(ended[1])


if __name__ == "__main__":
    serve()
