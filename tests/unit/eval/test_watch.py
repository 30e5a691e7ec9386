"""Which folders are complete checkpoints, and the order they are evaluated in."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from vespo_openrlhf.eval import watch
from vespo_openrlhf.eval.__main__ import main


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
    assert [step for step, _ in watch.checkpoints(tmp_path)] == [2, 9, 10]
    (tmp_path / "global_step11_hf" / "tokenizer.json").write_text("{}")
    assert [step for step, _ in watch.checkpoints(tmp_path)] == [2, 9, 10, 11]


def test_accuracy_over_steps_is_drawn(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        folder = tmp_path / f"step_{step:06d}"
        folder.mkdir()
        numbers = {"avg@k": step / 4, "interval": [step / 5, step / 3], "repeats": 4}
        (folder / "summary.json").write_text(json.dumps({"benchmarks": {"math500": numbers}}))
    watch.plot(tmp_path)
    assert (tmp_path / watch.PICTURE).read_bytes().startswith(b"\x89PNG")


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
