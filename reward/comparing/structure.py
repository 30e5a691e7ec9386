r"""The shape of an answer: lists, sets, tuples, intervals, matrices, equations, inequalities.

``parse`` splits a normalised answer at its top level, down to scalars that are compared one
by one. It is string work only, so the caller and the workers see the same shape.
"""

from __future__ import annotations

import re
from dataclasses import replace

from vespo_openrlhf.reward.comparing.conditions import split_condition
from vespo_openrlhf.reward.comparing.expression import (
    FLIP,
    LIST_SEPARATOR,
    RELATION,
    Expression,
    enclosed,
    split_top,
)
from vespo_openrlhf.reward.comparing.reals import (
    all_but,
    inequalities,
    infinite,
    interval,
    without,
)
from vespo_openrlhf.reward.reading.quantity import Quantity, parse_quantity

_VARIABLE = re.compile(r"[a-zA-Z](?:_\{?\w+\}?)?|\\(?!pi|infty)[a-z]+(?:_\{?\w+\}?)?")
# What a name is made of. It is taken to pieces, not matched as a whole: an expression for that
# could divide the same letters in many ways, and would try them all.
_NAME_PIECE = re.compile(
    r"\\text ?\{[^{}]*\}|\\(?!frac|sqrt|pi|infty|cdot|pm|cup|in|binom|sum|int|prod)[a-zA-Z]+"
    r"|[a-zA-Z]'*(?:\^ ?\{? ?-1 ?\}? ?)?\([^()]*\)|\^ ?\{? ?-1 ?\}?|[a-zA-Z|'\[\](), :]"
    r"|_ ?(?:\{[^{}]*\}|\w)|[{}]|\\[|#]"
)
_LETTERS = r"(?:[a-zA-Z]+|\\(?!pi|infty|sqrt|frac)[a-z]+)(?:_ ?(?:\w|\{[^{}]*\}))?"
_MAX_NAME = 200
_DENIED = re.compile(
    r"\\(?:not|neg|lnot)(?![a-zA-Z])"
    r"|(?<![a-zA-Z\\])(?:not|no(?!\.)|never|if|unless|except|wrong|false)(?![a-zA-Z])",
    re.IGNORECASE,
)
_FUNCTION_VALUE = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc) ?(?:\^ ?\{? ?\d ?\}? ?)?\(?\{? ?\d* ?\\?[a-zA-Z]+ ?\}?\)?"
    r"|\\frac ?\{ ?(?:d|\\partial) ?[a-zA-Z] ?\} ?\{ ?(?:d|\\partial) ?[a-zA-Z] ?\}"
    r"|\\(?:int|sum|prod|lim)(?![a-zA-Z]).*"
    r"|\\det ?\(? ?\\begin\{matrix\}.*|\\begin\{[vV]matrix\}.*\\end\{[vV]matrix\}"
    r"|(?:\\?Pr?|\\text ?\{ ?(?:P|Pr|Prob) ?\}|\\mathbb\{[PE]\}) ?[(\[].*[)\]]"
)
_POINT = re.compile(r"[A-Z]'? ?(?P<coordinates>\([^()]*,[^()]*\))")
_COMPOUND = re.compile(
    rf"{_LETTERS}(?: ?(?:[-+/]|\\cdot) ?{_LETTERS})+"
    rf"|\\frac ?\{{ ?{_LETTERS} ?\}} ?\{{ ?{_LETTERS} ?\}}"
)
_CASES = re.compile(
    r"(?P<lead>[^&=]{0,60}?=)? ?\\begin\{cases\}(?P<rows>.*)\\end\{cases\}", re.DOTALL
)
# The condition of a row, where no & stands before it.
_WHEN = re.compile(
    r"(?:[,;] ?)?(?=\\text ?\{ ?,? ?(?:if|when|for|where|otherwise|else)\b)"
    r"|(?:[,;] ?)(?=[^=<>]{0,80}(?:[<>=]|\\(?:le|ge|ne|in|equiv)(?![a-z])))"
)
_MATRIX = re.compile(
    r"(?P<lead>[^&=]{0,60}?=)? ?(?P<factor>[^&=\[(]{0,40}?)(?: ?\\cdot)? ?"
    r"[\[(]? ?\\begin\{matrix\}(?P<cells>.*)\\end\{matrix\} ?[\])]?",
    re.DOTALL,
)
_TURNED_BRACKETS = re.compile(r"([\[\]]) ?([^\[\]()]+[,;][^\[\]()]+) ?([\[\]])")
_LABEL = re.compile(
    r"\\text ?\{ ?(?!(?:not?|never|except|wrong|if)\b)[A-Za-z][A-Za-z ]{0,40}"
    r"(?:: ?\}|\} ?:)(?=.)",
    re.IGNORECASE,
)
_WHOLE_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_INTRO = re.compile(
    r"(?:\\text ?\{)? ?(?:the )?(?:final |correct |ordered )?"
    r"(?:answer|result|solution|option|choice|points?|pair|vertex|cent(?:er|re)|interval)"
    r"(?: is)?(?: ?: ?\}?| \}?|\})(?: ?\\text ?\{ ?is ?:? ?\})?(?=.)",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"(?:\\text ?\{)? ?(?:about|approximately|roughly|exactly) ?\}? ?(?=-?[\d\\.])")
# A constant's own commands: what else is left of an expression with letters has a variable.
_CONSTANT = re.compile(r"\\(?:frac|sqrt|pi|cdot|log|ln|sin|cos|tan|left|right)(?![a-z])")
_MEMBER = re.compile(
    rf"{_VARIABLE.pattern}|[a-z] ?\([a-z, ]+\)|\( ?[a-z](?: ?, ?[a-z])+ ?\)|\\text ?\{{[^{{}}]*\}}"
)
_BARE_LABEL = re.compile(r"[A-Za-z][A-Za-z ]{0,40}: ?(?=-?[\d\\])")
_NEGATED = re.compile(rf"- ?({_VARIABLE.pattern})")
_LEADING = re.compile(r"(?:\\approx(?![a-zA-Z])|[= ])+")
_ALL_REALS = re.compile(
    r"(?:\\text ?\{)? ?(?:all|any|every)(?: the)? real(?:s| numbers?| values?)?(?: of [a-z])?"
    r"(?P<but> (?:except|but)(?: for)?)? ?\}?(?(but) ?(?P<points>[^{}]{1,60}))",
    re.IGNORECASE,
)


def _pieces(text: str, separator: str) -> list[str]:
    return [piece for piece, _ in split_top(text, separator) if piece]


def _inequality(text: str, parts: list[str], operators: list[str]) -> Expression:
    """``x > 2``, ``1 < x \\le 2`` as intervals; anything else stays a relation."""
    if len(parts) <= 3 and set(operators) <= set(FLIP):  # -x > -1 is x < 1
        for index, part in enumerate(parts):
            if (negated := _NEGATED.fullmatch(part)) and (len(parts) == 2 or index == 1):
                sides = [_negative(side) for side in parts]
                sides[index] = negated.group(1)
                return _inequality(text, sides, [FLIP[o] for o in operators])
    if len(parts) > 2 and all(o in (">", "\\ge") for o in operators):  # c > b > a is a < b < c
        parts, operators = parts[::-1], [FLIP[o] for o in operators[::-1]]
    variables = [bool(_VARIABLE.fullmatch(part)) for part in parts]
    name, value = parts[:2] if variables[0] else parts[1::-1]
    if len(parts) == 2 and operators[0] == "\\ne" and any(variables):
        return all_but([parse(value)], name)
    if len(parts) == 2 and variables[0] != variables[1] and operators[0] in FLIP:
        operator = operators[0] if variables[0] else FLIP[operators[0]]
        end = parse(value)
        if operator in (">", "\\ge"):
            return interval(end, infinite(""), ("(" if operator == ">" else "[") + ")", name)
        return interval(infinite("-"), end, "(" + (")" if operator == "<" else "]"), name)
    if variables == [False, True, False] and all(o in ("<", "\\le") for o in operators):
        brackets = ("(" if operators[0] == "<" else "[") + (")" if operators[1] == "<" else "]")
        return interval(parse(parts[0]), parse(parts[2]), brackets, parts[1])
    items = tuple(Expression("scalar", part) for part in parts)
    return Expression("relation", text, items, detail=" ".join(operators))


def _negative(text: str) -> str:
    if parse_quantity(text) is None:
        return f"-({text})"
    return text[1:].strip() if text.startswith("-") else f"-{text}"


def _relation(text: str, split: list[tuple[str, str]]) -> Expression:
    parts = [part for part, _ in split]
    operators = [operator for _, operator in split[1:]]
    if _DENIED.search(parts[0]):  # not x = 7
        return Expression("relation", text)
    if not parts[0] and parts[-1] and (leading := _LEADING.match(text)):
        return parse(text[leading.end() :])
    if operators == ["\\approx"] and is_name(parts[0]):
        return Expression("named", text, (parse(parts[1]),), name=parts[0])
    if any(not part for part in parts):
        return Expression("relation", text, detail=" ".join(operators))
    if all(operator in ("=", ":=") for operator in operators):
        names = [is_name(part) for part in parts]
        if not names[0] and names[-1] and len(parts) == 2:
            parts.reverse()
            names.reverse()
        detail = ""
        compound = len(parts) > 1 and _COMPOUND.fullmatch(parts[0]) is not None
        if compound and not any(re.search("[a-zA-Z]", _CONSTANT.sub("", p)) for p in parts[1:]):
            detail = "compound"
        if names[0] or detail:
            values = tuple(map(parse, parts[1:]))
            return Expression("named", text, values, name=parts[0], detail=detail)
        return Expression("equation", text, tuple(Expression("scalar", part) for part in parts))
    if operators == ["\\in"]:
        if _MEMBER.fullmatch(parts[0]):
            held = parse(parts[1])
            if not _VARIABLE.fullmatch(parts[0]):
                return held
            if held.kind == "tuple" and len(held.items) == 2:  # a variable is in no pair
                return interval(*held.items, "()", parts[0])
            return replace(held, name=parts[0])
        sides = (Expression("scalar", parts[0]), parse(parts[1]))
        return Expression("relation", text, sides, detail="\\in")
    if "\\approx" in operators and all(o in ("=", "\\approx") for o in operators):
        cut = text.index("\\approx")
        exact, approximate = parse(text[:cut].strip()), parse(parts[-1])
        return Expression("approx", text, (exact, approximate))
    if "\\equiv" in operators:
        residue = len(parts) == 2 and is_name(parts[0]) and "mod" in parts[1]
        return Expression("scalar", parts[1]) if residue else Expression("relation", text)
    return _inequality(text, parts, operators)


def is_name(text: str) -> bool:
    """Whether the left side of an equality only names its value: ``x``, ``f(x)``, ``AB``."""
    if not text or len(text) > _MAX_NAME:
        return False
    return not _NAME_PIECE.sub("", text) or _FUNCTION_VALUE.fullmatch(text) is not None


def _cases(match: re.Match[str]) -> Expression | None:
    """A function by cases, or a system, which is the list of its rows; None if it is neither."""
    name, inside = (match.group("lead") or "").rstrip("= "), match.group("rows")
    if "\\begin" in inside or (name and not is_name(name)):
        return None
    rows = [row for row, _ in split_top(inside, r"\\\\") if row]
    branches = [_branch(row) for row in rows]
    if not any(branch.detail for branch in branches):
        return parse(" \\\\ ".join(row.replace("&", " ") for row in rows))
    node = Expression("piecewise", inside, tuple(branches))
    return Expression("named", inside, (node,), name=name) if name else node


def _outside(before: str) -> bool:
    """Whether brackets before a place are all closed."""
    return all(before.count(o) == before.count(c) for o, c in ("()", "[]", "{}"))


def _branch(row: str) -> Expression:
    """The value of a row, and in ``detail`` the condition that it holds under."""
    cells = [cell for cell, _ in split_top(row, "&")]
    value, condition = cells[0], " ".join(cells[1:])
    if re.match(r"[-+=<>]|\\(?:le|ge|ne)(?![a-z])|$", condition):  # signs one below the other
        value, condition = " ".join(cells), ""
        at = next((m for m in _WHEN.finditer(value) if _outside(value[: m.start()])), None)
        if at and not re.search(RELATION, value[: at.start()]):
            value, condition = value[: at.start()], value[at.end() :]
    condition = re.sub(r"\\text ?\{([^{}]*)\}", r" \1 ", condition.strip(" ,;"))
    return Expression("branch", row, (parse(value.rstrip(" ,;")),), detail=condition)


def _bracketed(text: str, opening: str, inside: str, closing: str) -> Expression | None:
    if opening == "\\{" and closing == "\\}":
        halves = split_top(inside, r"[|:]")
        if len(halves) == 2 and re.search(r"<|>|\\(?:le|ge|ne|in)(?![a-z])|=", halves[1][0]):
            return parse(halves[1][0])
        nodes = [parse(piece) for piece in _pieces(inside, LIST_SEPARATOR)]
        items = tuple(i for n in nodes for i in (n.items if n.kind == "list" else (n,)))
        return Expression("set", text, items) if items else Expression("scalar", "\\emptyset")
    items_text = _pieces(inside, ",|;")
    if opening == "\\langle" or len(items_text) > 2:
        return Expression("tuple", text, tuple(parse(piece) for piece in items_text), detail="()")
    if len(items_text) == 2 and opening in ("(", "[") and closing in (")", "]"):
        left, right = (parse(piece) for piece in items_text)
        if opening + closing == "[]" and left.kind == right.kind == "tuple":
            return Expression("list", text, (left, right))
        kind = "tuple" if opening + closing == "()" else "interval"
        return Expression(kind, text, (left, right), detail=opening + closing)
    if opening == "{" or (len(items_text) == 1 and opening + closing == "()" and len(inside) > 1):
        return parse(inside)
    return None


def _matrix(match: re.Match[str]) -> Expression | None:
    """A matrix, also behind its name or a number it is multiplied by; None if it is neither."""
    name, inside = (match.group("lead") or "").rstrip("= "), match.group("cells")
    if "\\begin" in inside or (match.group("lead") and not is_name(name)):
        return None
    factor = match.group("factor").strip()
    scale = parse_quantity({"": "1", "-": "-1"}.get(factor, factor))
    if scale is None or not scale.plain:
        return None
    given = [row for row, _ in split_top(inside, r"\\\\") if row]
    if all("=" in row for row in given):  # a system without its brace
        return parse(" \\\\ ".join(row.replace("&", " ") for row in given))
    rows = []
    for row in given:
        cells = [parse(_times(scale, cell)) for cell, _ in split_top(row, "&")]
        rows.append(Expression("tuple", "&".join(cell.text for cell in cells), tuple(cells)))
    return Expression("matrix", f"{scale.value}" * (scale.value != 1) + inside, tuple(rows))


def _times(scale: Quantity, cell: str) -> str:
    """An entry times a number, worked out where it is a number, too."""
    if scale.value == 1:
        return cell
    entry = parse_quantity(cell)
    if entry is None or not entry.plain:
        return f"({scale.value}) \\cdot ({cell})"
    value = scale.value * entry.value
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _list(text: str, split: list[tuple[str, str]]) -> Expression:
    items: list[Expression] = []
    for piece, _ in split:
        if piece:
            node = parse(piece)
            if node.kind == "scalar" and (label := _LABEL.match(piece) or _BARE_LABEL.match(piece)):
                node = _labelled(label, parse(piece[label.end() :]))
            if _POINT.fullmatch(piece):  # A(1,2), B(3,4)
                node = Expression("named", piece, (node,), name=piece[0])
            if node.kind == "named" and len(node.items) == 1:  # x = -2, x = 1 \\pm \\sqrt{5}
                node = node.items[0] if node.items[0].kind == "list" else node
            items.extend(node.items if node.kind == "list" else (node,))
    if (solutions := _solutions(items)) is not None:
        return Expression("list", text, solutions)
    joints = {re.sub(r"\\text|[{}, \\]", "", separator) for _, separator in split[1:]}
    if len(items) > 1 and all(item.kind == "interval" and item.name for item in items):
        return inequalities(text, items, joints)
    first = items[0] if items else Expression("scalar", "")
    if first.kind == "except" and all(  # x \\ne 0, 1
        (i.kind, i.name) == ("except", first.name)
        or (i.kind == "scalar" and parse_quantity(i.text))
        for i in items
    ):
        return all_but(items, first.name)
    return Expression("list", text, tuple(items))


def _labelled(label: re.Match[str], value: Expression) -> Expression:
    name = re.sub(r"\\text|[{}:]", "", label.group()).strip()
    return Expression("named", label.group() + value.text, (value,), name=name)


def _solutions(items: list[Expression]) -> tuple[Expression, ...] | None:
    """``x=1, y=2`` or ``x=3, y=4`` as pairs, in the order of their names; None if they are none."""
    names = [item.name if item.kind == "named" else "" for item in items]
    width = len(set(names))
    groups = [items[at : at + width] for at in range(0, len(items), width or 1)]
    whole = all({item.name for item in group} == set(names) for group in groups)
    single = "" not in names and all(len(item.items) == 1 for item in items)
    if width < 2 or len(groups) < 2 or not whole or not single:
        return None
    pairs = [sorted(group, key=lambda item: item.name) for group in groups]
    return tuple(
        Expression("tuple", ",".join(i.text for i in pair), tuple(i.items[0] for i in pair))
        for pair in pairs
    )


def _plus_minus(text: str) -> Expression | None:
    both = [
        re.sub(r"\\mp(?![a-z])", minus, re.sub(r"\\pm(?![a-z])", plus, text)).strip(" +")
        for plus, minus in ("+-", "-+")
    ]
    return Expression("list", text, tuple(map(parse, both))) if both[0] != both[1] else None


def _after(text: str, phrase: re.Match[str]) -> str:
    """What follows a phrase, less the brace that closes a text group around both."""
    rest = text[phrase.end() :]
    opened = phrase.group().count("{") > phrase.group().count("}")
    return rest.removesuffix("}") if opened else rest


def parse(text: str) -> Expression:
    """The shape of a normalised answer.

    Raises:
        TooComplexError: it is nested deeper, or has more members, than is read.
    """
    text = text.strip()
    for word, shape, read in (("matrix", _MATRIX, _matrix), ("cases}", _CASES, _cases)):
        if word in text and (rows := shape.fullmatch(text)) and (node := read(rows)) is not None:
            return node
    if "matrix" in text or "cases}" in text:
        sides = split_top(text, RELATION)
        named = len(sides) == 2 and sides[1][1] == "=" and _FUNCTION_VALUE.fullmatch(sides[0][0])
        return _relation(text, sides) if named else Expression("scalar", text)
    for phrase in (_ABOUT, _INTRO, _LABEL):
        match = phrase.match(text)
        if match and match.end() < len(text):
            node = parse(_after(text, match))
            kinds = [item.kind for item in node.items[:2]]
            if phrase is _LABEL and node.kind == "list" and kinds == ["scalar", "named"]:
                return replace(node, items=(_labelled(match, node.items[0]), *node.items[1:]))
            return node
    whole = _WHOLE_TEXT.fullmatch(text)
    if whole and re.search(r"\d|[=<>]", whole.group(1)):
        return parse(whole.group(1))
    reals = _ALL_REALS.fullmatch(text)
    if reals and reals.group("points"):
        points = parse(reals.group("points"))
        return all_but(points.items if points.kind in ("set", "list") else (points,))
    if reals or text == "\\mathbb{R}":
        return interval(infinite("-"), infinite(""), "()")
    if (conditioned := split_condition(text)) is not None:
        return replace(parse(conditioned[0]), condition=conditioned[1])
    point = _POINT.fullmatch(text)
    if point:
        return parse(point.group("coordinates"))
    turned = _TURNED_BRACKETS.fullmatch(text)
    if turned and (turned.group(1), turned.group(3)) != ("[", "]"):  # ]3,4] is (3,4]
        opening, inside, closing = turned.groups()
        text = ("(" if opening == "]" else "[") + inside + ("]" if closing == "]" else ")")
    split = split_top(text, LIST_SEPARATOR)
    if len([piece for piece, _ in split if piece]) > 1:
        return _list(text, split)
    if whole and re.search(r"(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])|,", whole.group(1)):
        inner = parse(whole.group(1))
        if inner.kind == "list":
            return inner
    text = next((piece for piece, _ in split if piece), "")
    relation = split_top(text, RELATION)
    if len(relation) > 1:
        return _relation(text, relation)
    union = _pieces(text, r"\\cup(?![a-z])")
    if len(union) > 1:
        return Expression("union", text, tuple(parse(piece) for piece in union))
    minus = _pieces(text, r"\\setminus|\\text\{except\}")
    if len(minus) == 2 and (node := without(*map(parse, minus))) is not None:
        return node
    around = enclosed(text)
    if around:
        node = _bracketed(text, *around)
        if node is not None:
            return node
    numbers = re.fullmatch(r"[-+]?[\d.]+(?: +[-+]?[\d.]+(?![\d/]| ?\\))+", text)
    if numbers:
        pieces = tuple(Expression("scalar", piece) for piece in text.split())
        return Expression("list", text, pieces, detail="spaced")
    return _plus_minus(text) or Expression("scalar", text)
