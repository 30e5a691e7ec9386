"""A user's Python, loaded by where it stands."""

from pathlib import Path

import pytest

from vespo_openrlhf import user_code


def test_a_file_and_a_module_are_loaded_by_one_rule(tmp_path: Path) -> None:
    import math

    own, other = tmp_path / "own.py", tmp_path / "other" / "own.py"
    own.write_text("answer = 1\n")
    other.parent.mkdir()
    other.write_text("answer = 2\n")
    assert user_code.load(f"{own}:answer", "--flag") == 1
    assert user_code.load(f"{other}:answer", "--flag") == 2
    assert user_code.load("math:pi", "--flag") == math.pi


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("answer = 1\n")
    user_code.load_file(own, "--flag")
    own.write_text("answer = 23\n")
    assert user_code.load_file(own, "--flag").answer == 23


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("vespo", "expected package.module:NAME or path/to/file.py:NAME"),
        ("gone.py:score", "--flag gone.py: there is no such file"),
        ("no_such_package:score", "cannot import 'no_such_package'"),
        ("math:tau2", "--flag math:tau2: there is no 'tau2' in it"),
        ("{}/broken.py:score", r"broken.py does not import: ZeroDivisionError"),
    ],
)
def test_what_cannot_be_loaded_is_said_plainly(tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ValueError, match=message):
        user_code.load(target.format(tmp_path), "--flag")
