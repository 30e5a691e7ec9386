"""Which folders are complete checkpoints, and the order they are evaluated in."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from vespo_openrlhf.eval.__main__ import main
from vespo_openrlhf.eval.commands import checkpoints
from vespo_openrlhf.eval.report import best, curve


def checkpoint(path: Path, tokenizer: bool = True) -> Path:
    import numpy

    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    save_file({"weight": numpy.zeros(1000)}, path / "model.safetensors")
    if tokenizer:
        (path / "tokenizer.json").write_text("{}")
    return path


def test_only_complete_checkpoints_count_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for name in ("global_step10_hf", "nested/checkpoint-9", "global_step2_hf"):
        checkpoint(tmp_path / name)
    checkpoint(tmp_path / "global_step11_hf", tokenizer=False)
    checkpoint(tmp_path / "final")
    torn = checkpoint(tmp_path / "global_step12_hf") / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    sharded = checkpoint(tmp_path / "global_step13_hf")
    (sharded / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
    )
    assert [step for step, _ in checkpoints.checkpoints(tmp_path)[0]] == [2, 9, 10]
    (tmp_path / "global_step11_hf" / "tokenizer.json").write_text("{}")
    assert [step for step, _ in checkpoints.checkpoints(tmp_path)[0]] == [2, 9, 10, 11]


@pytest.mark.parametrize("critics", ["critic", "_critic", "Critic-4b"])
def test_a_critic_is_no_checkpoint_to_evaluate(
    critics: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "ckpt"
    actor = checkpoint(found / "actor" / "global_step8_hf")
    critic = checkpoint(found / critics / "global_step8_hf")
    later = checkpoint(found / critics / "global_step9_hf")  # its actor is not written yet
    assert checkpoints.checkpoints(found) == ([(8, actor)], [critic, later])
    assert checkpoints.checkpoints(found / critics) == ([(8, critic), (9, later)], [])
    arguments = ["watch", str(found), "--out", str(tmp_path / "out"), "--once"]
    assert main([*arguments, "--data-dir", str(tmp_path / "nowhere")]) == 1
    printed = capsys.readouterr().out
    assert printed.count(f"{critic} is a critic, not a policy: left out") == 1
    assert f"== step 8: {actor}" in printed
    assert "step 9" not in printed


def test_the_best_models_copy_is_not_another_checkpoint(tmp_path: Path) -> None:
    """OpenRLHF saves it beside the checkpoint of its step, or alone where none was due."""
    for name in ("best_global_step8_hf", "global_step8_hf", "best_global_step6_hf"):
        checkpoint(tmp_path / name)
    found, _ = checkpoints.checkpoints(tmp_path)
    assert [path.name for _, path in found] == ["best_global_step6_hf", "global_step8_hf"]


def test_two_checkpoints_of_one_step_are_not_chosen_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one/global_step8_hf", "two/checkpoint-8"):
        checkpoint(tmp_path / name)
    assert main(["watch", str(tmp_path), "--out", str(tmp_path / "out"), "--once"]) == 2
    error = capsys.readouterr().err
    assert "one/global_step8_hf and " in error
    assert "two/checkpoint-8 are both checkpoints of step 8" in error


# A benchmark that the watch reads at once and its evaluation for ever, with a process of its own.
HANGS = """
import os, signal, subprocess, sys, time
from vespo_openrlhf.eval.benchmarks import Benchmark
MINE = Benchmark("mine", path="nowhere.jsonl")
if "run" in sys.argv:
    if os.environ["DEAF"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    started = subprocess.Popen(["sleep", "600"]).pid if os.environ["DEAF"] else os.getpid()
    print(os.getpid(), started, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("deaf", ["", "deaf"])
def test_an_evaluation_ends_with_its_watch(signum: int, deaf: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "ckpt" / "global_step1_hf")
    (tmp_path / "hangs.py").write_text(HANGS)
    arguments = ["watch", str(tmp_path / "ckpt"), "--out", str(tmp_path / "out")]
    arguments += ["--benchmarks", f"{tmp_path}/hangs.py:MINE"]
    grace_s = 0.3 if deaf else 60
    code = (
        "import sys; from vespo_openrlhf.eval import __main__\n"
        "from vespo_openrlhf.eval.commands import watch\n"
        f"watch._GRACE_S = {grace_s}\n"
        f"sys.exit(__main__.main({arguments}))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"DEAF": deaf},
        # A background job may ignore interrupts, one of nohup's the hang-up; so do their children.
        preexec_fn=lambda: signal.signal(signum, signal.SIG_DFL),
    )
    assert running.stdout is not None
    assert running.stdout.readline().startswith("== step 1")
    processes = [int(number) for number in running.stdout.readline().split()]
    running.send_signal(signum)
    try:
        assert running.wait(timeout=60) == 128 + signum
        deadline = time.monotonic() + 30
        while any(is_running(number) for number in processes):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        for number in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def is_running(number: int) -> bool:
    """Whether there is such a process that has not ended (if nobody asked for its status yet)."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_accuracy_over_steps_is_drawn(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        folder = tmp_path / f"step_{step:06d}"
        folder.mkdir()
        numbers = {"avg@k": step / 4, "interval": [step / 5, step / 3], "repeats": 4}
        (folder / "summary.json").write_text(json.dumps({"benchmarks": {"math500": numbers}}))
    curve.plot(tmp_path)
    assert (tmp_path / curve.PICTURE).read_bytes().startswith(b"\x89PNG")


def evaluated(
    out: Path, step: int, accuracy: float, error: float | None, *, repeats: int = 4, **settings: int
) -> None:
    """What `run` leaves of a checkpoint, as far as choosing the best reads it."""
    folder = out / f"step_{step:06d}"
    folder.mkdir(parents=True)
    numbers = {
        "avg@k": accuracy, "standard_error": error, "problems": 30, "repeats": repeats,
    }  # fmt: skip
    summary = {
        "benchmarks": {"math500": numbers, "aime24": {**numbers, "avg@k": 0.9 - accuracy}},
        "average": accuracy,
        "average_standard_error": error,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    manifest = {"model": f"ckpt/{step}", "settings": settings}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_best_checkpoint_is_named_with_its_error_and_a_word_on_the_choice(
    tmp_path: Path,
) -> None:
    assert best.find_best(tmp_path) is None
    for step, accuracy in ((10, 0.30), (20, 0.50), (30, 0.46), (40, 0.50), (50, 0.40)):
        evaluated(tmp_path, step, accuracy, 0.02)
    found = best.find_best(tmp_path)
    assert found is not None
    assert (found.step, found.checkpoint, found.value) == (20, "ckpt/20", 0.50)
    # 1.96 x 0.02 x sqrt(2) = 0.055: steps 10 and 50 are below by more.
    assert (found.of, found.within_error) == (5, (30, 40))
    assert found.text() == (
        "best so far: step 20, average 50.0 ± 2.0 % (of 5 checkpoints; 2 within error of it; "
        "chosen on these very problems, so too high: report it on others)"
    )
    written = json.loads((tmp_path / "best.json").read_text())
    assert (written["step"], written["metric"], written["standard_error"]) == (20, "average", 0.02)
    assert "report its accuracy on other problems" in written["note"]
    by_aime = best.find_best(tmp_path, "aime24")
    assert by_aime is not None
    assert (by_aime.step, by_aime.value) == (10, pytest.approx(0.6))
    with pytest.raises(ValueError, match=r"--best gsm8k: .* has math500, aime24"):
        best.find_best(tmp_path, "gsm8k")


def test_checkpoints_that_were_evaluated_otherwise_are_not_compared(tmp_path: Path) -> None:
    evaluated(tmp_path, 10, 0.9, 0.02, limit=5)
    evaluated(tmp_path, 20, 0.8, 0.02, repeats=1)
    evaluated(tmp_path, 30, 0.3, None)
    evaluated(tmp_path, 40, 0.2, 0.02)
    found = best.find_best(tmp_path)
    assert found is not None
    assert (found.step, found.of, found.left_out) == (30, 2, (10, 20))
    assert found.within_error == (40,)  # without an error nothing can be told apart
    assert "average 30.0 % (of 2 checkpoints, 2 evaluated otherwise left out;" in found.text()


def test_what_was_evaluated_is_logged_and_the_best_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The evaluation itself is a stand-in, which writes what `run` on an endpoint does."""
    for step in (1, 2):
        checkpoint(tmp_path / "ckpt" / f"global_step{step}_hf")
    code = (
        "import sys, pathlib, json\n"
        "a = sys.argv; out = pathlib.Path(a[a.index('--out') + 1]); out.mkdir()\n"
        "assert '--wandb' not in a and '--best' not in a and '--limit' in a, a\n"
        "step = int(out.name[-1])\n"
        "n = {'avg@k': step / 4, 'interval': [0.1, 0.9], 'repeats': 1, 'problems': 5, 'of': 40,\n"
        "     'standard_error': 0.1, 'pass@k': {'1': 0}, 'maj@k': {'1': 0},\n"
        "     'length': {'mean': 3}, 'truncation_rate': 0, 'unverified_rate': 0}\n"
        "s = {'benchmarks': {'math500': n}, 'average': step / 4, 'average_standard_error': 0.1}\n"
        "(out / 'summary.json').write_text(json.dumps(s))\n"
        "m = dict(model=a[a.index('--model') + 1], revision=None, settings={}, benchmarks={},\n"
        "         versions={})\n"
        "(out / 'manifest.json').write_text(json.dumps(m))\n"
    )
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!{sys.executable}\n{code}")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    arguments = ["--out", str(tmp_path / "out"), "--once", "--tensorboard", str(tmp_path / "tb")]
    arguments += ["--benchmarks", "math500:1", "--limit", "5", "--best", "math500"]
    assert main(["watch", str(tmp_path / "ckpt"), *arguments]) == 0
    printed = capfd.readouterr().out
    assert "best so far: step 2, math500 50.0 ± 10.0 % (of 2 checkpoints; 1 within" in printed
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("eval/math500-first-5/avg@1")]
    assert curve == [(1, 0.25), (2, 0.5)]
    assert main(["watch", str(tmp_path / "ckpt"), *arguments, "--best", "aime24"]) == 2
    assert "--best aime24: give average or one of math500" in capfd.readouterr().err


def test_a_checkpoint_that_cannot_be_evaluated_is_given_up_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path / "ckpt" / "global_step1_hf")
    nowhere = str(tmp_path / "nowhere")
    # As the usage has it, the folder last.
    arguments = ["--data-dir", nowhere, "--out", str(tmp_path / "out"), "--once"]
    assert main(["watch", *arguments, str(tmp_path / "ckpt")]) == 1
    printed = capfd.readouterr()
    assert "failed (2 of 2 times)" in printed.out
    assert printed.err.count(f"--data-dir {nowhere}: there is no such folder") == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--endpoint", "http://x/v1"], "leave --endpoint out"), (["--temperature", "-1"], "temper")],
)
def test_what_a_run_would_refuse_is_refused_at_once(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(tmp_path), "--out", str(tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err
    assert main(["watch", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
