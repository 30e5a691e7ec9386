"""How each fault is done to a stack, taken back, and what tells that the run is over it."""

from __future__ import annotations

import signal
from collections.abc import Callable

import psutil

from vespo_openrlhf.chaos.schedule import Fault
from vespo_openrlhf.chaos.stack import Stack, kill


class Strike:
    """A fault that was done.

    Args:
        fault: which.
        stack: to whom.
    """

    def __init__(self, fault: Fault, stack: Stack) -> None:
        self._fault = fault
        self._stack = stack
        self._returns = self._engines_back()
        self._struck: list[psutil.Process] = []
        self._resumed = False
        _DO[fault.kind](self)

    @property
    def may_end_run(self) -> bool:
        """Whether the training may end of it, once; it is resumed then."""
        return self._fault.kind in ("driver killed", "disk full") and not self._resumed

    def repair(self) -> None:
        """Give back what was taken."""
        stack, kind = self._stack, self._fault.kind
        if kind == "reward killed":
            stack.start_reward()
        elif kind == "node lost":
            stack.nodes[self._fault.victim] = stack.new_node()
        elif kind == "disk full":
            stack.disk.free()

    def resume(self) -> None:
        """Start the training again, which has ended of it."""
        self._stack.start_training()
        self._resumed = True

    def is_over(self) -> bool:
        """Whether what was struck is there again; that the run goes on is for others to see."""
        if self._fault.kind in ("engine stopped", "engine killed", "node lost"):
            return self._engines_back() > self._returns
        return not self.may_end_run or self._fault.kind == "disk full"

    def close(self) -> list[str]:
        """After the recovery, or when it did not come: what is wrong still."""
        if self._resumed:
            self._stack.note_resume()
        left = [process for process in self._struck if _lives(process)]
        for process in left:
            kill(process)
        return [f"process {p.pid} of a stopped engine was left behind" for p in left]

    def _engines_back(self) -> int:
        return self._stack.log.count(" is back as engine-")

    def _stop_engine(self) -> None:
        self._struck = self._stack.engine_processes(self._fault.victim, core=True)
        for process in self._struck:
            process.send_signal(signal.SIGSTOP)

    def _kill_engine(self) -> None:
        for process in self._stack.engine_processes(self._fault.victim, self._fault.core):
            process.send_signal(signal.SIGKILL)

    def _kill_reward(self) -> None:
        kill(self._stack.reward)

    def _fill_disk(self) -> None:
        self._stack.disk.fill()

    def _kill_driver(self) -> None:
        kill(self._stack.training)

    def _lose_node(self) -> None:
        self._stack.nodes[self._fault.victim].kill()


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


_DO: dict[str, Callable[[Strike], None]] = {
    "engine stopped": Strike._stop_engine,
    "engine killed": Strike._kill_engine,
    "reward killed": Strike._kill_reward,
    "disk full": Strike._fill_disk,
    "driver killed": Strike._kill_driver,
    "node lost": Strike._lose_node,
}
