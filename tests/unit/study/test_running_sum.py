"""The tasks uneven and long: what is right, how long responses are, and their policy."""

import pytest
import torch

from vespo_openrlhf.study.tasks import get_task, response_mask
from vespo_openrlhf.study.tasks.context_table import (
    END,
    FIRST_THOUGHT,
    FIRST_WAY,
    PAD,
    TERMS,
    TOKENS,
    WAYS,
)
from vespo_openrlhf.study.tasks.running_sum import Uneven

TASK = Uneven()


@pytest.fixture(scope="module")
def problems():
    return TASK.split(0, [400])[0]


@pytest.fixture(scope="module")
def taught(problems):
    """A policy that has seen some demonstrations."""
    torch.manual_seed(0)
    policy = TASK.policy(width=16, layers=1, heads=1)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-2)
    shown = TASK.demonstrations(problems, 0.1, seed=0)
    mask = response_mask(shown[:, TERMS:], END)
    for _ in range(60):
        loss = -(policy.log_probs(shown) * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


@pytest.mark.parametrize("name", ["uneven", "long"])
def test_demonstrations_without_slips_are_right_and_of_the_lengths_that_are_said(name) -> None:
    task = get_task(name)
    (problems,) = task.split(1, [300])
    responses = task.demonstrations(problems, 0.0, seed=1)[:, TERMS:]
    assert task.is_right(responses, task.encode_answers(problems)).all()
    lengths = response_mask(responses, END).sum(dim=1).double()
    for way, mean in enumerate(task.thinking):
        own = lengths[responses[:, 0] == FIRST_WAY + way]
        assert own.mean().item() == pytest.approx(TERMS * (mean + 1) + 2, rel=0.15)
    assert (responses[response_mask(responses, END).logical_not()] == PAD).all()


def test_a_slip_is_carried_on_to_the_end(problems) -> None:
    answers = TASK.encode_answers(problems)
    slipped = TASK.demonstrations(problems, 0.12, seed=2)[:, TERMS:]
    share = TASK.is_right(slipped, answers).double().mean().item()
    assert share == pytest.approx(0.9 * (1 - 0.9 * 0.12) ** TERMS + 0.1, abs=0.08)


@pytest.mark.parametrize("spoilt", ["digit", "missing", "endless"])
def test_what_is_not_right(problems, spoilt: str) -> None:
    answers = TASK.encode_answers(problems)
    responses = TASK.demonstrations(problems, 0.0, seed=3)[:, TERMS:].clone()
    last = response_mask(responses, END).sum(dim=1) - 2
    rows = torch.arange(len(responses))
    if spoilt == "digit":
        responses[rows, last] = (responses[rows, last] + 1) % 10
    elif spoilt == "missing":
        responses[rows, last] = FIRST_THOUGHT
    else:
        responses[rows, last + 1] = FIRST_THOUGHT
        responses[responses == END] = PAD
    assert not TASK.is_right(responses, answers).any()


def test_the_sampler_reports_what_the_trainer_recomputes(taught, problems) -> None:
    prompts = TASK.encode_prompts(problems)
    drawn = taught.sample(prompts, torch.Generator().manual_seed(0))
    recomputed = taught.log_probs(drawn.ids)
    torch.testing.assert_close(
        recomputed[drawn.mask], drawn.log_probs[drawn.mask], atol=1e-5, rtol=0
    )
    assert (drawn.log_probs[~drawn.mask] == 0).all()
    assert (drawn.responses[~drawn.mask] == PAD).all()
    assert torch.equal(drawn.mask, response_mask(drawn.responses, END))
    again = taught.sample(prompts, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.ids, again.ids)


def test_the_table_holds_distributions(taught) -> None:
    table = taught.log_table()
    assert table.shape[1] == TOKENS
    torch.testing.assert_close(table.exp().sum(dim=1), torch.ones(len(table)))


def test_how_long_it_thinks_has_no_part_in_which_digit_it_writes(taught) -> None:
    """So that no length is right more often."""
    digits = taught.log_table().view(11, 11, -1, WAYS + 1, TOKENS)[..., :FIRST_THOUGHT]
    chances = digits.log_softmax(-1)
    torch.testing.assert_close(chances, chances[:, :, :1, :1].expand_as(chances))


def test_the_sampler_is_in_the_very_contexts_that_the_policy_finds(taught, problems) -> None:
    """With noise it reports what it drew from; with next to none, that is the policy's own."""
    prompts = TASK.encode_prompts(problems).repeat(8, 1)
    drawn = taught.sample(prompts, torch.Generator().manual_seed(0), logit_noise=1e-6)
    own = taught.log_probs(drawn.ids).where(drawn.mask, 0.0).detach()
    torch.testing.assert_close(drawn.log_probs, own, rtol=0, atol=1e-4)


def test_an_engine_with_noise_draws_from_what_it_reports(taught, problems) -> None:
    """So the mean importance weight is 1, which noise on reported log-probs would move."""
    prompts = TASK.encode_prompts(problems).repeat(8, 1)
    drawn = taught.sample(prompts, torch.Generator().manual_seed(0), logit_noise=0.05)
    log_ratio = (taught.log_probs(drawn.ids) - drawn.log_probs).where(drawn.mask, 0.0)
    weights = log_ratio.sum(dim=1).detach().double().exp()
    assert weights.std() > 0.05
    error = float(weights.std()) / len(weights) ** 0.5
    assert float(weights.mean()) == pytest.approx(1, abs=4 * error)


def test_where_the_length_is_fixed_training_moves_thoughts_and_digits_alone() -> None:
    task = get_task("long")
    torch.manual_seed(0)
    policy = task.policy(width=8, layers=1, heads=1)
    before = policy.log_table().detach().view(11, 11, -1, WAYS + 1, TOKENS)
    optimizer = torch.optim.Adam(policy.parameters(), 0.1)
    ids = task.demonstrations(task.split(0, [4])[0], 0.0, seed=0)
    policy.log_probs(ids).where(response_mask(ids[:, TERMS:], END), 0.0).mean().backward()
    optimizer.step()
    after = policy.log_table().detach().view(11, 11, -1, WAYS + 1, TOKENS)
    for tokens in (slice(0, FIRST_THOUGHT), slice(FIRST_THOUGHT, FIRST_WAY)):
        assert (before[..., tokens] - after[..., tokens]).abs().max() > 0.01
        together = [table[..., tokens].logsumexp(-1) for table in (before, after)]
        torch.testing.assert_close(*together)
    torch.testing.assert_close(before[..., FIRST_WAY:], after[..., FIRST_WAY:])


def test_a_fixed_response_ends_after_its_ninth_digit_and_not_before() -> None:
    task = get_task("long")
    policy = task.policy(width=8, layers=1, heads=1)
    (problems,) = task.split(0, [64])
    drawn = policy.sample(task.encode_prompts(problems), torch.Generator().manual_seed(0))
    ended = (drawn.responses == END).any(dim=1)
    assert ended.double().mean() > 0.9
    assert ((drawn.responses < FIRST_THOUGHT).sum(dim=1)[ended] == TERMS).all()
    assert torch.isfinite(drawn.entropy).all()
    lengths = drawn.mask.sum(dim=1).double()
    assert 800 < lengths.mean() < 1200
