"""Rows of prompt, response and reward."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.reading import Recording

ROWS: list[dict[str, Any]] = [
    {"prompt": "Q1", "response": "a", "reward": 1.0, "label": "a"},
    {"prompt": "Q2", "response": "b", "reward": 0.0, "label": "c"},
    {"prompt": "Q1", "response": "d", "reward": 0.5, "label": "a"},
]


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_each_kind_of_file(tmp_path: Path, take, text, groups, kind: str) -> None:
    report, samples = take("table", save(tmp_path / f"rows.{kind}", ROWS))
    assert (report.read, report.written, report.prompts, report.left_out) == (3, 3, 2, {})
    assert report.noted == {"assumed_ended": 3}
    assert [(text(s), s.reward, s.label, s.ticket) for s in samples] == [
        (("Q1a<|im_end|>", "a<|im_end|>"), 1.0, "a", 0),
        (("Q1d<|im_end|>", "d<|im_end|>"), 0.5, "a", 0),
        (("Q2b<|im_end|>", "b<|im_end|>"), 0.0, "c", 1),
    ]
    assert [s.action_mask.tolist() for s in samples] == [[False, False, True, True]] * 3
    found = groups(tmp_path / "out", 2)
    assert sorted([s.reward for s in group if s] for group in found) == [[0.0], [1.0, 0.5]]


def test_columns_by_other_names(tmp_path: Path, take, text, parts) -> None:
    rows = [
        {"q": "Q1", "a": "x", "ok": True, "uid": 7, "gold": 3, "fin": "length", "f1": 0.5},
        {"q": "Q1", "a": "y", "ok": False, "uid": 7, "gold": 3, "fin": "stop", "f1": None},
        {"q": "Q1", "a": "z", "ok": False, "uid": 8, "gold": 3, "fin": "error", "f1": 1},
    ]
    report, samples = take(
        "table",
        save(tmp_path / "rows.jsonl", rows),
        prompt_column="q",
        response_column="a",
        reward_column="ok",
        id_column="uid",
        label_column="gold",
        finish_column="fin",
        part_columns="f1, f2",
    )
    assert report.prompts == 2
    assert [(s.prompt_id, s.label, s.reward, s.finish_reason, parts(s)) for s in samples] == [
        ("7", "3", 1.0, "length", {"f1": 0.5}),
        ("7", "3", 0.0, "stop", {}),
        ("8", "3", 0.0, "stop", {"f1": 1.0}),
    ]
    assert [text(s)[1] for s in samples] == ["x", "y<|im_end|>", "z<|im_end|>"]
    assert report.noted == {"assumed_ended": 1}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_prompts_of_messages_and_of_text_as_one(
    tmp_path: Path, take, text, chat, kind: str
) -> None:
    rows = [{"prompt": [{"role": "user", "content": "Q"}], "response": "a", "reward": 1.0}]
    _, (sample,) = take("table", save(tmp_path / f"rows.{kind}", rows))
    assert text(sample) == (chat("Q") + "a<|im_end|>", "a<|im_end|>")
    assert sample.prompt == chat("Q")


def test_the_chat_template_on_text(tmp_path: Path, take, text, chat) -> None:
    _, samples = take("table", save(tmp_path / "rows.csv", ROWS), apply_chat_template=True)
    assert text(samples[0])[0] == chat("Q1") + "a<|im_end|>"


def test_a_response_that_has_its_end_gets_no_second_one(tmp_path: Path, take, text) -> None:
    row = ROWS[0] | {"response": "a<|im_end|>"}
    _, (sample,) = take("table", save(tmp_path / "rows.jsonl", [row]))
    assert text(sample) == ("Q1a<|im_end|>", "a<|im_end|>")


def test_without_a_chat_template_messages_are_refused(tmp_path: Path, take, tokenizer) -> None:
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    rows = [{"prompt": [{"role": "user", "content": "Q"}], "response": "a", "reward": 1.0}]
    source = save(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match="has no chat template: take the model"):
        take("table", source, tokenizer=plain)
    assert not list((tmp_path / "out").iterdir())  # no draft is left
    with pytest.raises(ValueError, match="--apply-chat-template, but the tokenizer"):
        take("table", source, tokenizer=plain, apply_chat_template=True)


def test_what_cannot_be_used_is_counted(tmp_path: Path, take, write) -> None:
    rows: list[Any] = [
        ROWS[0],
        "nonsense",
        {"response": "a", "reward": 1.0},
        {"prompt": [], "response": "a", "reward": 1.0},
        {"prompt": "Q", "reward": 1.0},
        {"prompt": "Q", "response": "", "reward": 1.0},
        {"prompt": "Q", "response": "a"},
        {"prompt": "Q", "response": "a", "reward": float("nan")},
        {"prompt": "Q", "response": "a", "reward": "much"},
        {"prompt": "Q", "response": 5, "reward": 1.0},
        {"prompt": 5, "response": "a", "reward": 1.0},
        {"prompt": [{"role": "user"}], "response": "a", "reward": 1.0},
        {
            "prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
            "response": "a",
            "reward": 1.0,
        },
        {"prompt": "Q", "response": "a", "reward": 1.0, "prompt_id": "one"},
        {"prompt": "R", "response": "a", "reward": 1.0, "prompt_id": "one"},
    ]
    report, samples = take("table", write(tmp_path / "rows.jsonl", rows))
    assert report.left_out == Counter(
        not_json=1,
        no_prompt=2,
        no_response=2,
        no_reward=1,
        not_finite=2,
        not_text=4,
        prompt_differs=1,
    )
    assert report.read == len(rows)
    assert report.written == len(samples) == 2


def test_unscored_rows_are_kept_for_a_reward_model(tmp_path: Path, take) -> None:
    rows = [{"prompt": "Q", "response": "a"}, {"prompt": "Q", "response": "b", "reward": None}]
    report, samples = take("table", save(tmp_path / "rows.jsonl", rows), keep_unscored=True)
    assert report.left_out == {}
    assert [(s.reward, s.failure) for s in samples] == [(None, "reward_model")] * 2
    limits = Limits(10**6, 10**6, needs_log_probs=False, needs_reward=False)
    assert len(Recording([tmp_path / "out"], 2, limits)) == 1


def test_a_refusing_template_is_counted(tmp_path: Path, take, tokenizer) -> None:
    import copy

    strict = copy.deepcopy(tokenizer)
    strict.chat_template = (
        "{%- for m in messages -%}{%- if m['role'] == 'system' -%}"
        "{{- raise_exception('no system') -}}{%- endif -%}{{- m['content'] -}}{%- endfor -%}"
    )
    rows = [
        {"prompt": [{"role": role, "content": "Q"}], "response": "a", "reward": 1.0}
        for role in ("user", "system")
    ]
    report, samples = take("table", save(tmp_path / "rows.jsonl", rows), tokenizer=strict)
    assert report.left_out == {"template": 1}
    assert [s.samples for s in samples] == [1]


def test_a_folder_with_shards_is_refused(tmp_path: Path, take) -> None:
    source = save(tmp_path / "rows.jsonl", ROWS)
    take("table", source)
    before = [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())]
    with pytest.raises(ValueError, match="holds recorded rollouts already"):
        take("table", source)
    assert [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())] == before


def test_a_source_that_changes_meanwhile_is_refused(
    tmp_path: Path, take, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vespo_openrlhf.recorded.importing.formats.table import Table

    source, plain, passes = save(tmp_path / "rows.jsonl", ROWS), Table.rows, []

    def rows(self: Table) -> Any:
        passes.append(1)
        if len(passes) == 2:
            save(source, [*ROWS, ROWS[0] | {"prompt": "new"}])
        return plain(self)

    monkeypatch.setattr(Table, "rows", rows)
    with pytest.raises(ValueError, match="has changed while it was read"):
        take("table", source)
    assert not list((tmp_path / "out").iterdir())


def test_a_dataset_of_the_hub(tmp_path: Path, take, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it comes from is a mock: a test needs no network."""
    asked = []

    def read_hub(*arguments: Any) -> list[dict[str, Any]]:
        asked.append(arguments)
        return ROWS

    monkeypatch.setattr("vespo_openrlhf.recorded.importing.formats.table.read_hub", read_hub)
    report, _ = take("table", "owner/rollouts", split="scored")
    assert report.written == 3
    assert asked[0][:3] == ("owner/rollouts", None, "scored")


def test_shards_of_bounded_size(tmp_path: Path, take, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group may lie in several."""
    from vespo_openrlhf.recorded.importing import convert
    from vespo_openrlhf.recorded.writing import ShardWriter

    monkeypatch.setattr(convert, "ShardWriter", lambda *given: ShardWriter(*given, 1000))
    rows = [{"prompt": f"Q{i % 3}", "response": str(i), "reward": float(i)} for i in range(9)]
    _, samples = take("table", save(tmp_path / "rows.jsonl", rows))
    assert len(list((tmp_path / "out").glob("*.parquet"))) > 3
    assert [s.reward for s in samples] == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert {s.samples for s in samples} == {3}
