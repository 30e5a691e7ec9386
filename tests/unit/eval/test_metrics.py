"""avg@k, pass@k, pass^k and maj@k against enumeration, and the summary of a benchmark's records."""

import itertools
import json
import math
import random
from collections import Counter
from fractions import Fraction

import pytest

from vespo_openrlhf.eval.metrics import (
    avg_at_k,
    ks_up_to,
    maj_at_k,
    majority,
    pass_at_k,
    pass_hat_k,
    summarise,
)
from vespo_openrlhf.eval.metrics.summary import answers_to_count


def enumerated_majority(answers, correct, k):
    """By its definition: every subset, the winners of each, the share of right ones among them."""
    verdicts = {}
    for answer, right in zip(answers, correct, strict=True):
        verdicts.setdefault(answer, []).append(right)
    accuracy = {answer: Fraction(sum(v), len(v)) for answer, v in verdicts.items()}
    total = Fraction(0)
    for subset in itertools.combinations(answers, k):
        votes = Counter(answer for answer in subset if answer is not None)
        if votes:
            winners = [answer for answer in votes if votes[answer] == max(votes.values())]
            total += sum(accuracy[winner] for winner in winners) / len(winners)
    return float(total / math.comb(len(answers), k))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_and_pass_hat_k_are_means_over_all_subsets(n: int) -> None:
    for correct in itertools.product([False, True], repeat=n):
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(correct, k))
            assert pass_at_k(correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
            assert pass_hat_k(correct, k) == pytest.approx(sum(map(all, subsets)) / len(subsets))


@pytest.mark.parametrize("seed", range(60))
def test_maj_at_k_is_the_mean_over_all_subsets(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randint(1, 10)
    answers = [rng.choice(["1", "2", "3", "4", None]) for _ in range(n)]
    # Mostly one verdict per answer, as from a verifier; sometimes verdicts that disagree.
    correct = [a in ("1", "3") if rng.random() < 0.9 else rng.random() < 0.5 for a in answers]
    correct = [right and answer is not None for answer, right in zip(answers, correct, strict=True)]
    for k in range(1, n + 1):
        assert maj_at_k(answers, correct, k) == pytest.approx(
            enumerated_majority(answers, correct, k), abs=1e-12
        )


def test_maj_at_k_by_hand() -> None:
    right, wrong = ("7", True), ("8", False)

    def majority_of(samples, k):
        return maj_at_k([answer for answer, _ in samples], [v for _, v in samples], k)

    assert majority_of([right, right, wrong], 3) == 1.0
    assert majority_of([right, wrong], 2) == 0.5  # a tie is split
    assert majority_of([right, (None, False), (None, False)], 3) == 1.0  # None never wins
    assert majority_of([(None, False), (None, False)], 2) == 0.0
    assert majority_of([right, wrong, wrong, ("9", False)], 4) == 0.0
    # Subsets of two of 7, 8, 8: {7, 8} twice a tie, {8, 8} once wrong.
    assert majority_of([right, wrong, wrong], 2) == pytest.approx(1 / 3)


def test_maj_at_k_beyond_the_exact_limit_is_sampled_close_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(1)
    answers = [rng.choice(["1", "1", "2", "2", "3", None]) for _ in range(64)]
    correct = [answer == "2" for answer in answers]
    exact = maj_at_k(answers, correct, 16)
    monkeypatch.setattr(majority, "EXACT_SAMPLES", 32)
    sampled = maj_at_k(answers, correct, 16)
    assert sampled == pytest.approx(exact, abs=0.015)
    assert sampled == maj_at_k(answers, correct, 16)


@pytest.mark.parametrize("k", [0, 4, -1])
def test_k_beyond_the_samples_is_refused(k: int) -> None:
    for call in (
        lambda: pass_at_k([True] * 3, k),
        lambda: pass_hat_k([True] * 3, k),
        lambda: maj_at_k(["1"] * 3, [True] * 3, k),
    ):
        with pytest.raises(ValueError, match="k can be 1 to 3"):
            call()


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 answers but 1 verdicts"):
        maj_at_k(["1", "2"], [True], 1)


def test_avg_at_k_clusters_by_problem() -> None:
    # Two problems, all right and all wrong: eight samples say no more than two.
    mean = avg_at_k([[True] * 4, [False] * 4])
    assert mean.value == 0.5
    assert mean.standard_error == pytest.approx(0.5)
    assert math.isnan(avg_at_k([[True, False]]).standard_error)
    with pytest.raises(ValueError, match="same number of samples"):
        avg_at_k([[True], [True, False]])


def test_ks_end_in_n() -> None:
    assert ks_up_to(1) == [1]
    assert ks_up_to(6) == [1, 2, 4, 6]
    assert ks_up_to(32) == [1, 2, 4, 8, 16, 32]


def record(problem, repeat, correct, **more):
    return {
        "id": problem,
        "repeat": repeat,
        "correct": correct,
        "extracted": "1",
        "reason": "correct" if correct else "wrong",
        "tokens": 10,
        "finish_reason": "stop",
    } | more


def test_summary_by_hand() -> None:
    records = [
        record("a", 1, True, extracted=r"\dfrac{1}{2}", tokens=10),
        record("a", 0, True, extracted=r"\frac{1}{2}", tokens=20),
        record("b", 0, False, extracted="3", tokens=30, reason="timeout"),
        record("b", 1, False, extracted=None, tokens=100, finish_reason="length"),
    ]
    summary = summarise(records)
    assert summary["problems"] == 2
    assert summary["repeats"] == 2
    assert summary["avg@k"] == 0.5
    assert summary["standard_error"] == pytest.approx(0.5)
    assert summary["interval"][0] < 0.5 < summary["interval"][1]
    assert summary["pass@k"] == summary["pass^k"] == summary["maj@k"] == {"1": 0.5, "2": 0.5}
    assert summary["extraction_rate"] == 0.75
    assert summary["truncation_rate"] == summary["timeout_rate"] == 0.25
    assert summary["unverified_rate"] == 0
    assert summary["length"]["mean"] == 40
    assert summary["length"]["median"] == 25
    assert summary["length"]["mean_correct"] == 15
    assert summary["length"]["mean_wrong"] == 65
    assert summarise(reversed(records)) == summary  # the order of the records does not matter
    json.dumps(summary, allow_nan=False)


def test_summary_of_what_another_system_recorded() -> None:
    summary = summarise([{"id": "a", "repeat": 0, "correct": True, "extracted": "1"}])
    assert summary["length"]["mean"] is None
    assert summary["truncation_rate"] is None
    assert summary["standard_error"] is None
    json.dumps(summary, allow_nan=False)


def test_spellings_vote_together() -> None:
    spellings = [r"\dfrac{1}{2}", r"\frac{1}{2}", r"$\frac12$"]
    right = [record("a", i, True, extracted=e) for i, e in enumerate(spellings)]
    wrong = [record("a", 3 + i, False, extracted="5") for i in range(2)]
    assert summarise(right + wrong)["maj@k"]["5"] == 1.0


def test_letters_vote_for_the_choice_they_stood_for() -> None:
    """Two repeats, the choices in another order each: A then is C now."""
    orders = [[0, 1, 2, 3], [2, 1, 0, 3], [3, 2, 1, 0]]
    answers = ["A", "(C)", "A"]  # the right choice twice, then the third wrong one
    records = [
        {"id": "p", "repeat": i, "extracted": answer, "correct": order[ord(answer.strip("()")) - 65]
         == 0, "reason": "", "choice_order": order}
        for i, (answer, order) in enumerate(zip(answers, orders, strict=True))
    ]  # fmt: skip
    assert answers_to_count(records) == ["choice 0", "choice 0", "choice 3"]
    assert summarise(records)["maj@k"]["3"] == 1.0
    assert answers_to_count([{"extracted": "Z", "choice_order": [0, 1]}]) == ["Z"]


def test_summary_refuses_what_is_incomplete_or_double() -> None:
    with pytest.raises(ValueError, match="no generations"):
        summarise([])
    with pytest.raises(ValueError, match=r"1 of 2 problems have fewer than 2 samples \(problem b"):
        summarise([record("a", 0, True), record("a", 1, True), record("b", 0, True)])
    with pytest.raises(ValueError, match="repeat 0 is recorded twice"):
        summarise([record("a", 0, True), record("a", 0, False)])
