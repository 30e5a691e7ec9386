"""Environments of Gymnasium as agents.

Of the standards that can be installed it is the one that is an interface and no more: small, kept
by a foundation, with a space for text. `verifiers` brings its own rollouts and clients,
`openenv-core` a web server for each environment, `textarena` its own games.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

from vespo_openrlhf.agents.agent import Agent, Message, Step


class GymAgent(Agent):
    """An episode of a Gymnasium environment. Derive from it, and name one.

    What the environment shows is a message of the user's; before the first stands the data set's
    prompt, which needs no `--data.apply_chat_template` therefore. The environment is seeded by
    prompt and label, so that all samples of a group begin alike, and is told both as its options.

    It logs `invalid_actions`.
    """

    #: As `gymnasium.make` takes it: NAME-v0, or package.module:NAME-v0 to import it first.
    environment: str = ""
    #: Further arguments of `gymnasium.make`.
    arguments: ClassVar[Mapping[str, Any]] = {}
    #: What the policy reads after what is no action; the environment is then not asked.
    invalid: str = "That is no action here. Try again."

    _env: Any = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if importlib.util.find_spec("gymnasium") is None:
            raise ImportError(f"{cls.__name__} needs gymnasium: pip install 'gymnasium>=1.0'")

    def make(self) -> Any:
        """A new environment; override it where the id does not say all.

        Raises:
            ValueError: the class names none.
        """
        import gymnasium

        if not self.environment:
            raise ValueError(f"{type(self).__name__}.environment: give an id, as gymnasium.make's")
        return gymnasium.make(self.environment, disable_env_checker=True, **self.arguments)

    def text(self, observation: Any) -> str:
        """What the policy reads of an observation; override it where that is no text.

        Raises:
            TypeError: it is no text.
        """
        if not isinstance(observation, str):
            raise TypeError(
                f"the environment shows {observation!r:.100}: override {type(self).__name__}.text "
                "to say it in words"
            )
        return observation

    def action(self, text: str) -> Any:
        """The action that the policy's words are, or None; override it where that is no text.

        Returns:
            The words, stripped, where the action space contains them.
        """
        words = text.strip()
        return words if self._env.action_space.contains(words) else None

    def reset(self, prompt: str, label: str) -> list[Message]:
        self._env = self.make()
        seed = zlib.crc32(f"{prompt}\0{label}".encode())
        observation, _ = self._env.reset(seed=seed, options={"prompt": prompt, "label": label})
        return _shown("\n\n".join(filter(None, [prompt, self.text(observation)])))

    def step(self, action: str) -> Step:
        chosen = self.action(action)
        if chosen is None:
            return Step(_shown(self.invalid), logs={"invalid_actions": 1})
        observation, reward, terminated, truncated, _ = self._env.step(chosen)
        ended = bool(terminated or truncated)
        shown = _shown(self.text(observation))
        return Step(shown, float(reward), ended, logs={"invalid_actions": 0})

    def close(self) -> None:
        if self._env is not None:
            self._env.close()


def _shown(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
