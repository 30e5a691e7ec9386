"""The worker processes: limits, deaths, callers of every kind, and what is left behind."""

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from vespo_openrlhf import reward
from vespo_openrlhf.reward import verify
from vespo_openrlhf.reward.custom import isolated_score
from vespo_openrlhf.reward.pool import client
from vespo_openrlhf.reward.tools.adversarial import adversarial_answers

ROOT = Path(reward.__file__).parent.parent
GOLDS = ("7", r"\frac{\sqrt{2}x}{3}")
LIMIT_S = 1.0
# Half a second over the limit is the contract on an idle machine; this one may be shared.
SLACK_S = 1.5


def server_pid() -> int:
    """The process behind this process's connections."""
    verify(r"\boxed{x^2-1}", "(x-1)(x+1)")
    connection = client._take()
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    client._free.append(connection)
    return int(struct.unpack("3i", peer)[0])


def workers() -> list[psutil.Process]:
    return psutil.Process(server_pid()).children()


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("gold", GOLDS)
@pytest.mark.parametrize("name", adversarial_answers())
def test_an_adversarial_answer_is_answered_at_its_limit(name: str, gold: str) -> None:
    answer = adversarial_answers()[name]
    verify(r"\boxed{x^2-1}", "(x-1)(x+1)")
    for response in (f"so \\boxed{{{answer}}}", f"so \\boxed{{{answer}", answer):
        started = time.perf_counter()
        verdict = verify(response, gold, timeout_s=LIMIT_S)
        assert time.perf_counter() - started < LIMIT_S + SLACK_S, verdict.reason
        assert not verdict.correct
    started = time.perf_counter()
    verify(r"so \boxed{7}", answer, timeout_s=LIMIT_S)
    assert time.perf_counter() - started < LIMIT_S + SLACK_S


def test_normal_calls_go_on_beside_a_hang(tmp_path: Path) -> None:
    file = tmp_path / "hang.py"
    file.write_text("def score(response, label, prompt):\n    return 9**9**9**9\n")
    hang = isolated_score(str(file), "score", 2.0)
    verify(r"\boxed{x^2-1}", "(x-1)(x+1)")
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(hang, "", "", "")
        done = 0
        while not hanging.done():
            assert verify(r"\boxed{x^2-1}", "(x-1)(x+1)").correct
            done += 1
    assert hanging.result().logs["timeout"] == 1.0
    assert done > 10


def test_a_worker_killed_in_mid_call_costs_a_retry(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    file = tmp_path / "slow.py"
    file.write_text(
        "import os, time\n"
        "def score(response, label, prompt):\n"
        f"    open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "    time.sleep(1)\n"
        "    return 0.5\n"
    )
    slow = isolated_score(str(file), "score", 10.0)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(slow, "", "", "")
        assert wait_for(lambda: pids.exists() and pids.read_text().endswith("\n"), 10)
        os.kill(int(pids.read_text()), signal.SIGKILL)
        assert verify(r"\boxed{x^2-1}", "(x-1)(x+1)").correct
        assert call.result(20).value == 0.5
    assert len(set(pids.read_text().split())) == 2


def test_idle_workers_that_are_killed_are_replaced() -> None:
    for worker in workers():
        worker.kill()
    for _ in range(5):
        assert verify(r"\boxed{x^2-1}", "(x-1)(x+1)").correct
    assert wait_for(lambda: len(workers()) >= 2, 10)


def test_a_server_that_is_killed_is_replaced_without_an_error() -> None:
    before = server_pid()
    children = [child.pid for child in workers()]
    os.kill(before, signal.SIGKILL)
    assert verify(r"\boxed{x^2-1}", "(x-1)(x+1)").correct
    assert server_pid() != before
    assert wait_for(lambda: not any(alive(pid) for pid in children), 10)


def test_memory_is_limited(tmp_path: Path) -> None:
    file = tmp_path / "hungry.py"
    file.write_text("def score(response, label, prompt):\n    return len(bytearray(3 * 2**30))\n")
    with pytest.raises(RuntimeError, match="MemoryError"):
        isolated_score(str(file), "score", 10.0)("", "", "")


def test_nothing_is_left_behind_when_a_caller_is_killed(tmp_path: Path) -> None:
    hang = tmp_path / "hang.py"
    hang.write_text("def score(response, label, prompt):\n    return 9**9**9**9\n")
    code = (
        "import threading, time\n"
        "from vespo_openrlhf.reward import verify\n"
        "from vespo_openrlhf.reward.custom import isolated_score\n"
        "verify(r'\\boxed{x^2-1}', '(x-1)(x+1)')\n"
        f"hang = isolated_score({str(hang)!r}, 'score', 300.0)\n"
        "threading.Thread(target=hang, args=('', '', '')).start()\n"
        "time.sleep(0.5); print('ready', flush=True); time.sleep(60)\n"
    )
    own = tempfile.mkdtemp()  # its own server; a socket's path must be short
    environment = {**os.environ, "XDG_RUNTIME_DIR": own, "PYTHONPATH": str(ROOT)}
    caller = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    assert caller.stdout.readline().strip() == "ready"
    (guardian,) = psutil.Process(caller.pid).children()
    family = [guardian.pid, *(child.pid for child in guardian.children(recursive=True))]
    assert len(family) > 3
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert wait_for(lambda: not any(alive(pid) for pid in family), 20)
    assert [file.name for file in Path(own).glob("*/*")] == ["lock"]
    shutil.rmtree(own)


def test_processes_share_one_server() -> None:
    here = server_pid()
    code = (
        "import importlib.util as u\n"
        f"s = u.spec_from_file_location('pool', {__file__!r})\n"
        "t = u.module_from_spec(s); s.loader.exec_module(t)\n"
        "print(t.server_pid())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == here


def test_a_forked_caller_does_not_share_its_parent_s_connection() -> None:
    verify(r"\boxed{x^2-1}", "(x-1)(x+1)")
    pid = os.fork()
    if pid == 0:
        right = all(verify(r"\boxed{x^2-1}", "(x-1)(x+1)").correct for _ in range(20))
        os._exit(0 if right else 1)
    assert all(verify(r"\boxed{x^2-4}", "(x-2)(x+2)").correct for _ in range(20))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_many_threads_at_once() -> None:
    cases = [(f"\\boxed{{x^2-{n * n}}}", f"(x-{n})(x+{n + n % 2})", n % 2 == 0) for n in range(200)]
    with ThreadPoolExecutor(32) as threads:
        verdicts = list(threads.map(lambda case: verify(case[0], case[1]), cases))
    assert [v.correct for v in verdicts] == [case[2] for case in cases]


def test_memory_stays_flat() -> None:
    def grow(start: int) -> int:
        for n in range(start, start + 100):
            verify(f"\\boxed{{x^2-{n}\\sqrt{{{n}}}}}", f"x(x+{n})")
        return sum(worker.memory_info().rss for worker in workers())

    grow(0)
    first = grow(1_000)
    assert grow(2_000) < first + 30 * 2**20


def test_as_openrlhf_calls_it() -> None:
    agent = pytest.importorskip("openrlhf.utils.agent")
    executor = agent.SingleTurnAgentExecutor([str(ROOT / "reward" / "math_reward.py")])

    async def run() -> list[Any]:
        calls = [
            executor._fetch_rewards_via_func([f"p \\boxed{{{answer}}}"], ["p "], [gold])
            for gold in GOLDS
            for answer in list(adversarial_answers().values())[:12]
        ]
        calls.append(executor._fetch_rewards_via_func([r"p \boxed{\frac{1}{2}}"], ["p "], ["0.5"]))
        return await asyncio.gather(*calls)

    results = asyncio.run(run())
    assert [r[0]["rewards"].item() for r in results] == [0.0] * (len(results) - 1) + [1.0]


def test_inside_a_ray_actor() -> None:
    ray = pytest.importorskip("ray")
    path = str(ROOT / "reward" / "math_reward.py")

    class Engine:
        def score(self, answer: str, gold: str) -> float:
            spec = importlib.util.spec_from_file_location("reward_func", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            results: list[float] = []
            thread = threading.Thread(
                target=lambda: results.append(
                    module.reward_func([answer], [""], [gold])["rewards"].item()
                )
            )
            thread.start()
            thread.join()
            return results[0]

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    try:
        engines = [ray.remote(num_cpus=1)(Engine).remote() for _ in range(2)]
        scores = ray.get([e.score.remote(r"\boxed{x^2-1}", "(x-1)(x+1)") for e in engines])
        assert scores == [1.0, 1.0]
    finally:
        ray.shutdown()
