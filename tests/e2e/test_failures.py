"""An engine that is killed in mid-run and then hangs, then the run is killed, which leaves no
process behind, and resumed. The policy is a mixture of experts, and its routing is replayed; each
sample has two turns, and is recorded."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.reading import FOLDER, Recording, find_shards

BATCHES = 16
SAVE_EVERY = 3
BOUND = 8
HERE = Path(__file__).parent
WAIT_S = 400
STOP_TIMEOUT_S = 60  # after SIGKILL, nothing of a run is left
Marked = tuple[dict[str, str], Callable[[], list[psutil.Process]]]


class Training:
    """A run in the background."""

    def __init__(
        self, command: list[str], folder: Path, log: Path, environment: dict[str, str]
    ) -> None:
        self.folder = folder
        self.log = log
        with open(log, "ab") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    @property
    def step(self) -> int:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def recorded_past_its_checkpoint(self) -> bool:
        saved = self.step // SAVE_EVERY * SAVE_EVERY
        shards = (self.folder / FOLDER).glob("*.parquet")
        return any(int(shard.name.partition("-")[0]) > saved for shard in shards)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.process.poll() is None, self.log.read_text()[-6000:]
            assert time.monotonic() < deadline, f"{what}\n{self.log.read_text()[-6000:]}"
            time.sleep(0.2)

    def engine(self) -> psutil.Process:
        """By the title that Ray gives it, which while it works names the class it comes from."""
        found: list[psutil.Process] = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if "VersionedRollout" in title or "RolloutRayActor" in title:
                    found.append(process)
        (engine,) = found
        return engine


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture(scope="module")
def started() -> Iterator[list[Training]]:
    """Runs that are ended with the tests, whatever becomes of these."""
    runs: list[Training] = []
    yield runs
    for run in runs:
        run.process.kill()


@pytest.fixture(scope="module")
def story(
    command: Callable[..., list[str]],
    mixture: Path,
    tmp_path_factory: pytest.TempPathFactory,
    started: list[Training],
    marked_module: Marked,
) -> dict[str, Any]:
    """The engine is killed and comes back; its core is stopped, and it comes back again; then the
    whole run is killed; then it is resumed."""
    folder = tmp_path_factory.mktemp("failures")
    environment, alive = marked_module
    flags: dict[str, Any] = {
        "actor__model_name_or_path": mixture,
        "moe__routing_replay": "engine",
        "reward__remote_url": False,
        "train__agent_func_path": HERE / "two_turns.py",
        "data__max_len": 96,
        "train__async_enable": True,
        "train__partial_rollout_enable": True,
        "lag__max": BOUND,
        "ckpt__save_steps": SAVE_EVERY,
        "data__max_samples": 16 * BATCHES - 5,  # the last batch is a short one
        "actor__adam__lr": "1e-5",
        "rollout__engine_timeout": 30,
        "run__record": True,
    }
    log = folder / "log"
    run = Training(command(folder, **flags), folder, log, environment)
    started.append(run)
    run.wait_until(lambda: run.step >= 1, "the first batch")
    for life in (1, 2):
        engine = run.engine()
        offspring = engine.children(recursive=True)
        assert offspring, "vLLM's engine core is a process of its own"
        killed_at = run.step
        if life == 1:
            engine.kill()
        else:  # the actor answers as before, and no token comes any more
            for core in offspring:
                core.suspend()
        run.wait_until(lambda o=offspring: gone(o), "the engine core outlives its actor")
        run.wait_until(lambda k=killed_at: run.step > k + 1, "batches after the engine's death")
        assert f"is back as engine-0.{life}" in log.read_text()
    killed_at = run.step
    run.wait_until(
        lambda: run.step >= killed_at + SAVE_EVERY and run.recorded_past_its_checkpoint(),
        "another checkpoint, and a recorded batch after it",
    )
    assert len(alive()) > 2, "the run's own process, and Ray's"
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while alive() and time.monotonic() < deadline:
        time.sleep(0.5)
    left = [process.name() for process in alive()]
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
    assert json.loads((folder / "config.json").read_text())["run.dir"] == str(folder)
    resumed = Training(command(folder, ckpt__load_enable=True, **flags), folder, log, environment)
    started.append(resumed)
    assert resumed.process.wait(WAIT_S) == 0, log.read_text()[-6000:]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").open()]
    text = log.read_text()
    model = {path: path.stat().st_mtime_ns for path in (folder / "model").iterdir()}
    again = Training(command(folder, ckpt__load_enable=True, **flags), folder, log, environment)
    started.append(again)
    return {
        "folder": folder,
        "log": text,
        "samples": samples,
        "steps": steps,
        "left": left,
        "model": model,
        "again": again.process.wait(WAIT_S),
    }


def test_the_finished_run_started_again_is_left_as_it_is(story: dict[str, Any]) -> None:
    assert story["again"] == 0
    assert "is finished" in (story["folder"] / "log").read_text().removeprefix(story["log"])
    model = {path: path.stat().st_mtime_ns for path in (story["folder"] / "model").iterdir()}
    assert model == story["model"]


def test_the_killed_run_left_no_process_and_a_readable_folder(story: dict[str, Any]) -> None:
    assert story["left"] == []
    assert story["steps"] == list(range(1, len(story["steps"]) + 1))


def test_every_prompt_is_trained_once(story: dict[str, Any]) -> None:
    rows = Counter(group["row"] for group in story["samples"])
    assert rows == Counter(range(16 * BATCHES - 5))
    (epoch,) = json.loads((story["folder"] / "prompts.json").read_text())
    assert epoch["trained"] == 16 * BATCHES - 5
    assert not any(epoch[name] for name in ("undrawn", "filtered", "abandoned", "outstanding"))


def test_the_bound_holds_through_it_all(story: dict[str, Any]) -> None:
    for group in story["samples"]:
        oldest = min(version for spans in group["spans"] for version, _ in spans)
        assert 0 <= group["update"] - oldest <= BOUND


def test_the_run_goes_on_from_its_checkpoint(story: dict[str, Any]) -> None:
    lines = (story["folder"] / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, BATCHES + 1))
    assert not list((story["folder"] / "checkpoints").rglob("*.damaged"))
    # The kill may have hit the last checkpoint while it was being written.
    last = len(story["steps"]) // SAVE_EVERY * SAVE_EVERY
    assert any(
        f"resumed at global step {step}" in story["log"] for step in (last, last - SAVE_EVERY)
    )
    updates = [group["update"] for group in story["samples"]]
    assert updates == sorted(updates)
    # The last batch has 11 groups, which are three mini-batches of at most 4.
    assert updates[-1] == 4 * (BATCHES - 1) + 2


def test_the_recording_is_whole_and_says_nothing_twice(story: dict[str, Any]) -> None:
    """Every group that was trained, in its order, though engines and the run were killed."""
    recording = Recording([story["folder"]], 4, Limits(10**6, 96), trained_only=True)
    assert not recording.problems
    groups = list(recording)
    assert [group[0].ticket for group in groups] == [line["ticket"] for line in story["samples"]]
    for group, line in zip(groups, story["samples"], strict=True):
        assert [sample.sample for sample in group] == [0, 1, 2, 3]
        assert [sample.reward for sample in group] == line["rewards"]
        assert [[list(s) for s in sample.token_versions] for sample in group] == line["spans"]
        assert all(len(sample.turns) == 2 for sample in group)
    # What was delivered after the checkpoint is of a past that the resumed run has left.
    assert find_shards(story["folder"] / "superseded" / "1")


def test_experts_are_known_of_every_sample_that_was_trained(story: dict[str, Any]) -> None:
    """Of those that a sync cut in two, and of those that a checkpoint kept."""
    assert "take experts of the router's choice" not in story["log"]
    lines = (story["folder"] / "metrics.jsonl").read_text().splitlines()
    told = [(n, v) for line in lines for n, v in json.loads(line).items() if "experts_differ" in n]
    assert sum(name == "vespo/experts_differ" for name, _ in told) == BATCHES
    # Updates are small here. Experts of another token or layer would be other ones in 27 of 28.
    assert all(share < 0.1 for _, share in told), told
    assert any(len(spans) > 1 for group in story["samples"] for spans in group["spans"])
    turns = [requests for group in story["samples"] for requests in group["requests"]]
    assert all(len(requests) == 2 for requests in turns)


def test_an_engine_that_came_back_samples_again(story: dict[str, Any]) -> None:
    failed = re.findall(r"engine (\S+) failed: \d+ groups are sent again", story["log"])
    assert failed[:2] == ["engine-0", "engine-0.1"]
    # One was killed, one fell silent. On a busy machine a third may, too, but none may die.
    reasons = re.findall(r"engine-[\d.]+ failed: (?!\d+ groups)(.*)", story["log"])
    assert len(reasons) == len(failed)
    # In the middle of a sync it is gloo that loses patience.
    silence = re.compile(r"no new token for|no answer (within|for)|Timed out waiting")
    silent = [silence.search(reason) is not None for reason in reasons]
    assert silent == [False] + [True] * (len(failed) - 1), reasons
    back = set(re.findall(r"is back as (\S+)", story["log"]))
    assert back >= {"engine-0.1", "engine-0.2"}
    sampled = {group["engine"] for group in story["samples"]}
    assert "engine-0.1" in sampled
    assert sampled <= {"engine-0"} | back


def test_the_weights_of_every_engine_are_checked_where_they_arrive(story: dict[str, Any]) -> None:
    gaps: dict[str, list[float]] = {}
    told = r"(engine-[\d.]+) samples from the policy of version \d+: its log-probs are (\S+) away"
    for name, gap in re.findall(told, story["log"]):
        gaps.setdefault(name, []).append(float(gap))
    # If the first is killed before its first update, it is checked in the resumed run alone.
    assert gaps.keys() >= {"engine-0", "engine-0.1"}
    assert all(gap < 1e-5 for told in gaps.values() for gap in told)
