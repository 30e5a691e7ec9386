r"""Whether an answer is the gold: shapes compared here, scalars by a function handed in.

The caller hands in :func:`undecided`, which gives up where algebra is needed; a worker hands
in the algebra. Everything else is the same code, so the fast path of the caller and the slow
path of a worker cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations

from vespo_openrlhf.reward.comparing.conditions import (
    CONDITION_WORDS,
    OPERATOR,
    condition_key,
    domain,
    explicit,
    renamed,
)
from vespo_openrlhf.reward.comparing.expression import MAX_DEPTH, Expression, TooComplexError
from vespo_openrlhf.reward.comparing.limits import (
    MAX_CHARS,
    UnreadableError,
    depth,
)
from vespo_openrlhf.reward.comparing.shapes import (
    as_column,
    as_except,
    bare,
    by_name,
    is_row,
    name_key,
    tells_apart,
)
from vespo_openrlhf.reward.comparing.structure import is_name, parse
from vespo_openrlhf.reward.comparing.unevaluated import SENTENCE, UNFINISHED, unevaluated
from vespo_openrlhf.reward.comparing.words import (
    choice,
    same_words,
    split_unit,
    without_label,
)
from vespo_openrlhf.reward.reading.normalize import compact, normalize
from vespo_openrlhf.reward.reading.quantity import (
    Quantity,
    parse_parts,
    parse_quantity,
    same_parts,
    same_quantity,
)
from vespo_openrlhf.reward.reading.units import same_unit

_MAX_SET = 64

#: ("equal", gold, answer), ("equation", gold lhs, gold rhs, answer lhs, answer rhs),
#: ("relation", the same) or ("rounds", exact, decimal) -> whether it holds.
Algebra = Callable[..., bool]

_LETTERS = re.compile(r"[A-J]{2,10}")  # all that apply: ABD
_SEQUENCE = re.compile(r"(?:\\(?:angle|triangle) ?)?[A-Z]{2,}")
_TRANSPOSED = re.compile(r"[A-Z] ?\^ ?(?:T|\{ ?T ?\})")
_SETS = ("set", "interval", "union", "except")
_FUNCTION_NAME = re.compile(r"y|[a-z]\([a-z]\)")


class UndecidedError(Exception):
    """The comparison needs algebra."""


def undecided(*_: str) -> bool:
    """The algebra of the caller: none."""
    raise UndecidedError


def _each_in_other(
    gold: tuple[Expression, ...],
    answer: tuple[Expression, ...],
    same: Callable[[Expression, Expression], bool],
) -> bool:
    return all(any(same(g, a) for a in answer) for g in gold) and all(
        any(same(g, a) for g in gold) for a in answer
    )


class Judge:
    """Compares parsed answers; ``algebra`` decides what strings and exact numbers cannot."""

    def __init__(self, algebra: Algebra) -> None:
        self.algebra = algebra

    def scalar(self, gold: str, answer: str) -> bool:
        """Whether two scalars are the same."""
        if compact(gold) == compact(answer):
            return True
        if choice(gold) is None and (value := without_label(answer)) is not None:
            return self.scalar(gold, value)
        if _SEQUENCE.fullmatch(gold) and _SEQUENCE.fullmatch(answer):
            return False  # HHT and HTH are no products, nor are the angles ABC and ACB
        if _TRANSPOSED.search(gold) or _TRANSPOSED.search(answer):
            return bare(gold) == bare(answer)  # matrices do not commute
        if (decided := same_words(gold, answer)) is not None:
            return decided
        ratios = gold.split(":"), answer.split(":")
        if max(map(len, ratios)) > 2:
            return self._ratio(*ratios)
        gold_number, answer_number = parse_quantity(gold), parse_quantity(answer)
        if gold_number is not None and answer_number is not None:
            return same_quantity(gold_number, answer_number)
        parts = [
            parse_parts(text) or [number for number in (read,) if number and number.unit]
            for text, read in ((gold, gold_number), (answer, answer_number))
        ]
        if all(parts):  # 5 feet 3 inches, or 63 inches
            return same_parts(*parts)
        return self._expression(gold, answer, gold_number, answer_number)

    def _ratio(self, gold: list[str], answer: list[str]) -> bool:
        """Whether ratios of several terms are the same, up to a factor where they are numbers."""
        numbers = [[parse_quantity(term.strip()) for term in terms] for terms in (gold, answer)]
        if len(gold) != len(answer):
            return False
        values = [[n.value for n in terms if n is not None and n.plain] for terms in numbers]
        if all(len(terms) == len(gold) and any(terms) for terms in values):
            pairs = combinations(zip(*values, strict=True), 2)
            return all(a * d == b * c for (a, b), (c, d) in pairs)
        return all(self.scalar(g.strip(), a.strip()) for g, a in zip(gold, answer, strict=True))

    def _expression(
        self, gold: str, answer: str, gold_number: Quantity | None, answer_number: Quantity | None
    ) -> bool:
        if any(number is not None and number.base for number in (gold_number, answer_number)):
            return False
        if gold_number is not None and gold_number.value.denominator == 1 and unevaluated(answer):
            return False
        if SENTENCE.match(gold) or SENTENCE.match(answer):
            return False
        if UNFINISHED.search(answer) and not UNFINISHED.search(gold):
            return False
        gold_head, gold_unit = split_unit(gold)
        answer_head, answer_unit = split_unit(answer)
        if not same_unit(gold_unit, answer_unit):
            return False
        if (gold_unit or answer_unit) and compact(gold_head) == compact(answer_head):
            return True
        return self.algebra("equal", gold_head, answer_head)

    def same(self, gold: Expression, answer: Expression) -> bool:
        """Whether two parsed answers are the same."""
        if gold.condition and answer.condition:
            if self._contradict(gold, answer):
                return False
            answer = renamed(answer, gold)
        if gold.kind == "scalar" and answer.kind == "scalar":
            return self.scalar(gold.text, answer.text)
        names = {node.name for node in (gold, answer) if node.kind in _SETS and node.name}
        if len(names) > 1:
            return False  # x > 2 says nothing of y
        if (gold.kind, gold.name) == (answer.kind, answer.name) and compact(gold.text) == compact(
            answer.text
        ):
            return True
        if "approx" in (gold.kind, answer.kind):
            return self._approx(gold, answer)
        if {"named", "equation", "relation"} & {gold.kind, answer.kind}:
            return self._relations(gold, answer)
        kinds = (gold.kind, answer.kind)
        if "union" in kinds or "except" in kinds:
            return self._sets_of_reals(gold, answer)
        if "matrix" in kinds:
            gold, answer = as_column(gold), as_column(answer)
            return gold.kind == answer.kind and self._ordered(gold, answer)
        if "piecewise" in kinds:
            return kinds[0] == kinds[1] and self._piecewise(gold, answer)
        if "interval" in kinds:
            return (
                {*kinds} <= {"interval", "tuple"}
                and gold.detail == answer.detail
                and self._ordered(gold, answer)
            )
        if "scalar" in kinds or {*kinds} == {"set", "tuple"}:  # a set may be of that one tuple
            many, one = (gold, answer) if answer.kind in ("scalar", "tuple") else (answer, gold)
            if many.kind == "list" and (letters := _LETTERS.fullmatch(bare(one.text))):
                chosen = tuple(Expression("scalar", letter) for letter in letters.group())
                return self._unordered(many.items, chosen)
            if many.kind == "tuple" or many.detail == "spaced" or one.text == "\\emptyset":
                return False
            sides = ((one, item) if many is answer else (item, one) for item in many.items)
            return bool(many.items) and all(self.same(*pair) for pair in sides)
        if (
            "tuple" in kinds
            or tells_apart(gold) != tells_apart(answer)
            or (is_row(gold) and is_row(answer))
        ):
            return self._ordered(by_name(gold), by_name(answer))
        return self._unordered(gold.items, answer.items)

    def _contradict(self, gold: Expression, answer: Expression) -> bool:
        """Whether both say of what variables they hold, and do not say the same."""
        domains = domain(gold.condition), domain(answer.condition)
        if all(domains):
            # some count 0 among the naturals
            return domains[0] != domains[1] and {*domains} not in ({"N", "Z+"}, {"N", "Z0"})
        if any(domains) or not all(map(OPERATOR.search, (gold.condition, answer.condition))):
            return False
        left, right = parse(gold.condition), parse(answer.condition)
        if left.kind != right.kind or left.name != right.name:
            return False
        return not self.same(left, right)

    def _ordered(self, gold: Expression, answer: Expression) -> bool:
        return len(gold.items) == len(answer.items) and all(
            map(self.same, gold.items, answer.items)
        )

    def _unordered(self, gold: tuple[Expression, ...], answer: tuple[Expression, ...]) -> bool:
        """Whether two collections hold the same things, each once or more."""
        gold_keys = {(item.name, compact(item.text)) for item in gold}
        answer_keys = {(item.name, compact(item.text)) for item in answer}
        if gold_keys == answer_keys:
            return True
        if len(gold_keys) > _MAX_SET or len(answer_keys) > _MAX_SET:
            raise UnreadableError("more members than are compared")
        return _each_in_other(gold, answer, self.same)

    def _piecewise(self, gold: Expression, answer: Expression) -> bool:
        """Whether two functions by cases have the same values under the same conditions."""

        def same(g: Expression, a: Expression) -> bool:
            return self.same(g.items[0], a.items[0]) and self._same_condition(
                explicit(g, gold), explicit(a, answer)
            )

        return len(gold.items) == len(answer.items) and _each_in_other(
            gold.items, answer.items, same
        )

    def _same_condition(self, gold: str, answer: str) -> bool:
        if condition_key(gold) == condition_key(answer):
            return True
        if not OPERATOR.search(gold) or not OPERATOR.search(answer):
            return False
        left, right = (parse(CONDITION_WORDS.sub(" ", text)) for text in (gold, answer))
        return {"scalar", "list"}.isdisjoint((left.kind, right.kind)) and self.same(left, right)

    def _sets_of_reals(self, gold: Expression, answer: Expression) -> bool:
        if "except" in (gold.kind, answer.kind):
            gold, answer = as_except(gold, True), as_except(answer, False)
            if gold.kind == answer.kind:
                return self._unordered(gold.items, answer.items)
        if not {gold.kind, answer.kind} <= {"union", "list"} or gold.detail != answer.detail:
            return False
        return len(gold.items) == len(answer.items) and _each_in_other(
            gold.items, answer.items, self.same
        )

    def _approx(self, gold: Expression, answer: Expression) -> bool:
        if gold.kind == "approx":
            return any(self.same(item, answer) for item in gold.items)
        exact, decimal = answer.items
        if self.same(gold, exact):
            return True
        value = exact.items[-1] if exact.kind == "named" else exact
        return (
            self.same(gold, decimal)
            and value.kind == decimal.kind == "scalar"
            and self.algebra("rounds", value.text, decimal.text)
        )

    def _named_value(self, node: Expression) -> Expression | None:
        """The value of ``x = a = b``: b, if the steps agree; None if they do not."""
        if node.kind != "named":
            return node
        value = node.items[-1]
        for step in node.items[:-1]:
            if not is_name(step.text) and not self._agrees(step, value):
                return None
        return value

    def _agrees(self, step: Expression, value: Expression) -> bool:
        """Whether a step on the way, like the 3 + 4 of ``x = 3 + 4 = 7``, has the value."""
        if self.same(value, step):
            return True
        if step.kind != "scalar" or value.kind != "scalar":
            return False
        if parse_quantity(step.text) is not None and parse_quantity(value.text) is not None:
            return False
        return self.algebra("equal", step.text, value.text)

    def _relations(self, gold: Expression, answer: Expression) -> bool:
        if gold.detail == "compound":  # m + n = 7 gives 7 in an answer; as a gold it is a line
            gold = Expression("equation", gold.text, (Expression("scalar", gold.name), *gold.items))
        gold_value, answer_value = self._named_value(gold), self._named_value(answer)
        if gold_value is None or answer_value is None:
            return False
        number = parse_quantity(gold_value.text) is not None
        if gold.kind == "named" and answer.kind == "named":
            names = [name_key(node.name) for node in (gold, answer)]
            functions = names.count("y") == 1 and all(map(_FUNCTION_NAME.fullmatch, names))
            if names[0] == names[1] or (functions and not number):
                return self.same(gold_value, answer_value)
        if gold.kind == "named" and answer.kind in ("named", "equation"):
            # 2x = 10 does not yet say x = 5
            return not number and self._equation(gold, answer, "equation")
        if gold.kind == "named" or (answer.kind == "named" and gold.kind != "equation"):
            return answer.kind != "relation" and self.same(gold_value, answer_value)
        if answer.kind == "equation" and gold.kind not in ("equation", "named", "relation"):
            # 3 + 4 = 7: the last member is the answer, if the equality holds
            last = answer.items[-1]
            if re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", answer.text)):
                return False
            steps = answer.items[:-1]
            return self.same(gold, last) and all(self._agrees(step, last) for step in steps)
        if {gold.kind, answer.kind} <= {"equation", "named"}:
            return self._equation(gold, answer, "equation")
        if gold.kind == answer.kind == "relation" and gold.items and answer.items:
            if "\\in" in (gold.detail, answer.detail) or len(gold.items) > 2:
                return gold.detail == answer.detail and self._ordered(gold, answer)
            return self._equation(gold, answer, "relation")
        return False

    def _equation(self, gold: Expression, answer: Expression, operation: str) -> bool:
        sides: list[str] = []
        for node in (gold, answer):
            texts = [item.text for item in node.items]
            texts = [node.name, *texts] if node.kind == "named" else texts
            if len(texts) != 2:
                return False
            sides.extend(texts)
        if operation == "relation":
            sides.extend((gold.detail, answer.detail))
        return self.algebra(operation, *sides)


def _read(text: str) -> Expression:
    if len(text) > MAX_CHARS or depth(text) > 2 * MAX_DEPTH:
        raise TooComplexError("longer or deeper than what is read")
    return parse(normalize(text))


def _tight(text: str) -> str:
    return re.sub(r",\s+", ",", text.strip())


def judge(golds: tuple[str, ...], answers: tuple[str, ...], algebra: Algebra) -> str:
    """Compare a response's answers with the golds, any of which is right.

    Returns:
        One of the reasons correct, wrong, ambiguous, unparsable.

    Raises:
        UndecidedError: from :func:`undecided`, where algebra is needed.
    """
    if any(len(answer) > MAX_CHARS for answer in answers):
        return "unparsable"
    if len(answers) == 1 and _tight(answers[0]) in map(_tight, golds):
        return "correct"
    try:
        nodes = [_read(answer) for answer in answers]
    except (TooComplexError, RecursionError):
        return "unparsable"
    node = nodes[0]
    if len(nodes) > 1:
        flat = [i for n in nodes for i in (n.items if n.kind == "list" else (n,))]
        node = Expression("list", ",".join(n.text for n in nodes), tuple(flat))
    failures: list[Exception] = []
    for gold in golds:
        try:
            if Judge(algebra).same(_read(gold), node):
                return "correct"
        except (UndecidedError, UnreadableError, TooComplexError, RecursionError) as failure:
            failures.append(failure)
    if any(isinstance(failure, UndecidedError) for failure in failures):
        raise UndecidedError
    if failures:
        return "unparsable"
    return "ambiguous" if node.kind == "list" and len(node.items) > 1 else "wrong"
