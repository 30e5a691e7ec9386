"""Agents of ours on the engine, in the shape of an executor of OpenRLHF's.

A file that has an `AgentExecutor` is OpenRLHF's own kind, and OpenRLHF loads it.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Mapping
from typing import Any

from openrlhf.utils.agent import AgentExecutorBase

from vespo_openrlhf.agents import Agent
from vespo_openrlhf.agents.episode import Sampled, run_episode
from vespo_openrlhf.agents.loading import defines_executor, load_agent


class EpisodeExecutor(AgentExecutorBase):
    """Plays an episode of an agent for each sample.

    Args:
        agent: made anew for each.
    """

    def __init__(self, agent: type[Agent]) -> None:
        self._agent = agent

    async def execute(
        self,
        prompt: str,
        label: str,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        """As OpenRLHF's executors, and `turn_rewards` beside what they answer: one per action
        range. A turn has at most `sampling_params.max_tokens` tokens.

        Raises:
            ValueError: a prompt with images.
        """
        if images:
            raise ValueError(f"{self._agent.__name__} takes no images: write an AgentExecutor")

        async def generate(tokens: list[int], most: int) -> Sampled:
            params = sampling_params.clone()
            params.max_tokens = min(most, sampling_params.max_tokens or most)
            output = await llm_engine.generate(tokens, params)
            completion = output.outputs[0]
            sampled = list(completion.token_ids)
            log_probs = None
            if completion.logprobs is not None:
                pairs = zip(sampled, completion.logprobs, strict=True)
                log_probs = [by_token[token].logprob for token, by_token in pairs]
            return Sampled(sampled, log_probs, completion.finish_reason)

        episode = await run_episode(
            self._agent(), prompt, label, generate, hf_tokenizer, max_length
        )
        return {
            "prompt": prompt,
            "label": label,
            "images": None,
            "mm_train_inputs": None,
            "observation_tokens": episode.tokens,
            "action_ranges": [(turn.start, turn.end) for turn in episode.turns],
            "turn_rewards": [turn.reward for turn in episode.turns],
            "rollout_log_probs": episode.log_probs,
            "truncated": episode.truncated,
            "reward": episode.reward,
            "scores": episode.score,
            "extra_logs": {name: v for name, v in episode.logs.items() if name != "turns"},
        }


def load_executor(arguments: dict[str, Any]) -> EpisodeExecutor | None:
    """The executor of an agent of ours, whose file is then out of the engine's arguments, or
    OpenRLHF would look for its own kind in it. None where it is that, or none.

    Raises:
        ValueError: see `load_agent`.
    """
    path = arguments.get("agent_func_path")
    if not path or defines_executor(path):
        return None
    arguments["agent_func_path"] = None
    return EpisodeExecutor(load_agent(path))


def execute(executor: AgentExecutorBase, asked: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
    """Ask an executor; without images where there are none and it knows of none, as one of
    OpenRLHF's own examples."""
    parameters = inspect.signature(executor.execute).parameters.values()
    takes = any(p.name == "images" or p.kind is p.VAR_KEYWORD for p in parameters)
    left_out = () if takes or asked["images"] else ("images",)
    work: Coroutine[Any, Any, Any] = executor.execute(
        **{name: value for name, value in asked.items() if name not in left_out}
    )
    return work
