"""The score of a mathematical sample: 1 if right, else 0, and why."""

from __future__ import annotations

import os
import re
from typing import Any

from vespo_openrlhf.reward.api import verify
from vespo_openrlhf.reward.batch import Score, ScoreSample
from vespo_openrlhf.reward.comparing.words import choice, same_choice, text_key
from vespo_openrlhf.reward.custom import isolated_score
from vespo_openrlhf.reward.labels import Label, parse_label
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.pool import own_thread
from vespo_openrlhf.reward.reading.extract import extract
from vespo_openrlhf.reward.reading.normalize import normalize
from vespo_openrlhf.reward.verdict import Verdict


def judge_label(response: str, label: Label, prompt: str, options: RewardOptions) -> Verdict:
    """Judge a response by its label's type: mathematics, a choice's letter, or words."""
    if label.type == "math":
        return verify(
            response,
            label.golds,
            timeout_s=options.timeout_s,
            prompt=prompt,
            require_box=options.require_box,
        )
    with own_thread.turn:
        return _judge_words(response, label, prompt, options)


def _judge_words(response: str, label: Label, prompt: str, options: RewardOptions) -> Verdict:
    golds = [gold for gold in label.golds if gold.strip()]
    if not golds:
        return Verdict(False, None, "empty_gold")
    found = extract(response, prompt=prompt, require_box=options.require_box)
    if not found.answers:
        return Verdict(False, None, found.reason)
    shown = ", ".join(found.answers)
    if len(found.answers) > 1:
        return Verdict(False, shown, "ambiguous")
    answer = normalize(found.answers[0])
    if label.type == "choice":
        letters = [normalize(gold) for gold in golds]
        right = any(choice(g) is not None and same_choice(g, answer) for g in letters)
    else:
        right = any(_words(normalize(gold)) == _words(answer) for gold in golds)
    return Verdict(right, shown, "correct" if right else "wrong")


def _words(text: str) -> str:
    return text_key(text) or re.sub(r"\\text|[{}\s]", "", text).casefold()


def scorer(options: RewardOptions) -> ScoreSample:
    """``score(response, label, prompt)`` for :func:`reward.batch.batched`."""
    own = {
        source: isolated_score(
            os.path.abspath(target.rpartition(":")[0]), target.rpartition(":")[2], options.timeout_s
        )
        for source, target in options.sources.items()
    }

    def score(response: str, label: Any, prompt: str) -> Score:
        parsed = parse_label(label)
        if parsed.source in own:
            return own[parsed.source](response, parsed.answer, prompt)
        verdict = judge_label(response, parsed, prompt, options)
        return Score(float(verdict.correct), {verdict.reason: 1.0})

    return score
