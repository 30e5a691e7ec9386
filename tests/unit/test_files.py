"""A file is the old one or the new one."""

from pathlib import Path

import pytest

from vespo_openrlhf.files import write_text, written_whole


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
