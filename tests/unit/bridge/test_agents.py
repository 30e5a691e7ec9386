"""Agents of ours in the shape of OpenRLHF's executors. The engine is a script."""

import asyncio
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import SamplingParams
from vllm.logprobs import Logprob

from vespo_openrlhf.agents import Agent, Step
from vespo_openrlhf.bridge.agents import EpisodeExecutor, execute, load_executor
from vespo_openrlhf.bridge.samples.response import to_experience
from vespo_openrlhf.bridge.samples.turns import note_turns, turns_of
from vespo_openrlhf.embedded.tokenizer import build_tokenizer


class Echo(Agent):
    """Repeats what it is told, twice."""

    max_turns = 2

    def step(self, action: str) -> Step:
        return Step(f"[{action}]", reward=len(action) / 10, logs={"told": 1})


class ScriptedEngine:
    """Answers "ab" and then "c", with the log-probs -1, -2 and so on."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.asked: list[tuple[str, int]] = []
        self._answers = iter(["ab", "c"])

    async def generate(self, tokens: list[int], params: SamplingParams) -> SimpleNamespace:
        self.asked.append((self._tokenizer.decode(tokens), params.max_tokens))
        ids = self._tokenizer(next(self._answers))["input_ids"]
        log_probs = [{token: Logprob(-1.0 - place)} for place, token in enumerate(ids)]
        completion = SimpleNamespace(token_ids=ids, logprobs=log_probs, finish_reason="stop")
        return SimpleNamespace(outputs=[completion])


def play(**changes: Any) -> tuple[dict[str, Any], ScriptedEngine]:
    tokenizer = build_tokenizer()
    engine = ScriptedEngine(tokenizer)
    asked = {
        **{"prompt": "p: ", "label": "l", "images": None, "llm_engine": engine},
        **{"max_length": 64, "hf_tokenizer": tokenizer},
        "sampling_params": SamplingParams(max_tokens=8, logprobs=0),
    } | changes
    return asyncio.run(execute(EpisodeExecutor(Echo), asked)), engine


def test_an_episode_is_what_openrlhf_trains_on() -> None:
    response, engine = play()
    assert engine.asked == [("p: ", 8), ("p: ab[ab]", 8)]
    assert response["action_ranges"] == [(3, 5), (9, 10)]
    assert response["turn_rewards"] == [0.2, 0.1]
    assert response["reward"] == pytest.approx(0.3)
    assert response["rollout_log_probs"] == [0, 0, 0, -1, -2, 0, 0, 0, 0, -1]
    experience = to_experience(response, 64)
    note_turns(experience, 2, 0)
    assert experience.action_mask[0].tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 1]
    told = {name: value.item() for name, value in experience.info.items()}
    assert told.pop("reward") == told.pop("score") == pytest.approx(0.3)
    assert told == {
        **{"told": 2, "turns": 2, "unattributed_tokens": 0},
        "response_clip_ratio": False,
    }
    assert turns_of(response) == ((3, 5, 0.2), (9, 10, 0.1))


def test_a_turn_has_what_is_left_at_most() -> None:
    response, engine = play(max_length=9)
    assert [most for _, most in engine.asked] == [6]
    assert response["truncated"]  # what it is told leaves no room


def test_an_executor_of_openrlhfs_tells_no_reward_by_turn() -> None:
    ((start, end, reward),) = turns_of({"action_ranges": [(3, 5)]})
    assert (start, end) == (3, 5)
    assert math.isnan(reward)


def test_images_are_refused() -> None:
    with pytest.raises(ValueError, match="Echo takes no images"):
        play(images=["a.png"])


def test_an_executor_that_knows_of_no_images_is_asked_without() -> None:
    class Older:
        async def execute(self, prompt: str) -> str:
            return prompt

    assert asyncio.run(execute(Older(), {"prompt": "p", "images": None})) == "p"
    with pytest.raises(TypeError, match="images"):
        execute(Older(), {"prompt": "p", "images": ["a.png"]})


def test_openrlhf_loads_its_own_kind(tmp_path: Path) -> None:
    path = tmp_path / "agent.py"
    path.write_text("class AgentExecutor: pass")
    arguments = {"agent_func_path": str(path)}
    assert load_executor(arguments) is None
    assert arguments["agent_func_path"] == str(path)
    assert load_executor({"agent_func_path": None}) is None
    path.write_text(
        "from vespo_openrlhf.agents import Agent\nclass A(Agent):\n    def step(self, _): ..."
    )
    assert isinstance(load_executor(arguments), EpisodeExecutor)
    assert arguments["agent_func_path"] is None  # or it would look for its own kind in it
