"""A response's parts that need no engine."""

import math
from types import SimpleNamespace

import pytest
import torch
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from vllm.logprobs import Logprob

from vespo_openrlhf.bridge.rank.loss_adapter import PolicyLossAdapter
from vespo_openrlhf.bridge.samples.response import (
    RememberingTokenizer,
    mark_missing_log_probs,
    to_experience,
    verdict,
)
from vespo_openrlhf.losses import get_policy_loss


def completion(tokens: list[int], log_probs: list[dict[int, float]] | None) -> SimpleNamespace:
    """What is read of vLLM's CompletionOutput, with its own Logprob."""
    if log_probs is None:
        return SimpleNamespace(token_ids=tokens, logprobs=None)
    return SimpleNamespace(
        token_ids=tokens,
        logprobs=[{t: Logprob(logprob=p) for t, p in each.items()} for each in log_probs],
    )


def test_a_missing_log_prob_becomes_nan_and_its_sample_is_dropped_and_counted() -> None:
    whole = completion([5, 6], [{5: -0.1}, {6: -0.2, 9: -0.05}])
    lacking = completion([5, 6], [{5: -0.1}, {9: -0.05}])
    rows = []
    for output in (whole, lacking):
        mark_missing_log_probs(output)
        pairs = zip(output.token_ids, output.logprobs, strict=True)
        rows.append([at[token].logprob for token, at in pairs])
    assert rows[0] == [-0.1, -0.2]
    assert rows[1][0] == -0.1
    assert math.isnan(rows[1][1])

    rollout = torch.tensor(rows)
    log_probs = torch.full((2, 2), -0.3, requires_grad=True)
    adapter = PolicyLossAdapter(get_policy_loss("vespo"))
    loss, *_ = adapter(
        log_probs, rollout, torch.ones(2, 2), torch.ones(2, 2), rollout_log_probs=rollout
    )
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert gradient[0].abs().min() > 0
    assert (gradient[1] == 0).all()
    metrics = adapter.drain()
    assert metrics["vespo/num_dropped"] == 1
    assert metrics["vespo/num_positive"] == 1


def test_a_run_without_log_probs_has_none_to_mark() -> None:
    output = completion([5], None)
    mark_missing_log_probs(output)
    assert output.logprobs is None


@pytest.mark.parametrize(
    ("rewards", "executor", "expected"),
    [
        (torch.tensor([0.5]), SimpleNamespace(reward_endpoints=["r.py"]), 0.5),
        (None, SimpleNamespace(reward_endpoints=["r.py"]), None),  # it should have scored here
        (None, SimpleNamespace(reward_endpoints=None), 0.0),  # a reward model will
        (None, SimpleNamespace(), None),  # an agent brings its own
    ],
)
def test_the_verdict_that_is_reported(rewards, executor, expected) -> None:
    assert verdict(SimpleNamespace(rewards=rewards), executor) == expected


def test_a_prompt_is_tokenised_once_for_its_group() -> None:
    asked = []

    class Tokenizer:
        eos_token_id = 3

        def __call__(self, text: str, return_tensors: str | None = None) -> list[str]:
            asked.append(text)
            return [text, str(return_tensors)]

    tokenizer = RememberingTokenizer(Tokenizer())
    assert [tokenizer(text="a", return_tensors="pt") for _ in range(3)] == [["a", "pt"]] * 3
    assert asked == ["a"]
    assert tokenizer(text="a") == ["a", "None"]  # another question
    assert tokenizer(text="b") == ["b", "None"]
    assert tokenizer.eos_token_id == 3


@pytest.mark.parametrize("max_length", [16, 6, 3, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reward": 1, "scores": 0.5, "truncated": True},
        {"rollout_log_probs": None, "extra_logs": {"a": torch.tensor([[2.0]]), "b": [1, 2]}},
        {"action_ranges": [(2, 3), (4, 6)], "reward": torch.tensor(0.5)},
        {"action_ranges": [], "extra_logs": {"well_formed": True, "steps": math.nan}},
        {"images": ["a.png"], "mm_train_inputs": {"pixels": torch.ones(2)}},
    ],
    ids=str,
)
def test_an_experience_is_the_one_that_openrlhf_makes(changes: dict, max_length: int) -> None:
    response = {
        "prompt": "p",
        "label": "l",
        "observation_tokens": [7, 8, 9, 10, 11, 3],
        "action_ranges": [(3, 6)],
        "rollout_log_probs": [0.0, 0.0, 0.0, -0.5, math.nan, -0.25],
        "reward": None,
        "scores": None,
        "extra_logs": {},
    } | changes
    ours = to_experience(response, max_length)
    theirs = SamplesGenerator._process_response_into_experience(None, response, max_len=max_length)
    for name, expected in vars(theirs).items():
        found = getattr(ours, name)
        if name == "info":
            assert list(found) == list(expected)
            values = [(found[key], expected[key]) for key in expected]
        else:
            values = [(found, expected)]
        for value, other in values:
            if isinstance(other, torch.Tensor):
                assert value.dtype == other.dtype, name
                torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True)
            else:
                assert value == other, name
