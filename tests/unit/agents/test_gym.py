"""Environments of Gymnasium, played as agents: one of text, and one that comes with it."""

from __future__ import annotations

import asyncio
import importlib.util
import string
from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest
from transformers import PreTrainedTokenizerFast

from vespo_openrlhf.agents.episode import Episode, run_episode
from vespo_openrlhf.agents.gym import GymAgent

from .conftest import Script

END = "<|im_end|>"
NAME = "tests/Guess-v0"


class Guess(gymnasium.Env):
    """A number that its seed has chosen is to be found; the label says how far it goes."""

    closed = 0
    observation_space = gymnasium.spaces.Text(100, charset=string.printable)
    action_space = gymnasium.spaces.Text(3, charset=string.digits)

    def __init__(self, below: str = "the number is lower") -> None:
        self.below = below

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        limit = int(options["label"])
        self.number = int(self.np_random.integers(limit))
        return f"0 to {limit - 1}:", {}

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict]:
        guess = int(action)
        said = self.below if guess > self.number else "the number is higher"
        found = guess == self.number
        return said, int(found), found, False, {}

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register(NAME, Guess, max_episode_steps=3)
    yield
    del gymnasium.registry[NAME]


class Guesses(GymAgent):
    environment = NAME


def play(agent: GymAgent, policy: Script, prompt: str = "Guess.", label: str = "100") -> Episode:
    return asyncio.run(run_episode(agent, prompt, label, policy, policy.tokenizer, 999))


def number(agent: GymAgent) -> int:
    return agent._env.unwrapped.number


def test_an_environment_of_text(chatml: PreTrainedTokenizerFast) -> None:
    Guess.closed = 0
    first = Guesses()
    first.reset("Guess.", "100")
    right = number(first)
    agent = Guesses()
    policy = Script(chatml, "what?" + END, f" {right + 1}\n{END}", str(right) + END)
    played = play(agent, policy)
    assert number(agent) == right, "a group begins alike"
    assert played.text.startswith(
        f"<|im_start|>system\nhelp{END}\n<|im_start|>user\nGuess.\n\n0 to 99:{END}\n"
    )
    assert [turn.reward for turn in played.turns] == [0, 0, 1]
    assert "That is no action here." in played.turns[0].observation
    assert "the number is lower" in played.turns[1].observation
    assert (played.reward, played.truncated) == (1, False)
    assert played.logs == {"invalid_actions": 1, "turns": 3}
    assert Guess.closed == 1


def test_other_prompts_begin_otherwise() -> None:
    numbers = set()
    for prompt in map(str, range(20)):
        agent = Guesses()
        agent.reset(prompt, "100")
        numbers.add(number(agent))
    assert len(numbers) > 10


def test_an_environments_own_limit_ends_an_episode(chatml: PreTrainedTokenizerFast) -> None:
    class Words(Guesses):
        arguments = {"below": "lower!"}  # noqa: RUF012
        invalid = "no"

    played = play(Words(), Script(chatml, *["200"] * 9))
    assert (len(played.turns), played.reward, played.truncated) == (3, 0, False)
    assert "lower!" in played.turns[0].observation


def test_one_that_is_not_of_text(chatml: PreTrainedTokenizerFast) -> None:
    """Its words, and what the policy's words mean, are two methods."""

    class Lake(GymAgent):
        environment = "FrozenLake-v1"
        arguments = {"is_slippery": False}  # noqa: RUF012

        def text(self, observation: Any) -> str:
            return f"row {observation // 4}, column {observation % 4}"

        def action(self, text: str) -> int | None:
            moves = ("left", "down", "right", "up")
            return moves.index(text) if text in moves else None

    played = play(Lake(), Script(chatml, *"down down right right down right".split()), "Go.")
    assert played.reward == 1
    assert [t.observation.split("\n")[2][:15] for t in played.turns[:2]] == [
        f"row {row}, column 0{END}"[:15] for row in (1, 2)
    ]


def test_one_without_words(chatml: PreTrainedTokenizerFast) -> None:
    class Lake(GymAgent):
        environment = "FrozenLake-v1"

    with pytest.raises(TypeError, match=r"shows 0: override Lake.text to say it in words"):
        play(Lake(), Script(chatml))


def test_none_is_named(chatml: PreTrainedTokenizerFast) -> None:
    class Nothing(GymAgent):
        pass

    with pytest.raises(ValueError, match=r"Nothing.environment: give an id"):
        play(Nothing(), Script(chatml))


def test_without_gymnasium_an_agent_file_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run then ends before it starts. The tests have it, so what looks for it stands in."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="Lake needs gymnasium: pip install"):
        type("Lake", (GymAgent,), {})
