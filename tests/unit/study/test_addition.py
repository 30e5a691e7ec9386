"""The task addition: encoding, slips, verdicts."""

import pytest

from vespo_openrlhf.embedded.arithmetic import Problem, split_problems, worked_solution
from vespo_openrlhf.study.tasks.addition import (
    END,
    MAX_RESPONSE_TOKENS,
    PAD,
    PROMPT_TOKENS,
    VOCABULARY,
    Addition,
    encode,
)

TASK = Addition()


def decode(ids: list[int]) -> str:
    return "".join(VOCABULARY[i] for i in ids if i not in (END, PAD))


def test_a_demonstration_without_slips_is_the_worked_solution_and_right() -> None:
    problems = [Problem(347, 586), Problem(100, 109), Problem(999, 999)]
    shown = TASK.demonstrations(problems, 0.0, seed=0)
    for row, problem in zip(shown.tolist(), problems, strict=True):
        assert decode(row) == problem.prompt + worked_solution(problem)
        assert len([i for i in row[PROMPT_TOKENS:] if i != PAD]) <= MAX_RESPONSE_TOKENS
    assert TASK.is_right(shown[:, PROMPT_TOKENS:], TASK.encode_answers(problems)).all()
    assert TASK.encode_prompts(problems).shape == (3, PROMPT_TOKENS)


def test_slips_fall_on_the_digits_of_the_solution_alone() -> None:
    (problems,) = split_problems(0, [300])
    clean, slipped = (TASK.demonstrations(problems, slip, seed=1) for slip in (0.0, 0.5))
    changed = clean != slipped
    assert not changed[:, :PROMPT_TOKENS].any()
    digits = (clean < 10) & (clean >= 0)
    digits[:, :PROMPT_TOKENS] = False
    assert not changed[~digits].any()
    # One slip in ten draws the digit that was there.
    assert changed[digits].float().mean().item() == pytest.approx(0.45, abs=0.02)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("\\boxed{933}", True),
        ("7+6=11\n\\boxed{933}", True),  # only the sum counts
        ("\\boxed{934}", False),
        ("933}", False),
        ("\\boxed{1933}", False),
        ("", False),
    ],
)
def test_only_the_boxed_sum_at_the_end_counts(response: str, right: bool) -> None:
    answers = TASK.encode_answers([Problem(347, 586)])
    ids = [*encode(response), END]
    padded = TASK.demonstrations([Problem(347, 586)], 0.0, 0)[:, PROMPT_TOKENS:].clone().fill_(PAD)
    padded[0, : len(ids)] = padded.new_tensor(ids)
    assert TASK.is_right(padded, answers).tolist() == [right]


def test_a_response_that_never_ends_is_wrong() -> None:
    answers = TASK.encode_answers([Problem(347, 586)])
    ids = encode("1" * (MAX_RESPONSE_TOKENS - 5) + "\\boxed{933}")
    assert len(ids) == MAX_RESPONSE_TOKENS
    assert not TASK.is_right(answers.new_tensor([ids]), answers).any()
