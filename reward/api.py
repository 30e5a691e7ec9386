"""``verify`` and ``label_problem``: the verifier as everyone calls it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vespo_openrlhf.reward.comparing.judge import UndecidedError, judge, undecided
from vespo_openrlhf.reward.comparing.limits import MAX_CHARS
from vespo_openrlhf.reward.comparing.words import choice
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.reward.pool import client, own_thread
from vespo_openrlhf.reward.reading.extract import extract, is_placeholder
from vespo_openrlhf.reward.reading.golds import is_empty, unbox, usable_golds
from vespo_openrlhf.reward.reading.normalize import normalize
from vespo_openrlhf.reward.verdict import Verdict, note_unjudged

logger = logging.getLogger(__name__)

_THREADS = 8


def verify(
    response: str,
    gold: str | Sequence[str],
    *,
    timeout_s: float = 5.0,
    prompt: str = "",
    require_box: bool = True,
) -> Verdict:
    """Judge a response to a mathematical problem against its gold.

    Never raises on any two strings and never hangs; safe from any thread, process or actor.

    Args:
        response: what the model wrote, special tokens and thinking included.
        gold: the right answer, or several of which any is right.
        timeout_s: seconds a comparison may run before its process is killed. Waiting for a free
            worker is not counted; it is bounded by thirty seconds, then ``overloaded``.
        prompt: what the model was asked; boxes copied from there are no answers.
        require_box: False also takes what follows the last "answer:" where no box stands.

    Returns:
        The verdict; its reason is one of :data:`reward.REASONS`.

    Raises:
        ValueError: a ``timeout_s`` that is no limit.
    """
    if not 0 < timeout_s <= 600:
        raise ValueError(f"timeout_s must be between 0 and 600 seconds, not {timeout_s}")
    try:
        verdict = _verify(response, gold, timeout_s, prompt, require_box)
        if not verdict.judged:
            note_unjudged(verdict.reason)
        return verdict
    except Exception:  # a fault of ours must cost one sample, not the training run
        logger.exception("an answer could not be judged; it counts as not right")
        return Verdict(False, None, "unparsable")


def _verify(
    response: str, gold: str | Sequence[str], timeout_s: float, prompt: str, require_box: bool
) -> Verdict:
    given = (gold,) if isinstance(gold, str) else tuple(gold)
    extracted = None
    try:
        if sum(map(len, given)) > own_thread.MAX_READ or not own_thread.is_short(response):
            work = (given, response, prompt, require_box)
            reason, extracted = client.call("verify", *work, timeout_s=timeout_s)
            return Verdict(reason == "correct", extracted, reason)
        with own_thread.turn:
            golds = usable_golds(given)
            if not golds:
                return Verdict(False, None, "empty_gold")
            found = extract(response, prompt=prompt, require_box=require_box)
            if not found.answers:
                return Verdict(False, None, found.reason)
            extracted = ", ".join(found.answers)
            reason = _in_caller(golds, found.answers)
        if reason is None:
            reason = str(client.call("compare", golds, found.answers, timeout_s=timeout_s))
    except client.FailedError as failure:
        reason = str(failure)
    return Verdict(reason == "correct", extracted, reason)


def _in_caller(golds: tuple[str, ...], answers: tuple[str, ...]) -> str | None:
    """The reason, where strings and exact numbers decide; None where a worker must."""
    if sum(map(len, answers)) + sum(map(len, golds)) <= own_thread.MAX_COMPARED:
        with contextlib.suppress(UndecidedError):
            return judge(golds, answers, undecided)
    return None


def probe() -> None:
    """See that the verifier answers, before anything depends on it; it is started if need be.

    Raises:
        ConnectionError: it cannot be reached, and why. To be busy is no reason.
    """
    try:
        client.call("compare", ("(x-1)(x+1)",), ("x^2-1",), timeout_s=30.0)
    except client.FailedError as failure:
        if str(failure) == "unavailable":
            raise ConnectionError(
                "the verifier cannot be used, so nothing would be rewarded: "
                f"{failure.__cause__ or 'its workers die; see the log beside its socket'}. It "
                "needs a folder of yours alone for its socket: set XDG_RUNTIME_DIR or TMPDIR to one"
            ) from failure


def needs_verifier(reward_file: Mapping[str, Any]) -> bool:
    """Whether a reward file asks the verifier: it has the name, or its function runs there.

    Args:
        reward_file: the names that the file defines.
    """
    uses_workers = getattr(reward_file.get("reward_func"), "uses_workers", False)
    return bool(uses_workers) or any(value is verify for value in reward_file.values())


def label_problem(label: object) -> str | None:
    """Why a label cannot be used as a gold, or None where it can.

    Plain numbers are answered at once; the rest is parsed in the worker processes.

    Args:
        label: as the dataset's label column yields it: a plain answer or a JSON object with
            ``answer``, ``alternatives``, ``source`` and ``type``.
    """
    if _plain_number(label):
        return None
    try:
        parsed = parse_label(label)
    except ValueError as error:
        return str(error)
    golds = [gold for gold in parsed.golds if not is_empty(gold)]
    if not golds:
        return "empty"
    for gold in golds:
        if parsed.type == "math" and (problem := _gold_problem(unbox(gold))):
            return problem
        if parsed.type == "choice" and choice(normalize(gold)) is None:
            return f"not the letter of a choice: {gold[:80]!r}"
    return None


def _plain_number(label: object) -> bool:
    if isinstance(label, int) and not isinstance(label, bool):
        return True
    if not isinstance(label, str) or len(label) > 40 or not label.isascii():
        return False
    return label.removeprefix("-").replace(".", "", 1).isdigit()


def _gold_problem(gold: str) -> str | None:
    if _plain_number(gold):
        return None
    if is_placeholder(gold):
        return f"a placeholder, which no answer matches: {gold[:80]!r}"
    if len(gold) > MAX_CHARS:
        return f"{len(gold)} characters long"
    try:
        bad = client.call("unreadable", gold, timeout_s=5.0)
    except client.FailedError as failure:
        return f"could not be checked: {failure}"
    return f"not parsable, so only the same text matches it: {gold[:80]!r}" if bad else None


def label_problems(labels: Iterable[object]) -> list[str | None]:
    """:func:`label_problem` for a whole dataset: each different label once, several at a time."""
    rows = list(labels)
    keys = [None if _plain_number(label) else repr(label) for label in rows]
    unique = {key: label for key, label in zip(keys, rows, strict=True) if key is not None}
    with ThreadPoolExecutor(_THREADS) as threads:
        found = dict(zip(unique, threads.map(label_problem, unique.values()), strict=True))
    return [None if key is None else found[key] for key in keys]
