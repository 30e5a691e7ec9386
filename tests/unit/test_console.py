"""`vespo COMMAND` is the module of that name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from vespo_openrlhf.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_a_module_that_runs(command: str) -> None:
    module = f"vespo_openrlhf.{command}"
    spec = importlib.util.find_spec(module)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        assert importlib.util.find_spec(f"{module}.__main__") is not None


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tarin"]) == 2
    assert "there are train, check" in capsys.readouterr().err


def test_arguments_and_status_pass_through() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "vespo_openrlhf", "simulate", "--lag-batches", "none"],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert "--lag-batches" in finished.stderr


@pytest.mark.parametrize("command", ["eval", "reward"])
@pytest.mark.parametrize("vespo", ["vespo", "python -m vespo_openrlhf"])
def test_a_users_modules_of_these_names_stand_beside_ours(
    command: str, vespo: str, tmp_path: Path
) -> None:
    """Neither ours nor theirs takes the place of the other in one process."""
    for name in ("eval", "reward"):
        (tmp_path / f"{name}.py").write_text("print('theirs')\n")
    program = {"vespo": [str(Path(sys.executable).parent / "vespo")]}
    program |= {"python -m vespo_openrlhf": [sys.executable, "-m", "vespo_openrlhf"]}

    def shown(*arguments: str) -> str:
        finished = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    ours = shown(*program[vespo], command, "--help")
    assert f"usage: vespo {command}" in ours
    assert "theirs" not in ours
    both = f"import vespo_openrlhf.{command}, {command}"
    assert shown(sys.executable, "-c", both) == "theirs\n"


def test_the_command_is_installed_and_the_changelog_knows_the_version() -> None:
    assert 'vespo = "vespo_openrlhf.__main__:main"' in (ROOT / "pyproject.toml").read_text()
    from vespo_openrlhf import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
