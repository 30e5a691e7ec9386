"""What the generation records of one benchmark add up to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vespo_openrlhf.eval.engines import FAILED
from vespo_openrlhf.eval.metrics.estimators import avg_at_k, pass_at_k, pass_hat_k
from vespo_openrlhf.eval.metrics.intervals import bootstrap_intervals
from vespo_openrlhf.eval.metrics.majority import maj_at_ks

#: Verdicts that say nothing of the answer: the verifier was not there.
UNVERIFIED = ("overloaded", "unavailable")

_SPELLED_CHARS = 1_000


def ks_up_to(n: int) -> list[int]:
    """The k that are reported with n samples: 1, 2, 4, ... and n itself."""
    ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
    return ks if ks[-1:] == [n] else [*ks, n]


def group_by_problem(
    records: Iterable[Mapping[str, Any]],
) -> dict[str, list[Mapping[str, Any]]]:
    """Per problem id, its records by repeat.

    Raises:
        ValueError: no record, a repeat recorded twice, or problems with unequal numbers of them.
    """
    problems: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        repeats = problems.setdefault(str(record["id"]), {})
        if record["repeat"] in repeats:
            raise ValueError(f"problem {record['id']}: repeat {record['repeat']} is recorded twice")
        repeats[record["repeat"]] = record
    if not problems:
        raise ValueError("there are no generations to summarise")
    most = max(map(len, problems.values()))
    short = {problem: len(repeats) for problem, repeats in problems.items() if len(repeats) < most}
    if short:
        problem, repeats_there = next(iter(short.items()))
        raise ValueError(
            f"{len(short)} of {len(problems)} problems have fewer than {most} samples (problem "
            f"{problem} has {repeats_there}): run the same command again to generate what is "
            "missing, or give every problem the same number of responses"
        )
    return {
        problem: [repeats[repeat] for repeat in sorted(repeats)]
        for problem, repeats in sorted(problems.items())
    }


def answers_to_count(samples: Sequence[Mapping[str, Any]]) -> list[str | None]:
    r"""Extracted answers in the verifier's canonical spelling, in which maj@k counts votes.

    "\dfrac{1}{2}" and "\frac12" vote together; "0.5" votes apart, because only algebra would tell.
    An answer of more than 1,000 characters keeps its own spelling: finding the canonical one can
    take time that grows with the square of its length. A letter counts as the choice that it stood
    for in that sample, whose order is its own (`choice_order`).
    """
    from vespo_openrlhf.reward.comparing.words import choice
    from vespo_openrlhf.reward.reading.normalize import normalize

    def spelled(sample: Mapping[str, Any]) -> str | None:
        answer, order = sample.get("extracted"), sample.get("choice_order")
        if answer is None or len(answer) > _SPELLED_CHARS:
            return answer
        answer = normalize(answer)
        letter = choice(answer) if order else None
        place = len(order or ()) if letter is None else ord(letter) - ord("A")
        return f"choice {order[place]}" if order and place < len(order) else answer

    return [spelled(sample) for sample in samples]


def summarise(
    records: Iterable[Mapping[str, Any]],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """The summary of one benchmark from its generation records.

    Args:
        records: mappings with `id`, `repeat`, `correct`, `extracted`, `reason`, and where they are
            known `tokens` and `finish_reason`; of some benchmarks `within_tolerance` and
            `choice_order`; of episodes `agent`.
        level, resamples, seed: as in `bootstrap_interval`.

    Returns:
        `problems`, `repeats`, `avg@k` (k = repeats) with `standard_error` (clustered by problem)
        and `interval`; `pass@k`, `pass^k` and `maj@k` by k as a string, and `pass@k_interval`; the
        shares of generations with an extracted answer, cut off at the token limit, with a
        verification that timed out, not verified at all, and never generated because the request
        failed (`extraction_rate`, `truncation_rate`, `timeout_rate`, `unverified_rate`,
        `error_rate`), and where there is a tolerance, right by that alone (`tolerance_rate`);
        `length` in tokens (`mean`, `median`, `p95`, `mean_correct`, `mean_wrong`). What is not
        defined is None: the standard error of one problem, lengths that were not recorded. Of
        episodes `agent`: of those that did not fail, the mean number of `turns`, `reward`, `score`
        and what the agent logs (`logs`), and `by_turns` the `episodes` and `avg` accuracy of those
        with so many turns.

        Failed requests count as wrong: which ones fail has to do with the problem (a long prompt,
        a filter), so leaving them out would bias the accuracy by no one knows how much, and give
        problems unequal k. As wrong they bias it downwards, by `error_rate` at most.

    Raises:
        ValueError: no record, a repeat recorded twice, or problems with unequal numbers of them.
    """
    problems = group_by_problem(records)
    samples = [sample for problem in problems.values() for sample in problem]
    correct = [[bool(sample["correct"]) for sample in problem] for problem in problems.values()]
    repeats = len(correct[0])
    ks = ks_up_to(repeats)
    mean = avg_at_k(correct)
    votes = [
        maj_at_ks(answers_to_count(problem), verdicts, ks)
        for problem, verdicts in zip(problems.values(), correct, strict=True)
    ]
    passes_KN = np.array([[pass_at_k(verdicts, k) for verdicts in correct] for k in ks])
    intervals = bootstrap_intervals(passes_KN, level=level, resamples=resamples, seed=seed)
    reasons = [sample.get("reason") for sample in samples]
    finishes = [sample.get("finish_reason") for sample in samples]
    summary = {
        "problems": len(problems),
        "repeats": repeats,
        "avg@k": mean.value,
        "standard_error": None if math.isnan(mean.standard_error) else mean.standard_error,
        # pass@1 is avg@k: the same values per problem.
        "interval": intervals[0].tolist(),
        "pass@k": {str(k): float(values.mean()) for k, values in zip(ks, passes_KN, strict=True)},
        "pass@k_interval": {str(k): intervals[i].tolist() for i, k in enumerate(ks)},
        "pass^k": {
            str(k): float(np.mean([pass_hat_k(verdicts, k) for verdicts in correct])) for k in ks
        },
        "maj@k": {str(k): float(np.mean([by_k[k] for by_k in votes])) for k in ks},
        "extraction_rate": _share(sample.get("extracted") is not None for sample in samples),
        "truncation_rate": _share(finish == "length" for finish in finishes)
        if any(finishes)
        else None,
        "timeout_rate": _share(reason == "timeout" for reason in reasons),
        "unverified_rate": _share(reason in UNVERIFIED for reason in reasons),
        "error_rate": _share(finish == FAILED for finish in finishes),
        "length": _lengths(samples),
    }
    if any("within_tolerance" in sample for sample in samples):
        summary["tolerance_rate"] = _share(bool(s.get("within_tolerance")) for s in samples)
    if episodes := [sample for sample in samples if "agent" in sample]:
        summary["agent"] = _episodes(episodes)
    return summary


def _share(flags: Iterable[bool]) -> float:
    return float(np.mean(list(flags)))


def _episodes(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    facts = [sample["agent"] for sample in samples]
    names = sorted({name for fact in facts for name in fact["logs"]} - {"turns"})
    by_turns: dict[int, list[bool]] = {}
    for sample in samples:
        by_turns.setdefault(int(sample["agent"]["logs"]["turns"]), []).append(sample["correct"])

    def mean(values: Iterable[float]) -> float:
        return float(np.mean(list(values)))

    return {
        "turns": mean(fact["logs"]["turns"] for fact in facts),
        "reward": mean(fact["reward"] for fact in facts),
        "score": mean(fact["score"] for fact in facts),
        # What an episode does not log it has none of.
        "logs": {name: mean(fact["logs"].get(name, 0.0) for fact in facts) for name in names},
        "by_turns": {
            str(turns): {"episodes": len(right), "avg": _share(right)}
            for turns, right in sorted(by_turns.items())
        },
    }


def _lengths(samples: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    counted = [sample for sample in samples if sample.get("tokens") is not None]
    lengths = np.array([sample["tokens"] for sample in counted], dtype=np.float64)
    right = np.array([bool(sample["correct"]) for sample in counted], dtype=bool)

    def over(statistic: Callable[[np.ndarray], Any], values: np.ndarray) -> float | None:
        return float(statistic(values)) if values.size else None

    return {
        "mean": over(np.mean, lengths),
        "median": over(np.median, lengths),
        "p95": over(lambda values: np.quantile(values, 0.95), lengths),
        "mean_correct": over(np.mean, lengths[right]),
        "mean_wrong": over(np.mean, lengths[~right]),
    }
