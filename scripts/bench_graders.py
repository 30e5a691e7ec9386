"""Graders of answers side by side: how many right answers each takes, and how many wrong ones.

    .venv/bin/python scripts/bench_graders.py GOLDS.jsonl [--verl DIR] [--lm-eval FILE]
        [--lighteval DIR] [--every 4]

Two sets: the rows of tests/unit/reward/test_policy_*.py, which we wrote, so they favour us; and
the column "answer" of a file, as it is and as `vespo reward fuzz` changes it, which its oracle
judges. math-verify and OpenRLHF's grader are installed; verl's DIR is its utils/reward_score, FILE
lm-eval's tasks/hendrycks_math/utils.py, each of a checkout; lighteval's DIR is where `pip install
--target DIR lighteval` has put it and what it needs. An answer stands in a box at the end of a
sentence. What takes longer than TIMEOUT_S hangs, and counts as refused; so does what raises.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vespo_openrlhf.reward.tools.fuzz import cases_of

TIMEOUT_S = 10.0
IN_BOX = "So the answer is $\\boxed{%s}$."
COLUMNS = ("True True", "False True", "crash", "hang")
POLICY = Path(__file__).parents[1] / "tests" / "unit" / "reward"
Case = tuple[str, str, bool]  # answer, gold, whether it is right
Grader = Callable[[str, str], bool]  # of a response and a gold


def load(path: Path) -> Any:
    """A module by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def policy_cases() -> list[Case]:
    """The rows (answer, gold, whether it is right) of the policy's tables."""
    rows = [
        row
        for path in sorted(POLICY.glob("test_policy_*.py"))
        for table in vars(load(path)).values()
        if isinstance(table, list)
        for row in table
    ]
    typed = [r for r in rows if isinstance(r, tuple) and list(map(type, r)) == [str, str, bool]]
    return list(dict.fromkeys(typed))


def changed_golds(path: str, every: int) -> list[Case]:
    """Golds as they are, rewritten, and made wrong: one in ``every`` of a file's."""
    golds = list(
        dict.fromkeys(json.loads(line)["answer"] for line in Path(path).read_text().splitlines())
    )[::every]
    made = [case for gold in golds for case in cases_of(gold, 0)[0]]
    return [(g, g, True) for g in golds] + [(c.answer, c.gold, c.expected) for c in made]


def make(name: str, source: str) -> Grader:
    """A grader by its name; the imports are its own, and heavy."""
    if name == "vespo":
        from vespo_openrlhf.reward import verify

        return lambda response, gold: verify(response, gold).correct
    if name == "math-verify":
        import math_verify

        return lambda response, gold: math_verify.verify(
            math_verify.parse(f"${gold}$"), math_verify.parse(response)
        )
    if name == "openrlhf":
        from openrlhf.utils import math_utils

        return lambda response, gold: math_utils.grade_answer(
            math_utils.extract_boxed_answer(response), gold
        )
    if name == "lighteval":
        return lighteval(source)
    module: Any = load(Path(source))
    if name == "lm-eval":
        return lambda response, gold: module.is_equiv(
            module.remove_boxed(module.last_boxed_only_string(response)), gold
        )
    return lambda response, gold: module.compute_score(response, gold) > 0


def lighteval(folder: str) -> Grader:
    """As lighteval's MATH-500 does: numbers or LaTeX out of a solution and out of a response."""
    sys.path.insert(0, folder)
    from lighteval.metrics.utils import extractive_match_utils as extracting
    from lighteval.metrics.utils.math_comparison import compare_gold_target
    from lighteval.tasks.requests import Doc
    from lighteval.utils.language import Language

    targets = [extracting.ExprExtractionConfig(), extracting.LatexExtractionConfig()]
    doc = Doc(query="", choices=[""], gold_index=0)
    regexes = extracting.get_extraction_regexes(doc, targets, Language.ENGLISH)

    def extract(text: str) -> Any:
        return extracting.extract_target_from_pred(text, regexes, "first_match", "any_match", 5)

    return lambda response, gold: compare_gold_target(
        extract(IN_BOX % gold), extract(response), 6, timeout_seconds=5
    )


_graders: dict[tuple[str, str], Grader] = {}


def grade(name: str, source: str, response: str, gold: str) -> str:
    """right, wrong or crash, in a process that may be stopped."""
    key = (name, source)
    try:
        _graders[key] = _graders.get(key) or make(*key)
        return "right" if _graders[key](response, gold) else "wrong"
    except Exception:
        return "crash"


def counts(name: str, source: str, cases: list[Case]) -> Counter[str]:
    """How often right answers and wrong ones are accepted, and what does not end or raises."""
    found: Counter[str] = Counter()
    spawn = multiprocessing.get_context("spawn")
    pool = spawn.Pool(1)
    pool.apply(grade, (name, source, r"\boxed{1}", "1"))  # imports do not count
    for answer, gold, right in cases:
        job = pool.apply_async(grade, (name, source, IN_BOX % answer, gold))
        try:
            said = job.get(TIMEOUT_S)
        except multiprocessing.TimeoutError:
            said = "hang"
            pool.terminate()
            pool = spawn.Pool(1)
            pool.apply(grade, (name, source, r"\boxed{1}", "1"))
        found[said if said in ("hang", "crash") else f"{right} {said == 'right'}"] += 1
    pool.terminate()
    return found


def main() -> None:
    """Print a table of Markdown for each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("golds", help="a .jsonl file with the column 'answer'")
    parser.add_argument("--verl", help="verl's utils/reward_score")
    parser.add_argument("--lm-eval", help="lm-eval's tasks/hendrycks_math/utils.py")
    parser.add_argument("--lighteval", help="where lighteval is installed")
    parser.add_argument("--every", type=int, default=4, help="take one gold in so many")
    args = parser.parse_args()
    graders = [("vespo", ""), ("math-verify", ""), ("openrlhf", "")]
    if args.verl:
        graders += [("verl", str(Path(args.verl) / "math_reward.py"))]
    if args.lm_eval:
        graders += [("lm-eval", args.lm_eval)]
    if args.lighteval:
        graders += [("lighteval", args.lighteval)]
    for flag in ("--verl", "--lm-eval", "--lighteval"):
        given = getattr(args, flag.removeprefix("--").replace("-", "_"))
        if not given:
            print(f"not run, as {flag} is not given")
    for title, cases in (
        ("policy", policy_cases()),
        ("golds", changed_golds(args.golds, args.every)),
    ):
        right = sum(case[2] for case in cases)
        print(f"\n{title}: {right} right, {len(cases) - right} wrong\n")
        print("| grader | right accepted | wrong accepted | crashes | hangs |")
        print("| --- | --- | --- | --- | --- |")
        with ThreadPoolExecutor(len(graders)) as threads:  # each waits for a process of its own
            results = threads.map(lambda grader: counts(*grader, cases), graders)  # noqa: B023
            for (name, _), found in zip(graders, results, strict=True):
                row = [name, *(str(found[k]) for k in COLUMNS)]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
