r"""One spelling for what means the same: the text of an answer, made canonical.

Everything here is string work in linear time. Nothing is evaluated; ``normalize`` maps the
many ways of typesetting an answer (unicode, ``\dfrac``, ``\left(``, ``\text{}``, ``$...$``,
thousands separators, degree signs) to one, and leaves its mathematics alone.
"""

from __future__ import annotations

import re
import unicodedata

ROW = "\\\\"  # a row break
CURRENCY = "\ue000"  # a dollar sign that is money, not a delimiter

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SMALL_FRACTION = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[⁄∕/]([₀₁₂₃₄₅₆₇₈₉]+)")
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5",
    "⅗": "3/5", "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8",
    "⅞": "7/8", "⅐": "1/7", "⅑": "1/9", "⅒": "1/10",
}  # fmt: skip
_GREEK = {  # those that are no units, as μ and Ω are
    letter: f"\\{name} "
    for letter, name in zip(
        "αβγδεζηθικλνξπρστυφχψωΓΔΘΛΞΠΣΦΨ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda nu xi pi rho sigma tau "
        "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi".split(),
        strict=True,
    )
}
_UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒﹣-", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\xad\x00\u2061\u2062", ""),
        # Marks of direction, but not the overrides, which make 21 look like 12.
        **dict.fromkeys("\u200e\u200f\u061c\u202a\u202b\u202c\u2066\u2067\u2068\u2069", ""),
        **dict.fromkeys("\xa0\u2009\u202f\u2002\u2003\u2005\u2006\u2007\u200a\u3000", " "),
        **{c: f" {v} " for c, v in _VULGAR.items()},
        **dict.fromkeys("×·⋅∙∗✕✖⨯•", r"\cdot "), "÷": "/", "⁄": "/",
        "∕": "/", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
        "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ",
        "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "√": r"\sqrt ", "∛": r"\sqrt[3] ",
        "∅": r"\emptyset ", "°": "°", "º": "°", "˚": "°", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", **_GREEK,
        "⟨": r"\langle ", "⟩": r"\rangle ", "∧": r"\land ", "∨": r"\lor ",
        "∖": r"\setminus ", "“": '"', "”": '"', "’": "'", "‘": "'", "′": "'", "…": "...",
        "、": ",",
    }
)  # fmt: skip

_SIMPLE = re.compile(r"[-+]?(?:\d{1,300}(?:\.\d{1,300})?|\.\d{1,300})")
_DELIMITERS = re.compile(r"\\[()\[\]]|\$\$")
INVISIBLE = re.compile(
    r"\\(?:left|right) ?\.|[_^]\{ *\}|\\[hv]?phantom ?\{[^{}]{0,40}\}"
    r"|\\(?:left|right|mleft|mright|middle|[bB]igg?[lrm]?)(?![a-zA-Z])"
    r"|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it|tt|normalsize|[lL]arge|LARGE"
    r"|[hH]uge|small|footnotesize|tiny|bigskip|hfill|boxed|fbox|strut|mathstrut|checkmark"
    r"|blacksquare|ensuremath|notag|nonumber|centering|unicode)(?![a-zA-Z])"
    r"|\\(?:begin|end)\s*\{(?:aligned|align\*?|gathered|split|equation\*?|center)\}"
    r"|^\s*\\(?:therefore|implies|Rightarrow|rightarrow)(?![a-zA-Z])"
    r"|\\(?:color|tag|label|hspace|vspace)\*?\s*\{[^{}]{0,40}\}|\\(?:textcolor|colorbox)\s*\{[^{}]{0,40}\}"
)
_STARS = re.compile(r"\A\*+|(?<![*^_])\*+\Z")
_NEGATIVE_SPACE = re.compile(r"\\!\s*")
_SPACE = re.compile(
    r"\\(?:quad|qquad|enspace|thinspace|medspace|space|newline)(?![a-zA-Z])|\\[,;:> ]|[~\s]"
)
_TEXT = re.compile(
    r"\\(?:text(?:rm|bf|it|sf|tt|sc|normal|up|md)?|mbox|hbox|emph|mathrm|mathbf|mathit|mathsf|mathtt"
    r"|mathnormal|boldsymbol|bm|pmb|operatorname\*?|rm|underline)\s*(?=\{)"
)
_FONT_LETTER = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathit|mathcal|vec|overrightarrow|hat)\s*\{\s*(\\?[a-zA-Z]+)\s*\}"
)
_MATH_IN_TEXT = re.compile(
    r"\\text\{ ?([-+]?\d*\\[dt]?(?:frac ?(?:\d\d|\{[^{}]*\} ?\{[^{}]*\})|sqrt ?\{[^{}]*\}|pi)) ?\}"
)
# After a number and with no argument, min and sec are units.
_TIME = re.compile(
    r"(?<=\d)((?:\\[,;: ]|[~ ])*(?:\\text ?\{ ?)?)(min|sec)(?=\.? ?(?:\}(?! ?\\?[a-zA-Z(])|,|\Z))"
)
_TEXT_GROUP = re.compile(r"\\text\{([^{}]*)\}")
_FUNCTIONS = (
    "arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh sin cos tan cot sec csc log ln exp "
    "gcd lcm max min lim sup inf det"
).split()
_COMMANDS = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "nicefrac": r"\frac",
    "sfrac": r"\frac", "dbinom": r"\binom", "tbinom": r"\binom", "times": r"\cdot ",
    "ast": r"\cdot ", "div": "/", "leq": r"\le ", "leqslant": r"\le ", "geq": r"\ge ",
    "geqslant": r"\ge ", "lt": "<", "gt": ">",
    "neq": r"\ne ", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lbrace": r"\{",
    "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")",
    "infin": r"\infty ", "varnothing": r"\emptyset ", "ldots": "...", "dots": "...",
    "cdots": "...", "dotsc": "...", "dotsb": "...", "degree": "°", "textdegree": "°",
    "simeq": r"\approx ", "thickapprox": r"\approx ", "vee": r"\lor ", "wedge": r"\land ",
    "backslash": r"\setminus ", "percent": "%", "dollar": CURRENCY, "textdollar": CURRENCY,
    "colon": ":", "lang": r"\langle ", "rang": r"\rangle ", "isin": r"\in ", "Reals": r"\mathbb{R}",
    "R": r"\mathbb{R}", "N": r"\mathbb{N}", "Z": r"\mathbb{Z}", "i": "i", "e": "e",
    "lg": r"\log_{10} ", "top": "T", "intercal": "T",
    "pounds": "£", "textsterling": "£", "euro": "€", "texteuro": "€",
}  # fmt: skip
_COMMAND = re.compile(
    r"\\(" + "|".join(sorted(_COMMANDS, key=len, reverse=True)) + r")(?![a-zA-Z])"
)
_DEGREE = re.compile(
    r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*(?:\\circ|°|o)\s*\}|°)|\\circ(?![a-zA-Z])\s*$"
)
_ENVIRONMENT = re.compile(
    r"\\(begin|end)\s*\{(?:p|b|B|small)?(?:matrix|array)\}(?:\s*\{[lcr|\s]*\})?"
)
_ROWS = re.compile(r"\\begin ?\{(?:[a-zA-Z]?matrix|smallmatrix|array|cases|align|gather|split)")
# A system, a function by cases: an open brace before rows.
_CASES = re.compile(
    r"\\left\s*\\(?:\{|lbrace)\s*\\begin\s*\{(array|aligned|matrix|gathered|cases)\}(?:\s*\{[lcr|\s]*\})?"
    r"(?P<rows>.*?)\\end\s*\{\1\}\s*\\right\s*\.",
    re.DOTALL,
)
_GAP = re.compile(r"(?<=[\w)}]) ?\\q?quad ?(?=[\w(-]|\\(?!\\))")  # before a row's condition
_MAX_INFIX = 8
_INFIX = re.compile(r"\\(over|choose)(?![a-zA-Z])")
_LEFT = re.compile(r"\\left ?(?:\\[{|]|[(\[|.])")
_RIGHT = re.compile(r"(?=\\right(?![a-zA-Z]))")
# A group that a command, a root's index or a script takes is no group of its own.
_ARGUMENT = re.compile(r"(?:[\^_\]}]|\\[a-zA-Z]+) ?\Z")
_ORDINAL = re.compile(
    r"(?<=\d) ?\^ ?\{ ?(?:\\text ?\{ ?)?(?:st|nd|rd|th) ?\}? ?\}"
    r"|(?:(?<=1)st|(?<=2)nd|(?<=3)rd|(?<=\d)th)(?=[ .}]*$)"
)
_MODULUS = re.compile(
    r"[, ]{0,4}\(? ?(?:\\([pb]?mod)(?![a-z])|\\text ?\{ ?\(?mod(?:ulo)? ?\}|mod(?:ulo)?(?![a-z]))"
    r"(?:\\[ ,;:])? ?(\d+|\{ ?\w+ ?\}|[a-z](?![a-z])) ?\)?"
)
_SEPARATED = re.compile(
    r"(?<![\d.,])(\d{1,3})((?:(?:\\[,;:! ]|\{,\}|,\\!|,\s?\\!\s?|~|[ '])\d{3})+)(?![\d])"
)
# A comma within brackets parts what they hold; elsewhere it may group digits.
_COMMAS = re.compile(r"(?P<open>\\\{|\\langle|[(\[])|(?P<close>\\\}|\\rangle|[)\]])|"
                     r"(?<!\d)(?<!(?<!\\),)\d[\d,]*\d")  # fmt: skip
_COMMA_NUMBER = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+")
_PLAIN_FUNCTION = re.compile(
    r"(?<![\\a-zA-Z])(" + "|".join(_FUNCTIONS) + r"|sqrt|pi|infinity|infty)(?![a-zA-Z])"
)
_ARGUMENTED = re.compile(r"\\(frac|binom|sqrt)(?![a-zA-Z])")
_BRACKET = re.compile(r"\\.|[{}()\[\]]", re.DOTALL)
_CLOSING = {"{": "}", "(": ")", "[": "]"}
_CONTROL_WORD = re.compile(r"\\[a-zA-Z]+")
_TIMES_TEN = re.compile(r"(?<=\d) ?[xX] ?(?=10 ?\^)")
_BLACKBOARD = re.compile(r"\\(?:mathbb|Bbb) ?\{? ?([A-Z]) ?\}?")
_REALS_WITHOUT = re.compile(r"(\\mathbb\{R\}) ?- ?(?=\\\{)")
_REPEATED = re.compile(
    r"(?<![\d.])(\d*\.\d*?)(?:\((\d{1,30})\)(?![\d.(])"
    r"|\\(?:dot|bar|overline|overbar) ?\{? ?(\d{1,30}) ?\}?"
    r"(?:(\d{0,30}) ?\\dot ?(?:\{ ?(\d) ?\}|(\d)))?(?![\d.(]| ?\\dot))"
)
_SPOKEN = re.compile(r"(?<![\d.])(\d*\.)(\d) ?\\text ?\{ ?\(?(?:repeating|recurring)\)? ?\}")
_ONGOING = re.compile(r"(?<![\d.])(\d*\.\d{0,30}?)(\d{1,10}?)\2{2,30} ?\.\.\.")
_LOG_BASE = re.compile(r"\\log ?_ ?(\w)")
# TeX reads one digit; whoever writes \\sqrt13 or 2^10 means the number.
_ROOT_NUMBER = re.compile(r"\\sqrt ?(\d{2,}(?:\.\d+)?|\d\.\d+)")
_POWER_NUMBER = re.compile(r"\^ ?(-?\d*\.\d+|-?\d{2,}|-\d)(?![.\d])")
_CARET_PAREN = re.compile(r"\^\s*\(([^()]{1,60})\)")
_JOINER = re.compile("(?<![\u4e00-\u9fff])(?:(以及|和|及|与)|或者?)(?![\u4e00-\u9fff])")
_INEQUALITY = {"<=": r"\le ", ">=": r"\ge ", "=<": r"\le ", "=>": r"\ge "}
_INEQUALITY_RE = re.compile(r"<=|>=|=<|=>|!=|\\not ?=")


_BARE = ("+", "-", CURRENCY, "€", "£", "₹", "¥", "e", "i", "d")


def _text_group(match: re.Match[str]) -> str:
    content = match.group(1).strip()
    if content in _FUNCTIONS:
        return f"\\{content} "
    if re.fullmatch(r"\(?mod(?:ulo)? ?\d{0,9}\)?", content):
        return content
    if re.fullmatch(r"\d{1,9}(?:st|nd|rd|th)", content):
        return content[:-2] + "\\text{th}"
    if joined := re.fullmatch(r"([^,]*[a-z]),? (and|or)", content):  # 10 cats and 9 dogs
        return f"\\text{{{joined[1]}}}\\text{{{joined[2]}}}"
    if content in ("%", "percent"):
        return "%"
    if content == ".":
        return ""
    if content in ("", ",", ";"):
        return f" {content} "
    if content in _BARE or content.replace(",", "").replace(".", "").isdigit():
        return content
    return f"\\text{{{content}}}"


def _scripts(text: str) -> str:
    text = _SMALL_FRACTION.sub(
        lambda m: f" {m[1].translate(_SUPERSCRIPTS)}/{m[2].translate(_SUBSCRIPTS)} ", text
    )
    text = re.sub(
        "[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+", lambda m: f"^{{{m.group().translate(_SUPERSCRIPTS)}}}", text
    )
    return re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: f"_{{{m.group().translate(_SUBSCRIPTS)}}}", text)


def _dollars(text: str) -> str:
    r"""Take ``$`` away where it delimits mathematics, keep it where it is money."""
    text = text.replace("\\$", CURRENCY)
    count = text.count("$")
    if count % 2 and re.search(r"\$\s*-?[\d.]", text):
        text = re.sub(r"\$(?=\s*-?[\d.])", CURRENCY, text, count=1)
    elif count == 2 and re.fullmatch(r"\s*-?\$\s*[\d.][^$]*\$\s*[\d.].*", text, re.DOTALL):
        text = text.replace("$", CURRENCY)  # "$5 and $6"
    return text.replace("$", " ")


def _group_ends(text: str) -> dict[int, int]:
    """Index just past each group of braces, parentheses or brackets, by the index it opens at."""
    ends: dict[int, int] = {}
    opened: dict[str, list[int]] = {"}": [], ")": [], "]": []}
    for match in _BRACKET.finditer(text):
        token = match.group()
        if token in _CLOSING:
            opened[_CLOSING[token]].append(match.start())
        elif opened.get(token):
            ends[opened[token].pop()] = match.end()
    return ends


def _argument_end(text: str, start: int, ends: dict[int, int]) -> int | None:
    """Where the TeX argument at ``start`` ends: a group, a command or one character."""
    if start >= len(text) or text[start] in "})]":
        return None
    if text[start] == "{":
        return ends.get(start)
    if text[start] == "\\":
        command = _CONTROL_WORD.match(text, start)
        return None if command is None or _ARGUMENTED.match(text, start) else command.end()
    return start + 1


def _brace_arguments(text: str) -> str:
    r"""Write ``\frac12`` as ``\frac{1}{2}``, ``\sqrt2`` and ``sqrt(2)`` as ``\sqrt{2}``."""
    ends = _group_ends(text)
    chars = list(text)
    for match in _ARGUMENTED.finditer(text):
        position = match.end()
        missing = 1 if match.group(1) == "sqrt" else 2
        while missing:
            start = position
            while text[start : start + 1] == " ":
                start += 1
            if match.group(1) == "sqrt" and text[start : start + 1] in ("(", "[") and start in ends:
                end = ends[start]
                if text[start] == "(":
                    chars[start], chars[end - 1] = "{", "}"
                    missing = 0
            else:
                argument_end = _argument_end(text, start, ends)
                if argument_end is None:
                    break
                end = argument_end
                missing -= 1
                if text[start] != "{":
                    chars[start] = "{" + chars[start]
                    chars[end - 1] += "}"
            chars[position:start] = [""] * (start - position)
            position = end
    return "".join(chars)


def _thousands(text: str) -> str:
    text = _SEPARATED.sub(lambda m: m.group(1) + re.sub(r"\D", "", m.group(2)), text)

    level = 0

    def join(match: re.Match[str]) -> str:
        nonlocal level
        run = match.group()
        level += (match["open"] is not None) - (match["close"] is not None)
        level = max(level, 0) if run == ")" else level  # a), but ]3,4[
        return run.replace(",", "") if not level and _COMMA_NUMBER.fullmatch(run) else run

    return text if "," not in text or "matrix" in text else _COMMAS.sub(join, text)


def _strip_outer(text: str) -> str:
    """Take off braces around the whole and punctuation after it."""
    ends = _group_ends(text)
    start, end = 0, len(text)
    while start < end:
        last = text[end - 1]
        if last in " ,;:" or (last == "." and (end - start < 2 or text[end - 2] != ".")):
            end -= 1
        elif text[start] == " ":
            start += 1
        elif ends.get(start) == end and text[start] == "{":
            start, end = start + 1, end - 1
        else:
            break
    return text[start:end]


def normalize(text: str) -> str:
    """The canonical spelling of an answer or a gold; equal answers often become equal strings."""
    text = text.strip()
    if _SIMPLE.fullmatch(text):
        return text
    text = _scripts(_STARS.sub("", text).strip()).translate(_UNICODE)
    if len(text) > 2 and text[0] == text[-1] == "'":
        text = text[1:-1]
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.replace("°", "\ue001")).replace("\ue001", "°")
        text = _JOINER.sub(lambda m: " and " if m[1] else " or ", text)
    text = _dollars(text)
    text = text.replace("**", "^")
    text = text.replace("{dcases}", "{cases}").replace("{rcases}", "{cases}")
    text = _CASES.sub(r"\\begin{cases}\g<rows>\\end{cases}", text) if "\\right" in text else text
    text = _GAP.sub(", ", text) if "{cases}" in text else text
    if _INFIX.search(text):  # what \left and \right hold is a group
        text = _RIGHT.sub("}", _LEFT.sub(r"\g<0>{", text))
    text = _ROOT_NUMBER.sub(r"\\sqrt{\1}", text)
    text = _POWER_NUMBER.sub(r"^{\1}", text)
    text = _DELIMITERS.sub(" ", _protect_rows(text))
    text = INVISIBLE.sub(" ", text)
    text = _FONT_LETTER.sub(r" \1", text)
    text = _TEXT.sub(r"\\text", text)
    text = _TIME.sub(lambda m: m[1] + ("minute" if m[2] == "min" else "second"), text)
    text = _TEXT_GROUP.sub(_text_group, _MATH_IN_TEXT.sub(r"\1", text))
    text = text.replace("\\%", "%").replace("\\#", "#").replace("\\&", "\\text{and}")
    text = _thousands(text)
    text = _NEGATIVE_SPACE.sub("", text)
    text = text.replace("{,}", ",").replace("{:}", ":").replace("{.}", ".")
    text = _TIMES_TEN.sub(r" \\cdot ", text)
    text = _COMMAND.sub(lambda m: _COMMANDS[m.group(1)], text)
    text = _REPEATED.sub(
        lambda m: f"{m[1]}\\overline{{{''.join(g or '' for g in m.groups()[1:])}}}", text
    )
    text = _SPOKEN.sub(r"\1\\overline{\2}", _ONGOING.sub(r"\1\\overline{\2}", text))
    text = _infix(text)
    text = _ORDINAL.sub(r"\\text{th}", text)
    text = _MODULUS.sub(_modulus, text) if "mod" in text else text
    text = _LOG_BASE.sub(r"\\log_{\1}", text)
    text = _DEGREE.sub("°", text)
    text = _ENVIRONMENT.sub(r"\\\1{matrix}", text)
    text = text.replace("*", r"\cdot ")
    text = _INEQUALITY_RE.sub(lambda m: _INEQUALITY.get(m.group(), r"\ne "), text)
    text = _PLAIN_FUNCTION.sub(
        lambda m: r"\infty " if m.group(1).startswith("inf") else f"\\{m.group(1)} ", text
    )
    text = _SPACE.sub(" ", text)
    text = _BLACKBOARD.sub(r"\\mathbb{\1}", text)
    text = _REALS_WITHOUT.sub(r"\1 \\setminus ", text)
    text = _CARET_PAREN.sub(r"^{\1}", text)
    text = _brace_arguments(text)
    if "matrix" not in text and "{cases}" not in text:
        text = text.replace("&", " ")
    text = text.replace('"', " ").replace("`", " ")
    return _strip_outer(re.sub(" {2,}", " ", text)).replace("\ue002", ROW)


def _modulus(match: re.Match[str]) -> str:
    """``\bmod 7`` after an equivalence is its modulus; elsewhere it is an operation."""
    command, number = match.group(1), match.group(2).strip("{ }")
    if "\\equiv" in match.string or "≡" in match.string or command == "pmod":
        return f" \\pmod{{{number}}}"
    return match.group() if command is None else f" \\{command}{{{number}}}"


def _infix(text: str) -> str:
    r"""Write ``{1 \over 2}`` and ``{5 \choose 2}`` as TeX reads them: over all of their group."""
    for _ in range(_MAX_INFIX):
        match = _INFIX.search(text)
        if match is None:
            break
        ends = _group_ends(text)
        around = [o for o, c in ends.items() if text[o] == "{" and o < match.start() < c]
        start = max(around, default=-1)
        end = ends[start] - 1 if around else len(text)
        top, bottom = text[start + 1 : match.start()].strip(), text[match.end() : end].strip()
        command = "frac" if match.group(1) == "over" else "binom"
        before, read = text[: max(start, 0)], f"\\{command}{{{top}}}{{{bottom}}}"
        read = f"{{{read}}}" if _ARGUMENT.search(before) else read
        text = before + read + text[end + 1 :]
    return text


def _protect_rows(text: str) -> str:
    r"""Keep a row break ``\\`` from being read as the backslash of what follows."""
    text = re.sub(r"\\\\(?:\[[^\]]{0,10}\])?(?=\s|[^a-zA-Z]|$)", "\ue002", text)
    if _ROWS.search(text):
        return text.replace("\\\\", "\ue002")
    return re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # \\frac, escaped once too often


def compact(text: str) -> str:
    """The normalised text without spaces, but for those between two digits or two words."""
    return re.sub(r"(?<![0-9a-zA-Z]) | (?![0-9a-zA-Z])", "", text)
