"""What TRL's GRPOTrainer logs of its completions."""

from __future__ import annotations

import types
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any

import pytest

NAN = float("nan")
STRIPPED = "user\n{}\nassistant\n"  # by the embedded chat template, without special tokens


def log(folder: Path, step: int, rows: list[tuple[Any, Any]], **columns: list[Any]) -> Path:
    """A file as TRL writes it: (prompt, completion) rows, and columns of rewards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    prompts, completions = zip(*rows, strict=True)
    table = {"step": [step] * len(rows), "prompt": prompts, "completion": completions, **columns}
    table["advantage"] = [0.1 * i for i in range(len(rows))]
    path = folder / "completions" / f"completions_{step:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
    return path


def test_rewards_are_summed_over_functions_and_steps_grouped_by_prompt(
    tmp_path: Path, take, text, chat, groups, parts
) -> None:
    one, two = STRIPPED.format("1+1="), STRIPPED.format("2+2=")
    log(tmp_path, 1, [(one, "2"), (two, "5")], right=[1.0, 0.0], form=[0.5, NAN])
    log(tmp_path, 2, [(two, "4"), (one, "3")], right=[1.0, NAN], form=[0.0, 0.5])
    report, samples = take("trl", tmp_path)
    assert (report.read, report.written, report.prompts, report.left_out) == (4, 4, 2, {})
    assert [(text(s)[0], s.reward) for s in samples] == [
        (chat("1+1=") + "2<|im_end|>", 1.5),
        (chat("1+1=") + "3<|im_end|>", 0.5),
        (chat("2+2=") + "5<|im_end|>", 0.0),
        (chat("2+2=") + "4<|im_end|>", 1.0),
    ]
    assert all(text(s)[1] == text(s)[0].removeprefix(s.prompt) for s in samples)
    assert parts(samples[0]) == {"right": 1.0, "form": 0.5, "step": 1.0}
    assert parts(samples[1]) == {"form": 0.5, "step": 2.0}
    assert all(sample.log_probs is None for sample in samples)
    assert [len(group) for group in groups(tmp_path / "out", 2)] == [2, 2]


def test_weights_of_named_columns(tmp_path: Path, take, parts) -> None:
    log(tmp_path, 1, [("Q", "a")], right=[1.0], form=[0.5], length=[300.0])
    _, (sample,) = take("trl", tmp_path, rewards="right=2, form")
    assert sample.reward == 2.5
    assert parts(sample)["length"] == 300.0


@pytest.mark.parametrize(
    ("rewards", "message"),
    [("wrong", "no such column; it has right"), ("right=much", "expected NAME=WEIGHT")],
)
def test_weights_that_do_not_fit(tmp_path: Path, take, rewards: str, message: str) -> None:
    log(tmp_path, 1, [("Q", "a")], right=[1.0])
    with pytest.raises(ValueError, match=message):
        take("trl", tmp_path, rewards=rewards)


def test_a_batch_that_was_logged_again_is_read_once(tmp_path: Path, take, parts) -> None:
    """TRL keeps the last generation batch, and logs it at each step that trains it."""
    rows = [("Q", "a"), ("Q", "a"), ("R", "b"), ("R", "c")]
    for step in (99998, 99999):
        log(tmp_path, step, rows, right=[1.0, NAN, 0.0, 1.0], form=[0.0] * 4)
    log(tmp_path, 100000, [("Q", "d"), ("R", "e")], right=[1.0, 1.0], form=[0.0] * 2)
    report, samples = take("trl", tmp_path)
    assert report.left_out == {"logged_again": 4}
    assert [parts(sample)["step"] for sample in samples] == [99998, 99998, 100000] * 2


def test_what_cannot_be_used_is_counted(tmp_path: Path, take) -> None:
    rows = [("Q", "a"), ("Q", ""), (None, "a"), ("Q", "b"), ("Q", "c"), ("Q", "d")]
    log(tmp_path, 1, rows, right=[1.0, 1.0, 1.0, NAN, None, float("inf")])
    turns = STRIPPED.format("what it printed")
    log(tmp_path, 2, [(STRIPPED.format("1+1="), f"print(2)\n{turns}2")], right=[1.0])
    report, samples = take("trl", tmp_path)
    assert report.left_out == Counter(
        no_response=1, no_prompt=1, no_reward=2, not_finite=1, several_turns=1
    )
    assert report.read == 7
    assert len(samples) == 1


def test_completions_of_messages(tmp_path: Path, take, text, chat) -> None:
    """TRL 1.16 logs what the data set has, here with tools that answered."""
    prompt = [{"role": "user", "content": "1+1="}]
    said = {"role": "assistant", "content": "2"}
    called = {"role": "assistant", "content": "", "tool_calls": [{"type": "function"}]}
    episode = [{"role": "assistant", "content": "try"}, {"role": "user", "content": "no"}, said]
    rows = [(prompt, [said]), (prompt, episode), (prompt, [called, said]), (prompt, [prompt[0]])]
    log(tmp_path, 1, rows, right=[1.0, 0.5, 1.0, 1.0])
    report, samples = take("trl", tmp_path)
    assert report.left_out == {"apart": 1, "no_response": 1}
    end = "<|im_end|>"
    assert [text(sample) for sample in samples] == [
        (chat("1+1=") + f"2{end}", f"2{end}"),
        (chat("1+1=") + f"try{end}\n{chat('no')}2{end}", f"try{end}2{end}"),
    ]
    assert not {"restored", "as_text"} & set(report.noted)


@pytest.mark.parametrize("conversational", [False, True])
def test_the_files_are_those_of_the_trl_that_is_here(
    tmp_path: Path, take, text, chat, monkeypatch: pytest.MonkeyPatch, conversational: bool, parts
) -> None:
    """`GRPOTrainer.log` writes them, on what it gathers in its steps; no model is trained."""
    grpo = pytest.importorskip("trl.trainer.grpo_trainer")
    monkeypatch.setattr(grpo, "is_rich_available", lambda: False)
    monkeypatch.setattr("transformers.Trainer.log", lambda *_: None)
    (tmp_path / "completions").mkdir()
    prompt, completion = (
        ([{"role": "user", "content": "1+1="}], [{"role": "assistant", "content": "2"}])
        if conversational
        else (STRIPPED.format("1+1="), "2")
    )
    trainer = object.__new__(grpo.GRPOTrainer)
    trainer.model = types.SimpleNamespace(training=True)
    trainer._metrics = defaultdict(lambda: defaultdict(list))
    trainer.accelerator = types.SimpleNamespace(is_main_process=True)
    trainer.log_completions, trainer.log_unique_prompts = True, False
    trainer.args = types.SimpleNamespace(report_to=[], output_dir=str(tmp_path))
    trainer.state = types.SimpleNamespace(global_step=7)
    trainer._logs = {
        "prompt": deque([prompt, prompt]),
        "completion": deque([completion, completion]),
        "rewards": defaultdict(deque, right=deque([1.0, 0.0]), form=deque([0.5, NAN])),
        "extra": defaultdict(deque, why=deque(["good", "bad"])),
        "advantages": deque([0.7, -0.7]),
        "images": deque(),
    }
    grpo.GRPOTrainer.log(trainer, {})
    report, samples = take("trl", tmp_path)
    assert report.left_out == {}
    assert [(text(s)[0], s.reward, parts(s)) for s in samples] == [
        (chat("1+1=") + "2<|im_end|>", 1.5, {"right": 1.0, "form": 0.5, "step": 7.0}),
        (chat("1+1=") + "2<|im_end|>", 0.0, {"right": 0.0, "step": 7.0}),
    ]
