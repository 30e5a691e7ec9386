"""A file is the old one or the new one."""

from pathlib import Path

import pytest

from vespo_openrlhf.files import numbered_json_lines, read_json_lines, write_text, written_whole


def test_a_text_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "prompts.json"
    for text in ("old", "new"):
        write_text(path, text)
        assert path.read_text() == text
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_half_a_surrogate_pair_is_what_the_caller_says(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "half \ud800", errors="replace")
    assert (tmp_path / "page.html").read_text() == "half ?"


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")

    def fill_the_disk() -> None:
        with written_whole(path) as draft:
            draft.write_bytes(b"ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill_the_disk()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("torn", ["", '{"a": 3', '{"a": 3}'])
def test_a_line_of_a_file_that_grows_counts_once_it_has_its_end(torn: str, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": "1\u2028"}\n\n{"a": 2}\n' + torn)
    assert read_json_lines(path) == [{"a": "1\u2028"}, {"a": 2}]


def test_the_last_line_of_a_users_file_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}')
    assert list(numbered_json_lines(path, appended=False)) == [(1, {"a": 1}), (3, {"a": 2})]
    path.write_text('{"a": 1}\n{"a": 2')
    with pytest.raises(ValueError, match=r"lines.jsonl, line 2, is not JSON"):
        list(numbered_json_lines(path, appended=False))
