"""What each peer is asked, and how what it wrote is read."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import AutoTokenizer, Qwen3ForCausalLM

from vespo_openrlhf.embedded.model import build_model
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.peers import command, stacks, trl_env, trl_run, uneven
from vespo_openrlhf.peers.figures import Batch
from vespo_openrlhf.peers.task import LARGE, SMALL, TASKS
from vespo_openrlhf.peers.usage import Watch
from vespo_openrlhf.quickstart import pipeline


def test_the_small_task_is_the_quickstarts(tmp_path: Path) -> None:
    plan = pipeline.Plan(tmp_path, seed=stacks.SEED, batches=SMALL.batches)
    theirs = last_values(pipeline.training_flags(plan))
    data = plan.built / "train.jsonl"
    job = stacks.Job(SMALL, plan.built / "model", data, tmp_path)
    ours = last_values(stacks.flags(job))
    assert float(ours.pop("--actor.adam.lr")) < float(theirs.pop("--actor.adam.lr"))
    assert ours == theirs


def last_values(arguments: list[str]) -> dict[str, str]:
    """Of each flag; numbers in one spelling."""
    values: dict[str, str] = {}
    for word in arguments:
        if word.startswith("--"):
            flag = word
            values[flag] = ""
        else:
            values[flag] = word
    return {flag: str(float(v)) if is_number(v) else v for flag, v in values.items()}


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_updates_divide_a_batch(task: stacks.Task) -> None:
    assert task.samples_per_update * task.updates == task.samples


def test_trl_is_asked_for_the_same_job(tmp_path: Path) -> None:
    job = {**dataclasses.asdict(SMALL), "seed": 0, "out": str(tmp_path), "continuous": False}
    options = trl_run.options(job)
    assert options["per_device_train_batch_size"] * options["steps_per_generation"] == 512
    assert options["max_steps"] == SMALL.batches * SMALL.updates
    assert not options["use_transformers_continuous_batching"]
    assert trl_run.options(job | {"continuous": True})["use_transformers_continuous_batching"]


def test_trls_prompts_are_rendered_once() -> None:
    (row,) = trl_run.to_rows([{"prompt": "1+2=", "label": "3", "x": "y"}], build_tokenizer())
    assert row["prompt"].endswith("1+2=<|im_end|>\n<|im_start|>assistant\n")
    assert row["label"] == "3"


def test_trls_run_needs_nothing_of_our_environment() -> None:
    code = "import sys, vespo_openrlhf.peers.trl_run; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    heavy = {"torch", "transformers", "trl", "psutil", "ray", "math_verify", "pebble"}
    assert not heavy & set(loaded.split())


def test_trls_environment_is_not_ours() -> None:
    first, rest = trl_env.requirements()
    assert first[0].startswith("torch==")
    assert "+" not in first[0]
    assert f"trl=={trl_env.TRL}" in rest


def test_an_environment_that_is_whole_is_left_alone(tmp_path: Path) -> None:
    made = "\n".join(name for step in trl_env.requirements() for name in step)
    (tmp_path / "vespo-made").write_text(made)
    assert trl_env.python(tmp_path) == tmp_path / "bin" / "python"


def test_a_folder_that_is_not_trls_environment_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(trl_env, "_run", asked.append)
    (tmp_path / "thesis").write_text("done")
    with pytest.raises(ValueError, match="holds something that is not TRL's environment"):
        trl_env.python(tmp_path)
    assert not asked


def test_an_environment_that_is_not_whole_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip_fails(command: list[str]) -> None:
        asked.append(command)
        if "pip" in command:
            raise RuntimeError("no network")

    asked: list[list[str]] = []
    monkeypatch.setattr(trl_env, "_run", pip_fails)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no network"):
            trl_env.python(tmp_path)
    assert [command[2] for command in asked] == ["venv", "pip"] * 2


def test_torch_comes_from_the_index_that_ours_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(trl_env, "_run", asked.append)
    monkeypatch.setenv("TORCH_INDEX_URL", "https://cpu.example/simple")
    trl_env.python(tmp_path)
    _, torch_alone, rest = asked
    assert torch_alone[-3:-1] == ["--index-url", "https://cpu.example/simple"]
    assert "--index-url" not in rest
    assert "cpu.example" not in (tmp_path / "vespo-made").read_text()


def test_ours_is_read(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "kind": "train", "time": 10.5, "rollout/reward_mean": 0.25}
        | {"rollout/num_samples": 512.0},
        {"step": 1, "kind": "eval", "time": 11.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert stacks._ours_batches(tmp_path) == [Batch(10.5, 0.25, 512)]
    now = time.monotonic()
    stamps = [{"dispatched_at": now - 5}, {"dispatched_at": now - 7}]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in stamps))
    assert stacks._ours_began(tmp_path) == pytest.approx(time.time() - 7, abs=0.5)


def test_openrlhf_is_read(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "tensorboard" / "run")) as writer:
        for step, (reward, at) in enumerate([(0.25, 100.0), (0.5, 104.0)], start=1):
            writer.add_scalar("train/rollout/reward_mean", reward, step, walltime=at)
            for stage in ("generation", "make_experience", "ppo_train", "broadcast"):
                writer.add_scalar(f"train/timing/{stage}", 2.0, step, walltime=at)
    began, batches = stacks._openrlhf_batches(tmp_path, 512)
    assert began == pytest.approx(100 - 4 * 2)
    assert batches == [Batch(100.0, 0.25, 512), Batch(104.0, 0.5, 512)]


def test_trl_is_read(tmp_path: Path) -> None:
    path = tmp_path / "batches.jsonl"
    path.write_text('{"began": 5.0}\n{"time": 9.0, "reward": 0.5, "samples": 512}\n')
    assert stacks._trl_batches(path) == (5.0, [Batch(9.0, 0.5, 512)])


def test_memory_and_time_of_a_process_and_its_child() -> None:
    child = "import time; b = bytearray(200_000_000); [None for _ in range(10**7)]; time.sleep(9)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        watch = Watch(process.pid)
        deadline = time.monotonic() + 30
        while watch.peak_bytes < 200_000_000 and time.monotonic() < deadline:
            time.sleep(0.1)
            watch._look(memory=True)
        stacks._end(process)
    assert watch.peak_bytes >= 200_000_000
    assert watch.cpu[-1][1] > 0


def test_a_failure_shows_the_end_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        stacks._run([sys.executable, "-c", "import sys; sys.exit('no such thing')"], tmp_path)


def test_finished_parts_are_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"samples_per_second": 5.0, "seconds_to_90": 9.0, "seconds_to_90_after_start": 1.0}
    one |= {"peak_memory_gib": 1.0, "final_accuracy": 0.9, "batches": 24}
    for peer, speed in {"ours": 6.0, "trl": 4.0}.items():
        folder = tmp_path / "small" / peer
        folder.mkdir(parents=True)
        (folder / "figures.json").write_text(json.dumps(one | {"samples_per_second": speed}))
    where = ["--out", str(tmp_path), "--sizes", "small", "--peers", "ours,trl"]
    assert command.main([*where, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["small"]["ours_over_trl"] == 1.5
    assert shown["small"]["trl"]["samples_per_second"] == 4.0
    assert command.main(where) == 0
    assert "| small | TRL | 4.0 |" in capsys.readouterr().out
    assert command.main([*where, "--batches", "8"]) == 1
    assert "not 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--peers", "trl,them"], ["--sizes", "huge"], ["--batches", "3"]]
)
def test_what_is_not_known_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(wrong)
    assert ended.value.code == 2
    assert wrong[1].split(",")[-1] in capsys.readouterr().err


def test_the_grown_model_computes_what_the_small_one_does(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    small = build_model(tokenizer)
    with torch.no_grad():
        for name, weight in small.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5)
    large = uneven.grow(small)
    ids = torch.randint(len(tokenizer), (2, 20))
    logits = small(ids).logits
    assert torch.allclose(large(ids).logits, logits, atol=1e-5, rtol=1e-4)
    assert 5e6 < sum(p.numel() for p in large.parameters()) < 10e6
    large(input_ids=ids, labels=ids).loss.backward()
    for name, weight in large.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):  # zero where new
            assert weight.grad is not None
            assert weight.grad.any(), name
    large.save_pretrained(tmp_path)
    loaded = Qwen3ForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(loaded(ids).logits, logits, atol=1e-5, rtol=1e-4)


def test_the_large_model_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uneven, "STEPS", 2)
    monkeypatch.setattr(uneven, "ROWS", 4)
    tokenizer = build_tokenizer()
    embedded = tmp_path / "embedded"
    build_model(tokenizer).save_pretrained(embedded / "model")
    tokenizer.save_pretrained(embedded / "model")
    settings = {"heldout_problems": 4, "train_problems": 8, "seed": 0}
    (embedded / "manifest.json").write_text(json.dumps({"settings": settings}))
    out = tmp_path / "uneven"
    uneven.build(embedded, out)
    longest = LARGE.max_prompt_tokens + LARGE.max_response_tokens
    assert json.loads((out / "config.json").read_text())["max_position_embeddings"] == longest
    assert AutoTokenizer.from_pretrained(out).model_max_length == longest
    written = (out / "model.safetensors").stat().st_mtime_ns
    uneven.build(embedded, out)
    assert (out / "model.safetensors").stat().st_mtime_ns == written
