"""What a chaos run finds wrong with the records that a run leaves, and what not."""

import json
from pathlib import Path

import pytest

from vespo_openrlhf.chaos.audit import Resume, check_records, check_resumes, resumed_at

ROWS = 8


def group(row: int, update: int = 4, oldest: int = 1) -> dict:
    return {"row": row, "update": update, "spans": [[[oldest, 3], [update, 2]], [[update, 5]]]}


def write(run: Path, samples: list, steps: list[int], account: dict | None) -> Path:
    (run / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    lines = [json.dumps({"kind": "train", "step": step}) for step in steps]
    (run / "metrics.jsonl").write_text(
        "\n".join([json.dumps({"kind": "eval", "step": 1}), *lines, ""])
    )
    if account is not None:
        empty = {"undrawn": 0, "trained": 0, "filtered": [], "abandoned": [], "outstanding": []}
        (run / "prompts.json").write_text(json.dumps([empty | account]))
    return run


def test_a_run_as_it_should_be(tmp_path: Path) -> None:
    samples = [group(row) for row in range(ROWS - 1)]
    account = {"trained": ROWS - 1, "filtered": ["p7"]}
    assert check_records(write(tmp_path, samples, [1, 2], account), ROWS, bound=3) == []


@pytest.mark.parametrize(
    ("samples", "steps", "account", "complaint"),
    [
        ([*range(ROWS), 3], [1], {"trained": ROWS}, "1 prompts were trained more than once"),
        (range(6), [1], {"trained": 6}, "2 of 8 prompts are unaccounted for"),
        (range(7), [1], {"trained": 7, "outstanding": ["p7"]}, "1 of 8 prompts are unaccounted"),
        (range(7), [1], {"trained": 7, "abandoned": ["p7"]}, "1 prompts were given up: ['p7']"),
        (range(7), [1], {"trained": 8}, "8 prompts count as trained, 7 are in samples.jsonl"),
        (range(5), [1], None, "3 of 8 prompts are unaccounted for: no prompts.json"),
        (range(ROWS), [1, 2, 4], {"trained": ROWS}, "do not follow each other: [1, 2, 4]"),
        (range(ROWS), [1, 2, 2], {"trained": ROWS}, "do not follow each other: [1, 2, 2]"),
    ],
)
def test_what_is_lost_or_doubled_is_found(samples, steps, account, complaint, tmp_path) -> None:
    run = write(tmp_path, [group(row) for row in samples], steps, account)
    (found,) = check_records(run, ROWS, bound=3)
    assert complaint in found


@pytest.mark.parametrize(("updates", "wrong"), [([0, 1, 2], 0), ([0, 1, 1], 1), ([0, 2], 1)])
def test_every_update_has_one_line(updates: list[int], wrong: int, tmp_path: Path) -> None:
    run = write(tmp_path, [group(row) for row in range(ROWS)], [1], {"trained": ROWS})
    (run / "updates.jsonl").write_text("".join(f'{{"update": {u}}}\n' for u in updates))
    found = check_records(run, ROWS, bound=3)
    assert len(found) == wrong
    assert all("updates.jsonl do not follow" in complaint for complaint in found)


@pytest.mark.parametrize(("update", "oldest", "lags"), [(9, 5, "0 to 4"), (4, 5, "-1 to 0")])
def test_a_broken_bound_is_found(update: int, oldest: int, lags: str, tmp_path: Path) -> None:
    samples = [group(row) for row in range(ROWS - 1)] + [group(7, update, oldest)]
    run = write(tmp_path, samples, [1], {"trained": ROWS})
    assert check_records(run, ROWS, bound=3) == [
        f"1 groups break the bound of 3 updates: their tokens are {lags} behind"
    ]


def test_a_resume_may_lose_one_torn_checkpoint() -> None:
    log = "... resumed at global step 12, version 48, with 3 buffered groups ..."
    assert (resumed_at(log), resumed_at("nothing")) == (12, None)
    right = [Resume(13, 12), Resume(13, 10), Resume(12, 12), Resume(3, None), Resume(1, None)]
    assert check_resumes(right, save_every=2) == []
    for wrong in (Resume(13, 8), Resume(13, None), Resume(13, 14)):
        (found,) = check_resumes([wrong], save_every=2)
        assert found.startswith("a run that had trained 13 batches")
