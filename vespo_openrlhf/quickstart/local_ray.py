"""A Ray cluster on this machine that leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from vespo_openrlhf import cpu
from vespo_openrlhf.check.gpus import Cluster
from vespo_openrlhf.quickstart import reaper

_START_TIMEOUT_S = 90.0
_KILL_S = 5.0
# Ray starts workers ahead, one a core. A job's runtime environment wants workers of its own, and
# these would import and wait for nothing.
_NO_WORKERS_AHEAD = {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
# A port that was free may be taken by the time Ray gets there, and on a busy machine Ray's own
# processes give each other up after a fixed half minute.
_ATTEMPTS = 3


class LocalCluster:
    """A context manager around `ray start --head`, with its dashboard on loopback only.

    Args:
        log: file that takes the output of `ray start`.
        num_gpus: GPUs to offer, logical ones on the CPU stack; one for the trainer and one for
            the engine if nothing else is said.
        num_cpus: logical CPUs to offer. Every actor reserves one, and a small machine must not
            wait for cores: at least 8 if nothing else is said.
        labels: of the node, for a run that chooses nodes by them.
        environment: added to the environment of every process of the cluster, as are the CPU
            stack's environment where it is active.

    Raises:
        RuntimeError: Ray did not come up, several times; the message holds the end of its output.
    """

    def __init__(
        self,
        log: Path,
        num_gpus: int = 2,
        num_cpus: int | None = None,
        labels: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._num_gpus = num_gpus
        self._num_cpus = num_cpus or max(8, os.cpu_count() or 1)
        self._mark = uuid.uuid4().hex
        added = {**_NO_WORKERS_AHEAD, **_cpu_environment(), **(environment or {})}
        added[reaper.VARIABLE] = self._mark
        self._environment = {**os.environ, **added}
        self._labels = labels
        self._log = log
        self._nodes = 0
        self.dashboard = ""
        self.address = ""

    def __enter__(self) -> LocalCluster:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._start()
                break
            except RuntimeError:
                if attempt == _ATTEMPTS:
                    raise
        return self

    def _start(self) -> None:
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        self.address = f"127.0.0.1:{free_port()}"
        # Ray puts sockets below this folder, and their paths may only have some 100 characters.
        self._folder = folder = tempfile.mkdtemp(prefix="vespo-ray-")
        self._reaper = subprocess.Popen(
            [sys.executable, "-m", reaper.__name__, self._mark, folder],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must not end it before its work is done
        )
        command = [
            *ray_command(),
            *("start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address", "127.0.0.1", "--port", self.address.rpartition(":")[2]),
            *("--dashboard-host", "127.0.0.1"),
            *("--dashboard-port", self.dashboard.rpartition(":")[2]),
            # These two have fixed defaults, and a second cluster on the machine would not start.
            *("--dashboard-agent-listen-port", str(free_port())),
            *("--ray-client-server-port", str(free_port())),
            *_offers(self._num_gpus, self._num_cpus, self._labels),
            *("--temp-dir", folder),
        ]
        try:
            with open(self._log, "wb") as output:
                self._head = subprocess.Popen(
                    command,
                    env=self._environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches us, and we stop Ray in order
                )
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *exception: Any) -> None:
        # Where all went well nobody needs what Ray would write as it ends.
        self.stop(gently=exception[0] is not None)

    @property
    def environment(self) -> dict[str, str]:
        """For processes that talk to this cluster: they count as its own and are stopped too."""
        return self._environment

    def add_node(
        self, num_gpus: int = 1, num_cpus: int = 4, labels: Mapping[str, str] | None = None
    ) -> LocalNode:
        """Another node of the cluster, on this machine too, under a loopback address of its own.

        Raises:
            RuntimeError: it did not come up; the message holds the end of its output.
        """
        self._nodes += 1
        command = [
            *ray_command(),
            *("start", "--block", "--disable-usage-stats", "--address", self.address),
            *("--node-ip-address", f"127.0.0.{1 + self._nodes}"),
            *("--dashboard-agent-listen-port", str(free_port())),
            *_offers(num_gpus, num_cpus, labels),
            # Nodes that start at once would take each other's sockets.
            *("--temp-dir", f"{self._folder}/{self._nodes}"),
        ]
        log = self._log.with_name(f"{self._log.stem}-node-{self._nodes}{self._log.suffix}")
        return LocalNode(command, self._environment, log)

    def stop(self, *, gently: bool = True) -> None:
        """End every process of the cluster, gently first or at once, and remove its files.

        The reaper does it, as it does when this process is killed. If it was itself killed, it is
        done here.
        """
        self._reaper.communicate(b"" if gently else reaper.AT_ONCE)
        if self._reaper.returncode:
            reaper.clean_up(self._mark, self._folder, gently=gently)

    def _wait_until_up(self) -> None:
        """Until a node is alive: the dashboard answers before, and also where none will be."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._head.poll() is None:
            with contextlib.suppress(ValueError):
                Cluster.running(self.dashboard)
                return
            time.sleep(0.3)
        tail = self._log.read_text(errors="replace")[-2000:]
        how = "ended at once" if self._head.poll() is not None else "does not answer"
        raise RuntimeError(f"Ray {how}; the end of {self._log}:\n{tail}")


class LocalNode:
    """A node beside the head; see `LocalCluster.add_node`."""

    #: Inherited by every process of the node, and by no other's.
    VARIABLE = "VESPO_LOCAL_NODE"

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._mark = uuid.uuid4().hex
        with open(log, "wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**environment, self.VARIABLE: self._mark},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the node did not come up; the end of {log}:\n{tail}")
            time.sleep(0.3)

    def processes(self) -> list[psutil.Process]:
        """All that run on the node."""
        return reaper.marked(self._mark, self.VARIABLE)

    def kill(self) -> None:
        """End it as if the machine were gone: nothing of it is asked, or left."""
        while left := self.processes():
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=_KILL_S)
        self._process.wait()


def _offers(num_gpus: int, num_cpus: int, labels: Mapping[str, str] | None) -> list[str]:
    offers = ["--num-gpus", str(num_gpus), "--num-cpus", str(num_cpus)]
    if labels:
        offers += ["--labels", ",".join(f"{name}={value}" for name, value in labels.items())]
    return offers


def _cpu_environment() -> dict[str, str]:
    if not cpu.is_active():
        return {}
    return cpu.environment()


def ray_command() -> list[str]:
    """Ray's command line, of the interpreter that runs us."""
    return [sys.executable, "-m", "ray.scripts.scripts"]


def free_port() -> int:
    """A port of loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
