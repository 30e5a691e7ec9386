"""maj@k: the accuracy of the most frequent answer among k samples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

#: Beyond this many samples of one problem the exact expectation gives way to sampled subsets.
EXACT_SAMPLES = 512
SUBSETS = 20_000


def maj_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Expected accuracy of the majority answer among k of the n samples, over all subsets of k.

    Answers are the same if their strings are equal: normalise them first if "1/2" and "0.5" are to
    vote together. Answers that tie for most votes share the win evenly. None (no answer) takes up
    its place in a subset and never wins; a subset of nothing but None is wrong. If equal strings
    carry different verdicts, the group counts as the share of right ones.

    Exact up to 512 samples, by dynamic programming over the answers; beyond that the mean of
    20,000 random subsets with a fixed seed (standard error below 0.004).

    Args:
        answers: the extracted answers of one problem's n samples, None where there is none.
        correct: their verdicts.
        k: 1 to n.

    Raises:
        ValueError: k is not within 1 to n, or the lengths differ.
    """
    return maj_at_ks(answers, correct, [k])[k]


def maj_at_ks(
    answers: Sequence[str | None], correct: Sequence[bool], ks: Sequence[int]
) -> dict[int, float]:
    """`maj_at_k` for several k in one pass; arguments and errors as there."""
    n = len(answers)
    if len(correct) != n:
        raise ValueError(f"{n} answers but {len(correct)} verdicts")
    for k in ks:
        if not 1 <= k <= n:
            raise ValueError(f"k = {k}: with {n} samples, k can be 1 to {n}")
    verdicts: defaultdict[str, list[bool]] = defaultdict(list)
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None:
            verdicts[answer].append(bool(right))
    groups = [(len(v), sum(v) / len(v)) for v in verdicts.values()]
    if not any(accuracy for _, accuracy in groups):
        return dict.fromkeys(ks, 0.0)
    if n > EXACT_SAMPLES:
        return {k: _sampled(groups, n, k) for k in ks}
    wins = _weighted_wins(groups, n)
    return {k: float(wins[k]) / math.comb(n, k) for k in ks}


def _weighted_wins(groups: Sequence[tuple[int, float]], n: int) -> np.ndarray:
    """Per subset size j (0 to n): the sum over subsets of the share of the win that is right.

    For each winning count m, `ways[t, j]` counts the choices from the groups so far of j samples
    in all, with t groups at m votes and none above it, and `right[t, j]` adds to each choice the
    accuracies of the groups at m. The right share of the win is then right[t] / t.

    Args:
        groups: per answer, its number of samples and its accuracy.

    Returns:
        (n + 1,) float64; every term is positive, so nothing cancels.
    """
    silent = n - sum(size for size, _ in groups)
    wins = np.zeros(n + 1)
    for m in range(1, max(size for size, _ in groups) + 1):
        most_tied = sum(size >= m for size, _ in groups)
        ways = np.zeros((most_tied + 1, n + 1))
        right = np.zeros_like(ways)
        for j in range(silent + 1):
            ways[0, j] = float(math.comb(silent, j))
        for size, accuracy in groups:
            new_ways, new_right = np.zeros_like(ways), np.zeros_like(right)
            for taken in range(min(size, m - 1) + 1):
                choices = float(math.comb(size, taken))
                new_ways[:, taken:] += choices * ways[:, : n + 1 - taken]
                new_right[:, taken:] += choices * right[:, : n + 1 - taken]
            if size >= m:
                choices = float(math.comb(size, m))
                before, right_before = ways[:-1, : n + 1 - m], right[:-1, : n + 1 - m]
                new_ways[1:, m:] += choices * before
                new_right[1:, m:] += choices * (right_before + accuracy * before)
            ways, right = new_ways, new_right
        wins += (right[1:] / np.arange(1, most_tied + 1)[:, None]).sum(axis=0)
    return wins


def _sampled(groups: Sequence[tuple[int, float]], n: int, k: int) -> float:
    sizes = np.array([size for size, _ in groups])
    accuracy = np.array([accuracy for _, accuracy in groups])
    silent = n - sizes.sum()
    rng = np.random.default_rng(0)
    votes = rng.multivariate_hypergeometric([*sizes, silent], k, size=SUBSETS)[:, :-1]
    most = votes.max(axis=1, keepdims=True)
    tied = (votes == most) & (most > 0)
    return float((tied @ accuracy / np.maximum(tied.sum(axis=1), 1)).mean())
