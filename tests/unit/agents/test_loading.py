"""The agent that a file defines."""

from __future__ import annotations

from pathlib import Path

import pytest

from vespo_openrlhf.agents.loading import defines_executor, load_agent

ONE = """
from vespo_openrlhf.agents import Agent, Step

class Counts(Agent):
    def step(self, action):
        return Step(done=True)
"""
ANOTHER = "\nclass Adds(Agent):\n    step = Counts.step\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(ONE)
    return path


def test_a_file_with_one(file: Path) -> None:
    assert load_agent(str(file)).__name__ == "Counts"


def test_of_several_one_is_named(file: Path) -> None:
    file.write_text(ONE + ANOTHER)
    with pytest.raises(
        ValueError, match=r"defines several, Adds, Counts: name one, as in .*mine.py:Adds"
    ):
        load_agent(str(file))
    assert load_agent(f"{file}:Counts").__name__ == "Counts"


def test_what_others_of_the_file_derive_from_does_not_count(file: Path) -> None:
    file.write_text(ONE + "\nclass Longer(Counts):\n    max_turns = 3\n\nAlias = Longer\n")
    assert load_agent(str(file)).__name__ == "Longer"


def test_one_of_a_module() -> None:
    name = "vespo_openrlhf.agents.feedback"
    assert load_agent(f"{name}:FeedbackAgent").__module__ == name


WRONG = {
    "X = 1": "defines no class that is derived from vespo_openrlhf.agents.Agent",
    "from vespo_openrlhf.agents.feedback import FeedbackAgent": "defines no class",
    "import nothing_of_this_name": r"mine.py does not import: ModuleNotFoundError",
    ONE.replace("step", "steps"): "Counts has no step; define it",
    ONE + "    def __init__(self, size): pass": r"needs some \(missing .*'size'\): give each a",
    ONE + "    max_turns = 0": "Counts.max_turns: expected a whole number from 1 on, not 0",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_file_that_is_none(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=WRONG[text]):
        load_agent(str(file))


def test_a_name_that_is_none(file: Path) -> None:
    with pytest.raises(ValueError, match="there is no 'Count' in it"):
        load_agent(f"{file}:Count")
    with pytest.raises(ValueError, match="it is no class that is derived from"):
        load_agent(f"{file}:__name__")
    with pytest.raises(ValueError, match="there is no such file"):
        load_agent(str(file.parent / "other.py"))


@pytest.mark.parametrize(
    ("source", "theirs"),
    [
        (ONE, False),
        ("class AgentExecutor: pass", True),
        ("from other import Executor as AgentExecutor", True),
        ("AgentExecutor = make()", True),
        ("def make():\n    class AgentExecutor: pass", False),
    ],
)
def test_openrlhfs_own_files_are_told_apart_without_running_them(
    file: Path, source: str, theirs: bool
) -> None:
    file.write_text(f"{source}\nraise RuntimeError('it is run')")
    assert defines_executor(str(file)) is theirs
    assert not defines_executor(f"{file}:Counts")
    assert not defines_executor("my.agents:Counts")


def test_what_is_no_python_is_said() -> None:
    with pytest.raises(ValueError, match=r"/no/agent.py: there is no such file"):
        defines_executor("/no/agent.py")


def test_a_file_that_cannot_be_read_as_python(file: Path) -> None:
    file.write_text("class :")
    with pytest.raises(ValueError, match="is no Python"):
        defines_executor(str(file))
