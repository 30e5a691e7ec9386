"""Addition with worked columns: problems, their solutions, and the student who forgets to carry.

A problem is the sum of two three-digit numbers in which at least one carry has to be taken to
a further column. It is worked from the ones to the hundreds, one line a column; a carry that
comes in is written as `+1`:

    347+586=      7+6=13
                  4+8+1=13
                  3+5+1=9
                  \\boxed{933}

The forgetful student writes every column but never the `+1`, and so boxes a wrong sum on every
one of these problems. A model that has read both kinds of student samples both procedures:
that is the choice which reinforcement learning has to make, and the reward (is the boxed sum
right?) is all it is told.

Standard library only.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vespo_openrlhf.embedded.options import BuildOptions

DATASOURCE = "arithmetic"

# Operands have exactly three digits, so all prompts and almost all solutions have one length:
# a batch wastes nothing on padding.
LOWEST, HIGHEST = 100, 999


@dataclass(frozen=True, order=True)
class Problem:
    """The sum `a + b` of two numbers of three digits.

    Raises:
        ValueError: if an operand does not have exactly three digits.
    """

    a: int
    b: int

    def __post_init__(self) -> None:
        for operand in (self.a, self.b):
            if not LOWEST <= operand <= HIGHEST:
                raise ValueError(f"an operand must lie in {LOWEST}..{HIGHEST}, not {operand}")

    @property
    def prompt(self) -> str:
        """What the user types, such as `347+586=`."""
        return f"{self.a}+{self.b}="

    @property
    def label(self) -> str:
        """The right answer in plain digits."""
        return str(self.a + self.b)

    @property
    def key(self) -> tuple[int, int]:
        """The same for `a+b` and `b+a`: two problems of one key count as one problem."""
        return min(self.a, self.b), max(self.a, self.b)

    @property
    def has_carry(self) -> bool:
        """Whether a carry goes into the tens or the hundreds, so that forgetting it is wrong.

        A carry out of the hundreds does not count: that column is written out in full.
        """
        return self.a % 10 + self.b % 10 >= 10 or self.a % 100 + self.b % 100 >= 100


def worked_solution(problem: Problem, *, forget_carry: bool = False) -> str:
    """The columns of `problem` from right to left, then the boxed sum that follows from them.

    Args:
        problem: the sum to work out.
        forget_carry: write it as the student does who never takes a carry along. The boxed
            number is then wrong if and only if `problem.has_carry`.

    Returns:
        Four lines, the last of them `\\boxed{...}`, without a newline at the end.
    """
    lines: list[str] = []
    digits = ""
    carry = 0
    for column in (1, 10, 100):
        x, y = problem.a // column % 10, problem.b // column % 10
        total = x + y + carry
        lines.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        # The hundreds keep all of their sum: there is no further column to carry into.
        digits = (str(total) if column == 100 else str(total % 10)) + digits
        carry = 0 if forget_carry else total // 10
    lines.append(f"\\boxed{{{digits}}}")
    return "\n".join(lines)


def boxed_answer(text: str) -> str | None:
    """The content of the last complete `\\boxed{...}` in `text`, or None if there is none.

    A plain reader for our own solutions, in which boxes never nest. The reward of the training
    run is the verifier under `reward/`, not this.
    """
    _, box, after = text.rpartition("\\boxed{")
    answer, brace, _ = after.partition("}")
    return answer if box and brace else None


def sample_problems(rng: random.Random, count: int) -> list[Problem]:
    """`count` problems with a carry, no two of one `key`, in random order.

    Raises:
        ValueError: if `count` is negative or more than half of the problems there are (about
            140,000), where rejection would take ever longer to find a new one.
    """
    if count < 0:
        raise ValueError(f"the number of problems must not be negative, but is {count}")
    numbers = HIGHEST - LOWEST + 1
    limit = numbers * (numbers + 1) // 2 * 7 // 10 // 2
    if count > limit:
        raise ValueError(f"at most {limit} different problems can be drawn, not {count}")
    seen: set[tuple[int, int]] = set()
    problems: list[Problem] = []
    while len(problems) < count:
        problem = Problem(rng.randint(LOWEST, HIGHEST), rng.randint(LOWEST, HIGHEST))
        if problem.has_carry and problem.key not in seen:
            seen.add(problem.key)
            problems.append(problem)
    return problems


def split_problems(seed: int, sizes: Sequence[int]) -> list[list[Problem]]:
    """Splits of the given sizes that share no problem, not even with its operands swapped.

    A split does not depend on the sizes of those after it. Same seed and sizes, same splits.

    Raises:
        ValueError: see `sample_problems`.
    """
    if any(size < 0 for size in sizes):
        raise ValueError(f"the size of a split must not be negative: {list(sizes)}")
    problems = sample_problems(random.Random(f"arithmetic-{seed}"), sum(sizes))
    splits = []
    for size in sizes:
        splits.append(problems[:size])
        problems = problems[size:]
    return splits


def task_problems(options: BuildOptions) -> list[list[Problem]]:
    """The task's problems, none of them twice: held out, to train on, and shown by the warm start.

    What the training run is given, it has not been shown, and nor has the evaluation.
    """
    warm = options.warm_start
    shown = warm.steps * warm.batch_size
    return split_problems(options.seed, [options.heldout_problems, options.train_problems, shown])


def to_row(problem: Problem) -> dict[str, str]:
    """One row of the data set: `prompt`, `label`, `datasource`, and the right `solution`."""
    return {
        "prompt": problem.prompt,
        "label": problem.label,
        "datasource": DATASOURCE,
        "solution": worked_solution(problem),
    }


def write_jsonl(path: Path, problems: Iterable[Problem]) -> None:
    """Write one JSON object a line, in the order given; the same problems, the same bytes."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for problem in problems:
            file.write(json.dumps(to_row(problem)) + "\n")
