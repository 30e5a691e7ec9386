import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespo_openrlhf import pages


def joined(parts: list) -> str:  # type: ignore[type-arg]
    """The response again, with a character for each that was left out."""
    return "".join(
        p if isinstance(p, str) else p["mark"] if "mark" in p else "~" * p["cut"] for p in parts
    )


def test_the_last_box_with_the_answer_is_marked_else_its_last_place() -> None:
    assert pages.mark_answer("7 or 7.", "7", 100) == ["7 or ", {"mark": "7"}, "."]
    boxed = "\\boxed{7}, no, \\boxed{7}, as 3 + 4 = 7."
    assert pages.mark_answer(boxed, "7", 100) == [
        "\\boxed{7}, no, \\boxed{", {"mark": "7"}, "}, as 3 + 4 = 7.",
    ]  # fmt: skip


@pytest.mark.parametrize("answer", [None, "", "42"])
def test_without_an_answer_in_it_the_response_stands_alone(answer: str | None) -> None:
    assert pages.mark_answer("no idea", answer, 100) == ["no idea"]


def test_a_long_response_keeps_its_ends() -> None:
    parts = pages.mark_answer("a" * 500 + "b" * 500, None, 100)
    assert parts == ["a" * 50, {"cut": 900}, "b" * 50]


def test_an_answer_in_the_middle_keeps_its_surroundings() -> None:
    parts = pages.mark_answer("a" * 500 + "42" + "b" * 500, "42", 100)
    assert {"mark": "42"} in parts
    assert [p["cut"] > 0 for p in parts if isinstance(p, dict) and "cut" in p] == [True, True]


@given(
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(1, 200),
    st.integers(20, 200),
)
def test_what_is_kept_stands_where_it_stood_and_is_bounded(
    before: int, after: int, size: int, limit: int
) -> None:
    response = "a" * before + "x" * size + "b" * after
    parts = pages.mark_answer(response, "x" * size, limit)
    again = joined(parts)
    assert len(again) == len(response)
    assert all(kept in ("~", true) for kept, true in zip(again, response, strict=True))
    assert len(again) - again.count("~") <= max(limit, 1) + 2
    assert any(isinstance(p, dict) and "mark" in p for p in parts)


def test_the_data_in_the_page_is_the_data() -> None:
    parts = ["</script><!-- ", {"mark": "é\u2028"}]
    sample = pages.Sample(0, 0, False, "wrong", "repeat 1", parts)
    block = pages.sample_browser([pages.Problem("p", "b", "q", "g")], [sample], ["run"])
    text = re.search(r'<script type="application/json">(.*?)</script>', block.html)
    assert text is not None
    data = json.loads(text[1])
    assert data["samples"][0]["parts"] == parts
    assert data["problems"] == [{"name": "p", "group": "b", "prompt": "q", "gold": "g"}]


def test_a_filter_with_one_choice_is_left_out() -> None:
    block = pages.sample_browser([pages.Problem("p", "b"), pages.Problem("q", "c")], [], ["run"])
    assert 'name="group"' in block.html
    assert 'name="run"' not in block.html
