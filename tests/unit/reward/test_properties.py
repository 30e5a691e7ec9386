"""What must hold for any two strings."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vespo_openrlhf.reward import REASONS, verify
from vespo_openrlhf.reward.comparing.judge import UndecidedError, judge, undecided
from vespo_openrlhf.reward.comparing.symbolic import algebra
from vespo_openrlhf.reward.reading.extract import extract
from vespo_openrlhf.reward.reading.normalize import normalize

_PIECES = [
    "\\boxed{",
    "}",
    "{",
    "\\frac{1}{2}",
    "\\frac",
    "\\sqrt",
    "^",
    "_",
    "7",
    "-",
    ",",
    ".",
    " ",
    "(",
    ")",
    "[",
    "]",
    "\\text{",
    " and ",
    "x",
    "=",
    "<",
    "\\pm",
    "\\cup",
    "\\{",
    "\\}",
    "%",
    "$",
    "\\$",
    "<think>",
    "</think>",
    "<|im_end|>",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "&",
    "\\\\",
    "|",
    "!",
    "1e9",
    "\\infty",
    "\x00",
    "\ud800",
    "½",
    "\\left(",
    "\\right)",
    "°",
    "base",
    "\n",
    "'",
    "\\pi",
    "answer:",
    "\\in",
    "\\le",
    "0.",
    "\\overline{3}",
    "\\fbox ",
]
latex = st.lists(st.sampled_from(_PIECES), max_size=14).map("".join)
anything = st.one_of(latex, st.text(max_size=40))
numbers = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.decimals(-1000, 1000, places=4).map(str),
    st.tuples(st.integers(-99, 99), st.integers(1, 99)).map(
        lambda f: f"\\frac{{{f[0]}}}{{{f[1]}}}"
    ),
    st.tuples(st.integers(1, 99), st.integers(1, 99)).map(lambda f: f"{f[0]}/{f[1]}"),
)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(anything, anything)
@settings(unhurried, max_examples=60)
def test_verify_answers_any_two_strings(response: str, gold: str) -> None:
    verdict = verify(response, gold, timeout_s=1.0)
    assert verdict.reason in REASONS
    boxed = verify(f"\\boxed{{{response}}}", gold, timeout_s=1.0, require_box=False)
    assert boxed.reason in REASONS
    assert boxed.reason not in ("unavailable", "overloaded")


@given(anything)
@settings(unhurried, max_examples=150)
def test_the_string_work_raises_on_nothing(text: str) -> None:
    extract(text)
    extract(text, prompt=text, require_box=False)
    assert isinstance(normalize(text), str)
    with contextlib.suppress(UndecidedError):
        assert judge(("7", "x"), (text,), undecided) in REASONS
        assert judge((text,), ("7", "x"), undecided) in REASONS


@pytest.mark.parametrize(
    "text",
    [
        "\\frac{" * 3000,
        "\\frac{1}{" * 3000 + "2" + "}" * 3000,
        "\\sqrt(" * 3000 + ")" * 3000,
        "{" * 9000 + "1" + "}" * 9000,
        "\\varepsilon" * 15 + "+1 = 5",  # a name that can be divided in a million ways
        "f(a)" * 40 + "! = 5",
        "=" * 290 + "5",
    ],
)
def test_the_string_work_ends_on_what_is_nested_or_repeated(text: str) -> None:
    assert isinstance(normalize(text), str)
    with contextlib.suppress(UndecidedError):
        assert judge(("7",), (text,), undecided) != "correct"


@given(numbers, numbers)
@settings(unhurried, max_examples=150)
def test_the_fast_path_agrees_with_the_slow(gold: str, answer: str) -> None:
    fast = judge((gold,), (answer,), undecided)
    # A product with one hides the number from the fast path; the value is the same.
    try:
        slow = algebra("equal", f"(y^0) ({gold})", f"({answer})")
    except ValueError:
        return
    assert (fast == "correct") == slow


@given(numbers)
@settings(unhurried, max_examples=200)
def test_a_number_is_itself(number: str) -> None:
    assert verify(f"\\boxed{{{number}}}", number).correct


@given(st.lists(st.integers(0, 99), min_size=2, max_size=6, unique=True))
@settings(unhurried, max_examples=100)
def test_a_listing_never_answers_one_of_its_members(members: list[int]) -> None:
    for separator in (", ", " and ", " or ", "; ", "\n"):
        listing = separator.join(f"\\boxed{{{n}}}" for n in members)
        inside = "\\boxed{" + separator.strip(" ").join(f" {n} " for n in members) + "}"
        for member in members:
            assert not verify(listing, str(member)).correct
            assert not verify(inside, str(member)).correct


@given(latex)
@settings(unhurried, max_examples=100)
def test_undecided_is_only_for_algebra(text: str) -> None:
    try:
        assert judge((text,), (text,), undecided) in REASONS
    except UndecidedError:
        raise AssertionError("the same text twice needs no algebra") from None
