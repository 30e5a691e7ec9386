"""Problems, worked solutions and splits of the embedded data set."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from vespo_openrlhf.embedded.arithmetic import (
    Problem,
    boxed_answer,
    sample_problems,
    split_problems,
    to_row,
    worked_solution,
    write_jsonl,
)


def problems_by_carry() -> list[Problem]:
    """One problem for every pair of operands out of a few digits of each place."""
    numbers = [100, 109, 190, 199, 345, 555, 556, 901, 999]
    return [Problem(a, b) for a in numbers for b in numbers]


def test_solution_by_hand() -> None:
    solution = worked_solution(Problem(347, 586))
    assert solution == "7+6=13\n4+8+1=13\n3+5+1=9\n\\boxed{933}"


def test_forgetful_solution_by_hand() -> None:
    solution = worked_solution(Problem(347, 586), forget_carry=True)
    assert solution == "7+6=13\n4+8=12\n3+5=8\n\\boxed{823}"


def test_sum_of_four_digits() -> None:
    assert worked_solution(Problem(999, 999)).endswith("9+9+1=19\n\\boxed{1998}")


@pytest.mark.parametrize("problem", problems_by_carry(), ids=lambda problem: problem.prompt)
def test_right_solution_boxes_the_label(problem: Problem) -> None:
    solution = worked_solution(problem)
    assert boxed_answer(solution) == problem.label == str(problem.a + problem.b)
    for line in solution.splitlines()[:-1]:
        left, right = line.split("=")
        assert sum(map(int, left.split("+"))) == int(right)


@pytest.mark.parametrize("problem", problems_by_carry(), ids=lambda problem: problem.prompt)
def test_forgetting_is_wrong_exactly_where_there_is_a_carry(problem: Problem) -> None:
    answer = boxed_answer(worked_solution(problem, forget_carry=True))
    assert (answer != problem.label) == problem.has_carry


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{12}", "12"),
        ("\\boxed{1} and \\boxed{2}<|im_end|>", "2"),
        ("\\boxed{}", ""),
        ("\\boxed{12", None),
        ("12", None),
        ("", None),
    ],
)
def test_boxed_answer(text: str, answer: str | None) -> None:
    assert boxed_answer(text) == answer


def test_splits_share_no_problem_and_all_carry() -> None:
    splits = split_problems(0, [200, 1000, 3000])
    assert [len(split) for split in splits] == [200, 1000, 3000]
    problems = [problem for split in splits for problem in split]
    assert len({problem.key for problem in problems}) == len(problems)
    assert all(problem.has_carry for problem in problems)


def test_splits_depend_on_the_seed_alone() -> None:
    assert split_problems(3, [50, 50]) == split_problems(3, [50, 50])
    assert split_problems(3, [50]) != split_problems(4, [50])
    assert split_problems(3, [50, 50])[0] == split_problems(3, [50, 7])[0]


def test_rows_read_by_datasets(tmp_path: Path) -> None:
    import datasets

    problems = sample_problems(random.Random(0), 20)
    write_jsonl(tmp_path / "a.jsonl", problems)
    write_jsonl(tmp_path / "b.jsonl", problems)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    rows = datasets.load_dataset(
        "json",
        data_files=str(tmp_path / "a.jsonl"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert list(rows) == [to_row(problem) for problem in problems]
    for row in rows:
        assert re.fullmatch(r"\d{3}\+\d{3}=", row["prompt"])
        assert eval(row["prompt"][:-1]) == int(row["label"])
        assert row["datasource"] == "arithmetic"
    first = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert set(first) == {"prompt", "label", "datasource", "solution"}


@pytest.mark.parametrize("count", [-1, 10**6])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="problems"):
        sample_problems(random.Random(0), count)


def test_negative_split_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        split_problems(0, [10, -5])


@pytest.mark.parametrize("operands", [(99, 100), (100, 1000), (-100, 500)])
def test_operands_have_three_digits(operands: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="operand"):
        Problem(*operands)
