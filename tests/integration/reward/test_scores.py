"""What a user's score may do in its worker, and what it leaves behind: nothing."""

import json
import os
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from vespo_openrlhf.reward import make_reward_func, verify
from vespo_openrlhf.reward.custom import isolated_score
from vespo_openrlhf.reward.pool import client
from vespo_openrlhf.reward.tools.adversarial import adversarial_answers

SPAWNING = """
import os, subprocess, sys, time
def score(response, label, prompt):
    code = "import os, time; os.setsid(); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code])
    subprocess.run(f"sleep 600 & echo $! >> {label}", shell=True)  # its parent ends at once
    with open(label, "a") as pids:
        pids.write(f"{child.pid}\\n")
    time.sleep(600 if response == "hang" else 0)
    return 1.0
"""


@pytest.fixture
def own_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a server of this test's own, started by its first call."""
    client.close()
    folder = Path(tempfile.mkdtemp())  # short, as a socket's path must be
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    client.close()
    shutil.rmtree(folder, ignore_errors=True)


def server_pid() -> int:
    verify(r"\boxed{x^2-1}", "(x-1)(x+1)")
    connection = client._take()
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    client._free.append(connection)
    return int(struct.unpack("3i", peer)[0])


def score_of(folder: Path, text: str, timeout_s: float = 30.0) -> Callable[..., Any]:
    file = folder / "score.py"
    file.write_text(text)
    return isolated_score(str(file), "score", timeout_s)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_for(condition: Callable[[], bool]) -> bool:
    for _ in range(1200):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("end", ["time-out", "server killed", "server stopped"])
def test_the_children_of_a_score_do_not_outlive_it(
    own_server: Path, tmp_path: Path, end: str
) -> None:
    pids = tmp_path / "pids"
    hang = score_of(tmp_path, SPAWNING, 3.0 if end == "time-out" else 600.0)
    server = server_pid()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(hang, "hang", str(pids), "")
        assert wait_for(lambda: pids.exists() and pids.read_text().count("\n") == 2)
        children = [int(pid) for pid in pids.read_text().split()]
        if end != "time-out":
            signals = {"server killed": signal.SIGKILL, "server stopped": signal.SIGTERM}
            (tmp_path / "score.py").write_text("def score(*_):\n    return 1.0\n")  # the next call
            os.kill(server, signals[end])
        call.result()
    assert wait_for(lambda: all(gone(pid) for pid in children))


def test_a_process_that_its_parent_left_is_killed_in_mid_run(
    own_server: Path, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    assert score_of(tmp_path, SPAWNING)("go on", str(pids), "").value == 1.0
    left, child = (int(pid) for pid in pids.read_text().split())
    assert wait_for(lambda: gone(left))
    assert not gone(child)  # the worker is alive, and so is what it keeps


def test_a_score_sees_no_secrets(
    own_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("HF_TOKEN", "WANDB_API_KEY", "aws_secret_access", "DB_PASSWORD", "MYSQL_PWD")
    for name in names:
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    seen = score_of(
        tmp_path,
        "import os\ndef score(*_):\n    return dict.fromkeys(os.environ, 1.0) | {'score': 1.0}\n",
    )
    variables = seen("", "", "").logs
    assert "TOKENIZERS_PARALLELISM" in variables
    assert "PATH" in variables
    assert not set(names) & set(variables)
    family = psutil.Process(server_pid()).parent()
    assert family is not None
    for process in (family, *family.children(recursive=True)):
        assert b"hush" not in Path(f"/proc/{process.pid}/environ").read_bytes()


def test_a_score_has_limits(own_server: Path, tmp_path: Path) -> None:
    limits = score_of(
        tmp_path,
        "import os, resource\n"
        "def score(*_):\n"
        "    found = {n: resource.getrlimit(getattr(resource, n))[0] for n in dir(resource)\n"
        "             if n.startswith('RLIMIT_')}\n"
        "    return {**found, 'score': float(os.getsid(0) == os.getpid())}\n",
        10.0,
    )("", "", "")
    assert limits.value == 1.0  # of a session of its own
    found = limits.logs
    assert found["RLIMIT_CPU"] <= 10 * len(os.sched_getaffinity(0)) + 10
    assert found["RLIMIT_FSIZE"] == 256 * 2**20
    assert found["RLIMIT_NOFILE"] <= 1024 + 100
    total = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    assert 0 < found["RLIMIT_NPROC"] < total + 3000
    assert found["RLIMIT_CORE"] == 0
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY  # not our own


def test_a_score_cannot_fill_the_disk(own_server: Path, tmp_path: Path) -> None:
    big = score_of(
        tmp_path,
        "import os\n"
        "def score(response, label, prompt):\n"
        "    with open(label, 'wb') as file:\n"
        "        os.ftruncate(file.fileno(), 2**30)\n"
        "    return 1.0\n",
    )
    with pytest.raises(RuntimeError, match="File too large"):
        big("", str(tmp_path / "big"), "")


def test_scores_that_ask_the_verifier_do_not_wait_for_each_other(
    own_server: Path, tmp_path: Path
) -> None:
    """As many at once as there are workers, each with a comparison that takes all its time."""
    tower = adversarial_answers()["logarithm of a tower"]
    asking = score_of(
        tmp_path,
        "from vespo_openrlhf.reward import verify\n"
        "def score(response, label, prompt):\n"
        "    verdict = verify(response, label, timeout_s=1.0)\n"
        "    return {'score': verdict.correct, verdict.reason: 1.0}\n",
        600.0,
    )
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(asking, f"\\boxed{{{tower}+{n}y}}", "x", "") for n in range(4)]
        assert [call.result().logs for call in calls] == [{"timeout": 1.0}] * 4
    pid = server_pid()
    client.close()
    assert wait_for(lambda: gone(pid))  # though workers had connections to it


def test_a_score_whose_verifier_is_gone_is_not_trained_on(own_server: Path, tmp_path: Path) -> None:
    """The score keeps nothing of the verdict but whether it is right."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import os\n"
        "from vespo_openrlhf.reward import make_reward_func, verify\n"
        "def score(response, label, prompt):\n"
        "    os.environ['XDG_RUNTIME_DIR'], os.environ['TMPDIR'] = '/nowhere', '/dev/null'\n"
        "    import tempfile; tempfile.tempdir = '/dev/null'\n"
        "    return float(verify(response, label).correct)\n"
        "reward_func = make_reward_func(score)\n"
    )
    names: dict[str, Any] = {"__name__": "mine"}
    exec(compile(file.read_text(), str(file), "exec"), names)
    result = names["reward_func"]([r"\boxed{x^2-1}", r"\boxed{4}"], [""] * 2, ["(x-1)(x+1)", "4"])
    assert json.dumps(result["rewards"].tolist()) == "[NaN, 1.0]"
    assert result["extra_logs"]["unavailable"] == 0.5


def test_a_barred_verifier_gives_no_reward(
    own_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    # Short: /tmp is used in the place of a folder whose name a socket's path has no room for.
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    from vespo_openrlhf.reward.math_reward import reward_func

    result = reward_func([r"\boxed{x^2-1}"], [""], ["(x-1)(x+1)"])
    assert json.dumps(result["rewards"].tolist()) == "[NaN]"
    assert make_reward_func(_one)(["any"], [""], [""])["rewards"].isnan().all()


def _one(response: str, label: str, prompt: str) -> float:
    return 1.0


def test_hostile_answers_hold_up_no_others(own_server: Path) -> None:
    """Each different, and the others come last.

    The server would wait for as long as it takes, so that a loaded machine fails no assertion.
    """
    towers = [adversarial_answers()[name] for name in ("carets", "logarithm of a tower")]
    code = (
        "import sys; from vespo_openrlhf.reward.pool import server\n"
        "server.QUEUE_S = 600.0; server.main(sys.argv[1])"
    )
    path = client.socket_path()
    server = psutil.Popen([sys.executable, "-c", code, str(path)])
    assert wait_for(path.exists)
    attack = []
    for n in range(200):
        args = [[r"\frac{\sqrt{2}x}{3}"], [f"{towers[n % 2]}+{n}y"]]
        request = {"op": "compare", "args": args, "timeout": 5.0}
        attack.append(client._connect())
        attack[-1].sendall(json.dumps(request).encode() + b"\n")
    with ThreadPoolExecutor(16) as threads:
        right = [
            threads.submit(verify, f"\\boxed{{x^2-{n * n}}}", f"(x-{n})(x+{n})", timeout_s=600.0)
            for n in range(2, 18)
        ]
        assert [verdict.result().reason for verdict in right] == ["correct"] * 16
    # The hostile ones have had a first slice of processor time each, and hardly a second.
    quick = [worker for worker in server.children() if 0 < worker.nice() - server.nice() < 15]
    assert sum(sum(worker.cpu_times()[:2]) for worker in quick) < 200 * 0.1
    for connection in attack:
        connection.close()
    client.close()
    server.terminate()
    server.wait()
