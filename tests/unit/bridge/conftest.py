"""Groups as the scheduler hands them over, with rollouts as an engine makes them."""

from collections.abc import Callable, Sequence

import pytest

import vespo_openrlhf.bridge  # noqa: F401  (the CPU stack, before any test imports openrlhf)
from vespo_openrlhf.scheduling import Group, Prompt


@pytest.fixture
def make_group() -> Callable[..., Group]:
    """A factory of complete groups. Sample i of the ticket t has t * 10 + i + 1 as first token.

    `rewards`: per sample; None for a sample without a verdict. `verdicts`: what the engine said of
    it where that is not the reward: "lost" for no rollout at all, None or NaN for one without a
    usable verdict. `oldest`: version of every sample's first token.
    """
    from vespo_openrlhf.bridge.samples.response import to_experience
    from vespo_openrlhf.bridge.wire import Rollout

    def rollout(first_token: int, verdict: float | None, response: int) -> Rollout:
        tokens = [first_token, *range(100, 101 + response)]
        result = {
            "observation_tokens": tokens,
            "action_ranges": [(2, len(tokens))],
            "rollout_log_probs": [0.0, 0.0] + [-0.5] * response,
            "prompt": "a prompt",
            "label": "a label",
            "reward": verdict,
            "scores": verdict,
            "extra_logs": {} if verdict is None else {"well_formed": 1.0},
        }
        return Rollout(to_experience(result, 64), (f"request-{first_token}",))

    def make(
        ticket: int,
        rewards: Sequence[float | None],
        verdicts: Sequence[object] | None = None,
        oldest: int = 0,
    ) -> Group:
        prompt = Prompt(0, ticket, f"p{ticket}")
        group = Group(ticket, prompt, len(rewards), "engine-0", oldest, 7, True, 0.0)
        for sample, reward in enumerate(rewards):
            verdict = verdicts[sample] if verdicts else ("lost" if reward is None else reward)
            length = 2 + (3 * ticket + 5 * sample) % 7
            payload = None
            if verdict != "lost":
                payload = rollout(ticket * 10 + sample + 1, verdict, length)
            group.generate(sample, ((oldest, 1), (oldest + 1, length)), oldest + 1, payload, 0.0)
            group.settle(sample, reward)
        return group

    return make
