# ruff: noqa: E501 - a row of a table is read whole
r"""``vespo reward fuzz``: golds changed so that they are wrong, or rewritten so that they are not.

What an answer is worth is said by an oracle of its own: a small grammar (numbers, roots, powers,
functions; tuples, lists, intervals, matrices, equations, words) read into sympy. It shares no code
with the verifier. Where it cannot read an answer, or finds that a change has not changed the value,
the case is left out, and counted.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import sympy

from vespo_openrlhf.reward.api import verify
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.reward.tools.audit import label_column_of, read_rows
from vespo_openrlhf.reward.tools.oracle import evaluate, same, split
from vespo_openrlhf.reward.verdict import UNJUDGED

_THREADS = 8
_MAX_GOLD = 300
_DRAWS = 3  # of each change of a gold

Change = Callable[[str, random.Random], str | None]
_FRACTION = r"\\[dt]?frac ?(?:\{(?P<a>[^{}]*)\}|(?P<a1>\d)) ?(?:\{(?P<b>[^{}]*)\}|(?P<b1>\d))"
_START = r"(?:^|(?<=[(\[,=&]))(?P<space> ?)(?P<minus>-?) ?(?=[\d\\.a-zA-Z])"
_UNITS = {"cm": "m", "degrees": "radians", "inches": "feet", "cents": "dollars", "units": "pairs",
          "feet": "inches", "miles": "feet", "hours": "minutes", "meters": "feet"}  # fmt: skip


def _one(pattern: str, replacement: str | Callable[[re.Match[str], random.Random], str]) -> Change:
    """A change of one match of a pattern, drawn at random: to a template, or what a function says."""
    compiled = re.compile(pattern)

    def change(text: str, source: random.Random) -> str | None:
        found = list(compiled.finditer(text))
        if not found:
            return None
        match = source.choice(found)
        new = (
            match.expand(replacement)
            if isinstance(replacement, str)
            else replacement(match, source)
        )
        return text[: match.start()] + new + text[match.end() :]

    return change


def _all(pattern: str, template: str) -> Change:
    compiled = re.compile(pattern)
    return lambda text, _: compiled.sub(template, text)


def _parts(reorder: Callable[[list[str], random.Random], list[str]], separators: str) -> Change:
    """A change of the parts within a text's outer brackets."""

    def change(text: str, source: random.Random) -> str | None:
        match = re.fullmatch(
            r"((?:[a-z] ?\\in ?)?(?:\\left ?)?(?:[(\[]|\\\{)|\\begin ?\{[a-z]*\})(.*?)"
            r"((?:\\right ?)?(?:[)\]]|\\\})|\\end ?\{[a-z]*\})",
            text,
        )
        opening, inside, closing = match.groups() if match else ("", text, "")
        pieces = split(inside, separators)
        joints = re.findall(separators, inside)
        if len(pieces) < 2 or len(set(joints)) != 1:
            return None
        return opening + joints[0].join(reorder(pieces, source)) + closing

    return change


def _swap(pieces: list[str], source: random.Random) -> list[str]:
    first, second = source.sample(range(len(pieces)), 2)
    pieces[first], pieces[second] = pieces[second], pieces[first]
    return pieces


def _drop(pieces: list[str], source: random.Random) -> list[str]:
    out = source.randrange(len(pieces))
    return pieces[:out] + pieces[out + 1 :]


def _more(pieces: list[str], source: random.Random) -> list[str]:
    return [*pieces, str(source.randint(100, 999))]


def _ends(match: re.Match[str]) -> tuple[str, str]:
    return match["a"] or match["a1"] or "", match["b"] or match["b1"] or ""


def _numbers_swapped(text: str, source: random.Random) -> str | None:
    found = list(re.finditer(r"\d+", text))
    if len(found) < 2:
        return None
    first, second = sorted(source.sample(range(len(found)), 2))
    one, two = found[first], found[second]
    return (
        f"{text[: one.start()]}{two[0]}{text[one.end() : two.start()]}{one[0]}{text[two.end() :]}"
    )


def _operator(match: re.Match[str], source: random.Random) -> str:
    return source.choice([o for o in ("<", ">", "\\le ", "\\ge ") if o.strip() != match[0]])


def _turned(match: re.Match[str], _: random.Random) -> str:
    flipped = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\leq": "\\geq",
               "\\geq": "\\leq"}  # fmt: skip
    return f"{match['r']} {flipped[match['o']]} {match['l']}"


def _as_interval(text: str, _: random.Random) -> str | None:
    match = re.fullmatch(r"([^<>]+?) ?(<|\\leq?) ?[a-z] ?(<|\\leq?) ?([^<>a-z]+)", text)
    if match is None:
        return None
    low, left, right, high = match.groups()
    return f"{'(' if left == '<' else '['}{low}, {high}{')' if right == '<' else ']'}"


def _rounded(text: str, source: random.Random) -> str | None:
    value = evaluate(text)
    if value.kind != "scalar" or not value.items[0].is_real:
        return None
    return f"{float(value.items[0]):.{source.choice((2, 4, 6))}f}"


def _decimal(match: re.Match[str], _: random.Random) -> str:
    top, bottom = _ends(match)
    if not (top.strip().isdigit() and bottom.strip().isdigit() and int(bottom)):
        return match.group()
    value = sympy.Rational(int(top), int(bottom))
    exact = set(sympy.factorint(value.q)) <= {2, 5}  # else the policy has a rule of its own
    return f"{float(value)!r}" if exact else match.group()


def _tripled(match: re.Match[str], _: random.Random) -> str:
    top, bottom = (str(3 * int(x)) if x.isdigit() else f"3({x})" for x in _ends(match))
    return f"\\frac{{{top}}}{{{bottom}}}"


def _root_below(match: re.Match[str], _: random.Random) -> str:
    top = int(match["k"] or 1) * int(match["n"])
    return f"\\frac{{{top}}}{{{match['d']}\\sqrt{{{match['n']}}}}}"


def _reprinted(text: str, source: random.Random) -> str | None:
    value = evaluate(text)
    if value.kind != "scalar" or not value.items[0].free_symbols:
        return None
    form = source.choice((sympy.expand, sympy.factor))
    return str(sympy.latex(form(value.items[0])))


def _terms(text: str, _: random.Random) -> str | None:
    """A sum that begins with its last term."""
    if "=" in text or "," in text or "\\pm" in text:
        return None
    at = [m.start() for m in re.finditer(r"[-+]", text) if m.start()]
    at = [i for i in at if all(text[:i].count(o) == text[:i].count(c) for o, c in ("()", "{}"))]
    if not at:
        return None
    first, last = text[: at[-1]].strip(), text[at[-1] :].strip()
    return f"{last.removeprefix('+').strip()} {'' if first[0] == '-' else '+ '}{first}"


def _other(letters: str) -> Callable[[re.Match[str], random.Random], str]:
    return lambda m, source: source.choice([c for c in letters if c != m.group()])


MUTATIONS: dict[str, Change] = {
    "sign": _one(r"[-+]", lambda m, _: "+" if m.group() == "-" else "-"),
    "leading sign": _one(_START, lambda m, _: m["space"] + ("" if m["minus"] else "-")),
    "off by one": _one(r"\d+", lambda m, source: str(abs(int(m.group()) + source.choice((-1, 1))))),
    "numbers swapped": _numbers_swapped,
    "digit": _one(r"\d", _other("0123456789")),
    "digits swapped": _one(r"(\d)(\d)", r"\2\1"),
    "digit dropped": _one(r"\d(?=\d)", ""),
    "exponent": _one(r"(?<=\^)(?P<b> ?\{?)(?P<n>\d+)", lambda m, _: f"{m['b']}{int(m['n']) + 1}"),
    "exponent dropped": _one(r"\^ ?(?:\{[^{}]*\}|\d)", ""),
    "squared": _one(r"(?<![\\a-zA-Z{])[a-z](?![a-zA-Z])|\d(?![\d.,_])|\\pi", r"\g<0>^2"),
    "upside down": _one(_FRACTION, r"\\frac{\g<b>\g<b1>}{\g<a>\g<a1>}"),
    "factor dropped": _one(
        r"\\pi|\\sqrt ?(?:\{[^{}]*\}|\d)|(?<![a-zA-Z\\{])[a-z](?![a-zA-Z])|\d+ ?(?=[\\a-z(])",
        "",
    ),
    "root dropped": _one(r"\\sqrt ?(?=\{|\d)", ""),
    "parts swapped": _parts(_swap, r",|&"),
    "ends swapped": _one(
        r"(?<=[(\[])([^()\[\],<>]+),([^()\[\],<>]+)(?=[)\]])", r"\2,\1"
    ),
    "term dropped": _one(r"(?<=[\w)}]) ?[-+] ?[^-+(){}=,<>|&]+(?=$|[-+=)])", ""),
    "another function": _one(
        r"\\(?:sin|cos|tan|ln|log)(?![a-z_])",
        lambda m, source: source.choice(["\\sin", "\\cos", "\\tan", "\\ln"]),
    ),
    "product for a sum": _one(r"(?<=[\w)}]) ?[-+] ?(?=[\w(\\])", r" \\cdot "),
    "sum for a product": _one(r"(?<=[\d)])(?=\\sqrt|\\pi|[a-z(])| ?\\cdot ", "+"),
    "rows swapped": _parts(_swap, r"\\\\"),
    "part dropped": _parts(_drop, r",|\\\\|\\cup"),
    "part added": _parts(_more, r","),
    "opening bracket": _one(r"^\(|(?<=\\left)\(|^\[|(?<=\\left)\[|(?<=cup )\(", lambda m, _: "[" if m.group() == "(" else "("),
    "closing bracket": _one(r"[)\]]$|[)\]](?= \\cup)", lambda m, _: "]" if m.group() == ")" else ")"),
    "unit": _one(r"(?<![a-z])(?:" + "|".join(_UNITS) + ")(?![a-z])", lambda m, _: _UNITS[m[0]]),
    "another unit": _one(r"\^ ?\\circ$|\^ ?\{ ?\\circ ?\}$", r"\\text{ cm}"),
    "another operator": _one(r"<|>|\\[lg]eq?(?![a-z])", _operator),
    "another domain": _one(r"(?<=\\mathbb\{)[ZNRQ]", _other("ZNRQ")),
    "another exception": _one(r"(?<=\\ne )\d", _other("123456789")),
    "base": _one(r"(?<=_)(?P<b>\{?)(?P<n>\d+)", lambda m, _: f"{m['b']}{int(m['n']) + 1}"),
    "letter": _one(r"(?<![\\a-zA-Z{])[a-df-hj-z](?![a-zA-Z{])", _other("abkmnpqrxyz")),
    "word": _one(r"(?<=[{(a-zA-Z])[a-zA-Z](?=[a-zA-Z ]*\)?\}$)", _other("bcdfgknqtz")),
    "point moved": _one(r"(\d*)\.(\d)", r"\1\2."),
    "rounded": _rounded,
}  # fmt: skip
REWRITES: dict[str, Change] = {
    "spaces": _all(r"(?<=[\d)}])(?=[-+,=])|(?<=[-+,=(\[])(?=[\d\\])", " "),
    "no spaces": _all(r"(?<![a-zA-Z]) +| +(?![a-zA-Z])", ""),
    "thin spaces": _all(r"(?<=[,+=]) ?(?=[\d\\-])", r"\\,"),
    "dfrac": _all(r"\\frac", r"\\dfrac"),
    "tfrac": _all(r"\\[d]?frac", r"\\tfrac"),
    "braces": _all(r"(?<=\^)\d(?!\d)|(?<=_)\d+", r"{\g<0>}"),
    "fraction braces": _all(_FRACTION, r"\\frac{ \g<a>\g<a1> }{ \g<b>\g<b1> }"),
    "braces around": lambda text, _: "{" + text + "}",
    "dollars": lambda text, _: f"${text}$",
    "full stop": _all(r"(?<!\.)\Z", "."),
    "left, right": lambda text, _: (
        re.sub(r"[(\[]", lambda m: "\\left" + m.group(),
               re.sub(r"[)\]]", lambda m: "\\right" + m.group(), text))
        if "\\left" not in text and "\\text" not in text and "\\sqrt[" not in text else None
    ),
    "no left, right": _all(r"\\(?:left|right)(?![a-z]) ?", ""),
    "slash": _one(_FRACTION, r"\g<a>\g<a1>/\g<b>\g<b1>"),
    "slash in brackets": _one(_FRACTION, r"(\g<a>\g<a1>)/(\g<b>\g<b1>)"),
    "not reduced": _one(_FRACTION, _tripled),
    "sign in front": _one(r"\\frac ?\{-(\d+)\} ?(\{\d+\})", r"-\\frac{\1}\2"),
    "sign on top": _one(r"-(\\frac) ?\{(\d+)\}", r"\1{-\2}"),
    "decimal": _one(_FRACTION, _decimal),
    "decimal of an integer": _one(r"^-?\d+$", r"\g<0>.0"),
    "zeros": _one(r"\.\d+", r"\g<0>0"),
    "zero in front": _one(r"(?<!\d)\.\d+", r"0\g<0>"),
    "thousands": _one(r"^-?\d{4,9}$", lambda m, _: f"{int(m.group()):,}"),
    "thousands in braces": _one(r"^-?\d{4,9}$", lambda m, _: f"{int(m.group()):,}".replace(",", "{,}")),
    "fraction": _one(r"^(\d*)\.(\d{1,6})$", lambda m, _: f"\\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}"),
    "order": _parts(lambda pieces, _: pieces[::-1], r", ?|\\cup"),
    "order of terms": _terms,
    "order of factors": _one(r"^(\d+) ?(\\sqrt ?(?:\{[^{}]*\}|\d)|\\pi|[a-z])$", r"\2 \\cdot \1"),
    "order of brackets": _one(r"(\([^()]*\))(\([^()]*\))", r"\2\1"),
    "dot": _one(r"(?<=\d) ?(?=\\sqrt|\\pi|[a-z](?![a-z])|\()", r" \\cdot "),
    "times": _one(r"(?<=\d) ?(?=\\sqrt|\\pi|[a-z](?![a-z])|\()", r" \\times "),
    "root as a power": _one(r"\\sqrt ?\{(\w+)\}", r"\1^{1/2}"),
    "root below": _one(r"\\frac ?\{(?P<k>\d*)\\sqrt ?\{(?P<n>\d+)\}\} ?\{(?P<d>\d+)\}", _root_below),
    "unit after": _one(r"^[^\\,=_a-zA-Z]*\d$|^\\frac[^\\,=_]*$", r"\g<0>\\text{ units}"),
    "sign on both": _one(r"^(?P<l>[a-z]) ?= ?(?P<r>.*)$", r"\g<r> = \g<l>"),
    "turned round": _one(
        r"^(?P<l>[^<>=,]+?) ?(?P<o><|>|\\[lg]eq?(?![a-z])) ?(?P<r>(?:(?!\\[lg]e)[^<>=,])+)$", _turned
    ),
    "as an interval": _as_interval,
    "rows in another order": _parts(lambda pieces, _: pieces[::-1], r"\\\\"),
    "condition dropped": _one(r",? ?(?:\\text ?\{[a-z ]*\} ?)?[a-z] ?(?:\\in ?\\mathbb|\\ne).*$", ""),
    "reprinted": _reprinted,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An answer made from a gold: what it should be judged, and what it was."""

    gold: str
    answer: str
    change: str
    expected: bool
    got: str = ""

    @property
    def disagrees(self) -> bool:
        """Whether the verifier judged otherwise; nothing was judged where it was busy."""
        return self.got not in UNJUDGED and self.expected != (self.got == "correct")


def cases_of(gold: str, seed: int) -> tuple[list[Case], int]:
    """The cases of a gold, and how many were left out. The same for the same gold and seed."""
    source = random.Random(f"{seed} {gold}")
    cases: dict[str, Case] = {}
    left_out: set[str] = set()
    try:
        value = evaluate(gold) if len(gold) <= _MAX_GOLD else None
    except Exception:  # sympy raises much, on odd input
        value = None
    for table in (MUTATIONS, REWRITES):
        for name, change in [item for item in table.items() for _ in range(_DRAWS)]:
            try:
                answer = change(gold, source)
            except Exception:
                answer = None
            if answer is None or answer == gold or answer in cases.keys() | left_out:
                continue
            try:
                equal = None if value is None else same(value, evaluate(answer))
            except Exception:
                equal = None
            if equal is None or (equal and table is MUTATIONS):
                left_out.add(answer)
            else:
                cases[answer] = Case(gold, answer, name, equal)
    return list(cases.values()), len(left_out)


def fuzz(golds: Iterable[str], seed: int = 0) -> dict[str, Any]:
    """Judge what golds are made into.

    Returns:
        ``golds``, ``cases``, ``left_out``, ``wrong`` and ``equivalent`` (cases that must be refused
        and accepted), ``unjudged``, ``wrong_accepted`` and ``equivalent_rejected`` (lists of
        :class:`Case`).
    """
    from tqdm import tqdm

    distinct = list(dict.fromkeys(golds))
    made: list[Case] = []
    left_out = 0

    def judged(case: Case) -> Case:
        reason = verify(f"\\boxed{{{case.answer}}}", case.gold).reason
        return Case(case.gold, case.answer, case.change, case.expected, reason)

    with ThreadPoolExecutor(_THREADS) as threads:
        for gold in tqdm(distinct, desc="fuzzing", unit=" golds"):
            cases, out = cases_of(gold, seed)
            left_out += out
            made.extend(threads.map(judged, cases))
    wrong = [case for case in made if case.disagrees]
    return {
        "golds": len(distinct),
        "cases": len(made),
        "left_out": left_out,
        "wrong": sum(not case.expected for case in made),
        "equivalent": sum(case.expected for case in made),
        "unjudged": sum(case.got in UNJUDGED for case in made),
        "wrong_accepted": [case for case in wrong if not case.expected],
        "equivalent_rejected": [case for case in wrong if case.expected],
    }


def main(path: str, label_key: str | None, seed: int, limit: int | None, as_json: bool) -> int:
    """Print what the verifier and the oracle disagree in; 1 if a wrong answer was accepted."""
    rows = read_rows(path)
    column = label_column_of(rows, label_key)
    labels = [parse_label(row.get(column)) for row in rows]
    golds = [g for label in labels if label.type == "math" for g in label.golds if g.strip()]
    report = fuzz(golds[:limit], seed)
    accepted, rejected = report["wrong_accepted"], report["equivalent_rejected"]
    if as_json:
        plain = {k: list(map(asdict, v)) if isinstance(v, list) else v for k, v in report.items()}
        print(json.dumps(plain))
        return 1 if accepted else 0
    for case in (*accepted, *rejected):
        expected = "correct" if case.expected else "wrong"
        print(f"gold {case.gold!r}  answer {case.answer!r} ({case.change})")
        print(f"  expected {expected}, got {case.got}")
    for name, found, total in (
        ("wrong answers accepted", accepted, report["wrong"]),
        ("equivalents rejected", rejected, report["equivalent"]),
    ):
        share = len(found) / total if total else 0.0
        print(f"{name}: {len(found)} of {total} ({share:.2%})", end="")
        kinds = Counter(case.change for case in found).most_common()
        print("".join(f", {change} {count}" for change, count in kinds))
    print(
        f"{report['golds']} golds, {report['cases']} cases, seed {seed}; {report['left_out']} "
        f"left out, as the oracle cannot tell; {report['unjudged']} not judged"
    )
    return 1 if accepted else 0
