"""When two problems count as the same."""

import pytest

from vespo_openrlhf.data.overlap import Index, fingerprint, tokens

PROBLEM = (
    r"Let $a$ and $b$ be real numbers such that $a + b = 10$ and $\frac{a}{b} = 3{,}000$. "
    r"Find the value of $\left(a - b\right)^2$ to the nearest integer."
)


@pytest.mark.parametrize(
    "same",
    [
        PROBLEM.upper().replace(r"\FRAC", r"\dfrac").replace(r"\LEFT", "").replace(r"\RIGHT", ""),
        PROBLEM.replace("$", "").replace(". ", ".\n\n"),
        PROBLEM.replace("{,}", ","),
        PROBLEM.replace("3{,}000", "3000").replace("-", "−"),
    ],
)
def test_layout_does_not_matter(same: str) -> None:
    assert tokens(same) == tokens(PROBLEM)
    assert fingerprint(tokens(same)) == fingerprint(tokens(PROBLEM))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 1 + 2?", "What is 1 - 2?"),
        ("What is 3.5?", "What is 35?"),
        ("What is $x^2$?", "What is $x_2$?"),
        ("What is 12?", "What is 1 2?"),
        (r"What is $\sin x$?", r"What is $\cos x$?"),
    ],
)
def test_mathematics_does(one: str, other: str) -> None:
    assert tokens(one) != tokens(other)


def test_a_problem_of_another_language_has_tokens() -> None:
    assert tokens("已知 $a=3$, 求 $a^2$") == ("已知", "a", "=", "3", "求", "a", "^", "2")


@pytest.fixture
def index() -> Index:
    return Index([("math500", "7", PROBLEM), ("gsm8k", "0", "How many?")])


def test_equal_problems_are_exact(index: Index) -> None:
    match = index.find(tokens(PROBLEM.replace("$", "")))
    assert match is not None
    assert (match.benchmark, match.id, match.kind) == ("math500", "7", "exact")
    assert index.find(tokens("how many")).kind == "exact"  # however short


def test_a_changed_word_overlaps(index: Index) -> None:
    match = index.find(tokens(PROBLEM.replace("Find", "Compute")))
    assert match is not None
    assert match.kind == "overlap"
    assert 0.4 < match.share < 1


def test_a_problem_within_a_longer_one_overlaps(index: Index) -> None:
    longer = "Read this with care, and think before you write anything down. " * 5 + PROBLEM
    match = index.find(tokens(longer))
    assert match is not None
    assert match.kind == "overlap"
    assert match.share == 1.0


def test_the_same_opening_is_a_phrase_and_no_more(index: Index) -> None:
    other = "Let a and b be real numbers such that " + "their sum has many factors of two " * 3
    match = index.find(tokens(other))
    assert match is not None
    assert match.kind == "phrase"


def test_other_problems_do_not_match(index: Index) -> None:
    assert index.find(tokens("How many ducks lay eggs?")) is None
    assert index.find(()) is None


@pytest.mark.parametrize(("gram", "share"), [(0, 0.5), (8, 0.0), (8, 1.5)])
def test_bad_settings_are_refused(gram: int, share: float) -> None:
    with pytest.raises(ValueError, match=r"--(ngram|overlap) "):
        Index([], gram=gram, share=share)
