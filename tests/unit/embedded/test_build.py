"""The warm start and the build of the embedded default: the same bytes, and only once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from vespo_openrlhf.embedded import build as building
from vespo_openrlhf.embedded.__main__ import main
from vespo_openrlhf.embedded.arithmetic import sample_problems, split_problems
from vespo_openrlhf.embedded.build import PRODUCTS, build, file_hashes
from vespo_openrlhf.embedded.model import (
    accuracy,
    build_model,
    demonstrations,
    reproducible,
    warm_start,
)
from vespo_openrlhf.embedded.options import BuildOptions, WarmStart
from vespo_openrlhf.embedded.tokenizer import build_tokenizer

TINY = BuildOptions(
    train_problems=20, heldout_problems=10, warm_start=WarmStart(steps=2, batch_size=4)
)
MIXTURE = replace(TINY, moe=True)


def make(out: Path, options: BuildOptions = TINY, force: bool = False) -> building.Report:
    return build(out, options, progress=False, force=force)


def manifest(out: Path) -> dict[str, object]:
    result = json.loads((out / "manifest.json").read_text())
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("options", [TINY, MIXTURE], ids=["dense", "mixture"])
def test_same_seed_same_bytes_whatever_the_caller_did(
    tmp_path: Path, options: BuildOptions
) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    make(tmp_path / "a", options)
    torch.manual_seed(2)
    torch.set_num_threads(2)
    try:
        make(tmp_path / "b", options)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert file_hashes(tmp_path / "a") == file_hashes(tmp_path / "b")
    assert manifest(tmp_path / "a") == manifest(tmp_path / "b")


def test_another_seed_other_bytes(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(
        tmp_path / "b",
        BuildOptions(seed=1, train_problems=20, heldout_problems=10, warm_start=TINY.warm_start),
    )
    a, b = file_hashes(tmp_path / "a"), file_hashes(tmp_path / "b")
    for name in ("model/model.safetensors", "train.jsonl", "heldout.jsonl"):
        assert a[name] != b[name]


def test_folder_loads_and_its_parts_agree(tmp_path: Path) -> None:
    make(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == sorted(
        [*PRODUCTS, "manifest.json"]
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    generation = GenerationConfig.from_pretrained(tmp_path / "model")
    assert 150_000 < sum(p.numel() for p in model.parameters()) < 1_000_000
    assert model.config.head_dim in (32, 64)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == generation.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == generation.pad_token_id == tokenizer.pad_token_id
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {  # noqa: SIM118
            torch.float32
        }
    heldout, train = (
        set((tmp_path / name).read_text().splitlines()) for name in ("heldout.jsonl", "train.jsonl")
    )
    assert (len(heldout), len(train)) == (10, 20)
    assert not heldout & train


def test_a_mixture_is_built_of_the_same_data_and_as_much_work_a_token(tmp_path: Path) -> None:
    for name, options in (("dense", TINY), ("mixture", MIXTURE)):
        make(tmp_path / name, options)
    dense, mixture = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "model")
        for name in ("dense", "mixture")
    )
    assert mixture.config.model_type == "qwen3_moe"
    assert {parameter.dtype for parameter in mixture.parameters()} == {torch.float32}
    for layer, other in zip(mixture.model.layers, dense.model.layers, strict=True):
        per_expert = sum(p[0].numel() for p in layer.mlp.experts.parameters())
        taken = mixture.config.num_experts_per_tok * per_expert
        assert taken == sum(p.numel() for p in other.mlp.parameters())
    for data in ("train.jsonl", "heldout.jsonl"):
        one, other = ((tmp_path / name / data).read_bytes() for name in ("dense", "mixture"))
        assert one == other


def test_a_dense_build_is_found_by_who_knows_of_no_mixtures_and_not_by_who_wants_one(
    tmp_path: Path,
) -> None:
    make(tmp_path)
    assert "moe" not in manifest(tmp_path)["settings"]  # type: ignore[operator]
    assert building.read_finished(tmp_path, TINY)
    assert not building.read_finished(tmp_path, MIXTURE)
    make(tmp_path, MIXTURE)
    assert building.read_finished(tmp_path, MIXTURE)
    assert not building.read_finished(tmp_path, TINY)


def test_finished_build_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(tmp_path)
    monkeypatch.setattr(building, "_write_products", lambda *_: pytest.fail("built again"))
    second = make(tmp_path)
    assert (first.built, second.built) == (True, False)
    assert (first.sampled, first.greedy) == (second.sampled, second.greedy)


@pytest.mark.parametrize("damage", ["change", "remove", "add", "manifest", "setting", "force"])
def test_what_is_not_the_finished_build_is_built(tmp_path: Path, damage: str) -> None:
    make(tmp_path)
    before = file_hashes(tmp_path)
    options = TINY
    if damage == "change":
        (tmp_path / "train.jsonl").write_text("{}\n")
    elif damage == "remove":
        (tmp_path / "model" / "tokenizer.json").unlink()
    elif damage == "add":
        (tmp_path / "model" / "extra.bin").write_bytes(b"")
    elif damage == "manifest":
        (tmp_path / "manifest.json").write_text('{"settings": null}')
    elif damage == "setting":
        options = BuildOptions(train_problems=21, heldout_problems=10, warm_start=TINY.warm_start)
    assert make(tmp_path, options, force=damage == "force").built
    if damage != "setting":
        assert file_hashes(tmp_path) == before


@pytest.mark.parametrize("killed_at", ["model", "train.jsonl", "heldout.jsonl"])
def test_build_killed_while_moving_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    make(tmp_path)
    before = file_hashes(tmp_path)
    replace = building.os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == killed_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(building.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, force=True)
    monkeypatch.undo()
    assert building.read_finished(tmp_path, TINY) is None
    assert make(tmp_path).built
    assert file_hashes(tmp_path) == before
    assert not list(tmp_path.glob(".building-*"))


def test_left_over_of_a_killed_build_is_removed(tmp_path: Path) -> None:
    left_over = tmp_path / ".building-x" / "model"
    left_over.mkdir(parents=True)
    (left_over / "config.json").write_text("{")
    assert building.read_finished(tmp_path, TINY) is None
    assert make(tmp_path).built
    assert not list(tmp_path.glob(".building-*"))


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("precious")
    with pytest.raises(ValueError, match="another folder"):
        make(tmp_path)
    assert (tmp_path / "model" / "weights").read_text() == "precious"


def test_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        make(tmp_path / "file")


def test_warm_start_learns_and_leaves_the_caller_alone() -> None:
    tokenizer = build_tokenizer()
    (problems,) = split_problems(0, [256])
    ids, labels = demonstrations(tokenizer, problems, 0.5, seed=0)
    before = torch.get_rng_state()
    with reproducible(0):
        model = build_model(tokenizer)
        rows = torch.arange(len(ids)).repeat(4)
        options = WarmStart(steps=32, batch_size=32)
        with torch.no_grad():
            first = model(input_ids=ids, labels=labels).loss
        warm_start(model, ids[rows], labels[rows], options, progress=False)
        with torch.no_grad():
            last = model(input_ids=ids, labels=labels).loss
    assert last < 0.5 * first
    assert torch.equal(torch.get_rng_state(), before)


def test_share_of_forgetful_demonstrations() -> None:
    tokenizer = build_tokenizer()
    problems = sample_problems(random.Random(0), 400)
    right = 0
    for row, problem in zip(
        demonstrations(tokenizer, problems, 0.6, seed=0)[0], problems, strict=True
    ):
        right += f"\\boxed{{{problem.label}}}" in tokenizer.decode(row)
    assert 0.3 < right / len(problems) < 0.5


def test_accuracy_of_an_untrained_model_is_zero() -> None:
    tokenizer = build_tokenizer()
    problems = sample_problems(random.Random(0), 4)
    with reproducible(0):
        model = build_model(tokenizer).eval()
        assert accuracy(model, tokenizer, problems, samples=2) == 0
        assert accuracy(model, tokenizer, problems, greedy=True) == 0
    with pytest.raises(ValueError, match="at least one"):
        accuracy(model, tokenizer, [])


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"forget_share": 1.1},
        {"forget_share": float("nan")},
        {"peak_lr": 0.0},
    ],
)
def test_bad_warm_starts_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(options))} must be "):
        WarmStart(**options)  # type: ignore[arg-type]


def test_too_few_demonstrations_are_refused() -> None:
    tokenizer = build_tokenizer()
    ids = torch.zeros(3, 5, dtype=torch.long)
    with pytest.raises(ValueError, match="needs 4 demonstrations, not 3"):
        warm_start(build_model(tokenizer), ids, ids, WarmStart(steps=2, batch_size=2))


def test_command_line_builds_then_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "--out",
        str(tmp_path),
        "--steps",
        "2",
        "--train-problems",
        "8",
        "--heldout-problems",
        "4",
        "--quiet",
    ]
    assert main(command) == 0
    assert "held-out accuracy of the warm start: 0.000 sampled" in capsys.readouterr().out
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--steps", "0", "steps must be at least 1, not 0"),
        ("--forget-share", "2", "forget_share must be at least 0 and at most 1, not 2.0"),
        ("--train-problems", "0", "train_problems must be at least 1, not 0"),
        ("--train-problems", "1000000", "at most"),
    ],
)
def test_command_line_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    assert main(["--out", str(tmp_path / "out"), option, value]) == 2
    assert message in capsys.readouterr().err


def test_help_teaches() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "vespo_openrlhf.embedded", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for part in ("--out", "--seed", "--forget-share", "347+586=", "heldout.jsonl", "examples:"):
        assert part in result.stdout


def test_command_line_names_a_folder_that_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file" / "out")]) == 2
    assert "file" in capsys.readouterr().err
