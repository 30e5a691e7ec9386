"""Every recipe in scripts/ passes check, against the configs of the models it names."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.bridge.loss import build_loss
from vespo_openrlhf.check.recipe import submitted_flags
from vespo_openrlhf.check.resolve import resolve
from vespo_openrlhf.check.shape import ModelShape

CONFIGS = Path(__file__).parents[2] / "data" / "configs"
SCRIPTS = Path(__file__).parents[3] / "scripts"
Check = Callable[..., tuple[int, str]]
TOKEN_MEAN = {"loss_agg_mode": "token-mean"}

SUBMITTING = sorted(
    path
    for path in SCRIPTS.glob("*.sh")
    if '/recipe.sh"' in path.read_text() and path.stem != "recipe"
)
SYNC = "qwen3-30b-a3b-sync"
RUNS = [
    *((SYNC, [str(n)], {}) for n in (4, 8, 16, 32, 64)),
    *((path.stem, [], {}) for path in SUBMITTING if path.stem != SYNC),
    ("one-gpu-gsm8k", [], {"MODEL": "Qwen/Qwen3-1.7B"}),
    ("one-gpu-gsm8k", [], {"MODEL": "Qwen/Qwen3-1.7B", "LORA_RANK": "32"}),
    ("qwen3-30b-a3b-async", [], {"ROUTING_REPLAY": "engine"}),
    *(("qwen3-8b", [], {"LOSS": loss}) for loss in ("grpo", "gspo", "sapo", "cispo", "topr")),
]
NAMES = ["-".join([script, *words, *changes.values()]) for script, words, changes in RUNS]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many as DAPO-Math-17k has after it is prepared, nearly."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    line = json.dumps({"prompt": "What is 1 + 1?", "label": "2"})
    path.write_text(f"{line}\n" * 17_000)
    return path


@pytest.mark.parametrize(("script", "words", "changes"), RUNS, ids=NAMES)
def test_a_recipe_passes(
    script: str,
    words: list[str],
    changes: dict[str, str],
    prompts: Path,
    tmp_path: Path,
    check: Check,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"DATA": str(prompts), "RUN_DIR": str(tmp_path / "run"), **changes}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = str(SCRIPTS / f"{script}.sh")
    status, output = check({}, path, *words, "--model-config", str(CONFIGS))
    assert status == 0, output
    assert "warning" not in output
    assert "GPU memory" in output


def test_the_papers_numbers_are_in_the_flags() -> None:
    table_1 = (("qwen3-8b", 8), ("llama-3.2-3b", 8))
    for script, n in ((SYNC, 4), (SYNC, 64), ("qwen3-30b-a3b-async", 4), *table_1):
        flags = _flags(script, *([str(n)] if script == SYNC else []))
        assert flags["--rollout.batch_size"] == str(256 * n)
        assert flags["--train.batch_size"] == str(256 * 8)
        assert flags["--rollout.max_new_tokens"] == "15360"
        assert flags["--data.max_len"] == str(1024 + 15360)
        assert (flags["--actor.adam.lr"], flags["--actor.lr_scheduler"]) == ("1e-6", "constant")
        assert (flags["--rollout.temperature"], flags["--rollout.top_p"]) == ("1.0", "1.0")
        assert flags["--algo.kl.init_coef"] == "0"
        synchronous = "--train.async_enable" not in flags
        assert flags["--actor.entropy_coef"] == "0"
        assert flags.get("--vespo.anchor") == ("old" if synchronous else None)
        updates = int(flags["--data.max_samples"]) * int(flags["--train.num_episodes"]) / 256
        assert updates == pytest.approx(1500, rel=0.03)
    flags = _flags("qwen3-30b-a3b-async")
    assert int(flags["--actor.num_nodes"]) * int(flags["--actor.num_gpus_per_node"]) == 16
    assert int(flags["--vllm.num_engines"]) * int(flags["--vllm.tensor_parallel_size"]) == 48
    assert (flags["--lag.sync_every"], flags["--lag.max"]) == ("4", "7")


@pytest.mark.parametrize(
    ("loss", "anchor"),
    [("vespo", "old"), ("grpo", "old"), ("bapo", "old"), ("tis", None), ("my.py:loss", None)],
)
def test_the_anchor_of_the_published_scripts_is_for_the_methods_of_the_paper(
    loss: str, anchor: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOSS", loss)
    assert _flags("one-gpu-gsm8k").get("--vespo.anchor") == anchor
    assert "--vespo.anchor" not in _flags("eight-gpu-dapo-math")  # asynchronous


def test_the_best_checkpoint_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = _flags("qwen3-8b")
    assert "--ckpt.save_hf" in flags
    assert flags["--eval.dataset"].endswith("data/dapo-math-17k/validation.parquet")
    assert flags["--eval.steps"] == flags["--ckpt.save_steps"] == "8"  # of N = 8: 64 updates
    # A second copy of the best model would be another checkpoint of its step for `eval watch`.
    assert flags["--ckpt.best_metric_key"] == "none"
    monkeypatch.setenv("DATA", "mine.jsonl")
    assert "--eval.dataset" not in _flags("qwen3-8b")
    monkeypatch.setenv("EVAL_DATA", "problems.jsonl")
    assert _flags("qwen3-8b")["--eval.dataset"] == "problems.jsonl"


def test_adapters_take_ten_times_the_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = _flags("one-gpu-gsm8k")
    assert flags["--actor.adam.lr"] == "1e-6"
    assert "--ds.lora.rank" not in flags
    monkeypatch.setenv("LORA_RANK", "32")
    flags = _flags("one-gpu-gsm8k")
    assert flags["--actor.adam.lr"] == "1e-5"
    assert flags["--ds.lora.rank"] == flags["--ds.lora.alpha"] == "32"


def test_routing_replay_is_for_the_mixtures_that_ask_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixtures = ((SYNC, "4"), ("qwen3-30b-a3b-async",))
    plain = [_flags(*mixture) for mixture in mixtures]
    assert [flags["--moe.routing_replay"] for flags in plain] == ["off", "off"]
    monkeypatch.setenv("ROUTING_REPLAY", "engine")
    for mixture, flags in zip(mixtures, plain, strict=True):
        replaying = _flags(*mixture)
        assert replaying["--moe.routing_replay"] == "engine"
        assert replaying["--run.dir"] != flags["--run.dir"]
    assert "--moe.routing_replay" not in _flags("qwen3-8b")


def test_the_asynchronous_bound_follows_n(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "8")
    flags = _flags("qwen3-30b-a3b-async")
    assert (flags["--lag.sync_every"], flags["--lag.max"]) == ("8", "15")


def test_runs_that_differ_in_the_environment_have_folders_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = {_flags("one-gpu-gsm8k")["--run.dir"]}
    given = {"MODEL": "Qwen/Qwen3-1.7B", "LORA_RANK": "32", "LOSS": "lib/my.py:loss", "N": "8"}
    for name, value in given.items():
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            folders.add(_flags("one-gpu-gsm8k")["--run.dir"])
    runs = Path(SCRIPTS.parent, "runs")
    assert {Path(folder).relative_to(runs).as_posix() for folder in folders} == {
        "one-gpu-gsm8k-vespo-n4",
        "one-gpu-gsm8k-Qwen3-1.7B-vespo-n4",
        "one-gpu-gsm8k-lora32-vespo-n4",
        "one-gpu-gsm8k-my.py:loss-n4",
        "one-gpu-gsm8k-vespo-n8",
    }


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("vespo", {}),
        ("grpo", {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0, **TOKEN_MEAN}),
        ("gspo", {"clip_low": 3e-4, "clip_high": 4e-4}),
        ("sapo", {"tau_pos": 1.0, "tau_neg": 1.05, "loss_agg_mode": "seq-mean-token-mean"}),
        ("cispo", TOKEN_MEAN),
        ("topr", {"length_normalisation": "full", **TOKEN_MEAN}),
    ],
)
@pytest.mark.parametrize("anchor", [[], ["--vespo.anchor", "old"]])
def test_a_baseline_has_the_papers_settings(
    loss: str, options: dict[str, Any], anchor: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training takes in the end, and `check --json` shows."""
    monkeypatch.setenv("LOSS", loss)
    flags = resolve(submitted_flags(SCRIPTS / "qwen3-8b.sh", anchor)).flags
    taken = build_loss(flags).options
    assert {option: taken[option] for option in options} == options
    shown = {
        "loss_agg_mode": flags["actor.loss_agg_mode"],
        "dual_clip": flags["actor.dual_clip"],
        "length_normalisation": flags["vespo.length_normalisation"],
        **dict(zip(("clip_low", "clip_high"), flags["actor.eps_clip_low_high"], strict=True)),
    }
    assert options.items() <= (taken | shown).items()


def test_clips_that_are_given_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSS", "gspo")
    for anchor in ("rollout", "old"):
        words = ["--vespo.anchor", anchor, "--actor.eps_clip"]
        for clip in ("0.2", "0.03"):
            flags = resolve(submitted_flags(SCRIPTS / "qwen3-8b.sh", [*words, clip])).flags
            assert list(flags["actor.eps_clip_low_high"]) == [float(clip)] * 2


def test_the_environment_and_the_end_of_the_command_line_win(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = submitted_flags(SCRIPTS / "qwen3-8b.sh", [])
    monkeypatch.setenv("MODEL", "models/mine")
    monkeypatch.setenv("WITHOUT", "ds.packing_samples data.max_samples")
    words = submitted_flags(SCRIPTS / "qwen3-8b.sh", ["--train.seed", "7"])
    assert words[words.index("--actor.model_name_or_path") + 1] == "models/mine"
    assert words[-2:] == ["--train.seed", "7"]
    assert "--ds.packing_samples" not in words
    assert "--data.max_samples" not in words
    assert words.count("16384") == whole.count("16384") - 1  # its value is gone too


@pytest.mark.parametrize("script", [*SUBMITTING, SCRIPTS / "ray-node.sh"], ids=lambda p: p.stem)
def test_help_teaches(script: Path) -> None:
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    assert f"scripts/{script.name}" in shown
    if script in SUBMITTING:
        assert "Not as in the paper" in shown
        assert "LOSS" in shown


def test_without_its_argument_the_synchronous_recipe_says_what_it_wants() -> None:
    finished = subprocess.run([SCRIPTS / f"{SYNC}.sh"], capture_output=True, text=True)
    assert finished.returncode == 2
    assert "N is a number of updates" in finished.stderr


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("Qwen3-30B-A3B-Base", 30.53e9, 3.0e9),
        ("Qwen3-8B-Base", 8.19e9, 7.57e9),
        ("Qwen3-1.7B", 1.72e9, 1.72e9),
        ("Qwen3-0.6B", 0.596e9, 0.596e9),
        ("Llama-3.2-3B-Instruct", 3.21e9, 3.21e9),
    ],
)
def test_parameters_are_those_that_the_models_publish(
    name: str, total: float, active: float
) -> None:
    shape = ModelShape.from_config(json.loads((CONFIGS / f"{name}.json").read_text()))
    assert shape.parameters == pytest.approx(total, rel=0.003)
    assert shape.active_parameters == pytest.approx(active, rel=0.02)


def _flags(script: str, *words: str) -> dict[str, str]:
    """Each flag with the word after it."""
    flags = submitted_flags(SCRIPTS / f"{script}.sh", words)
    return dict(itertools.pairwise(flags))
