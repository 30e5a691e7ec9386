"""A row for each turn of an episode: by hand, and against the loss of whole episodes."""

import dataclasses
import math

import pytest
import torch

from vespo_openrlhf.losses import POLICY_LOSS_NAMES, LossInputs, get_policy_loss, split_turns
from vespo_openrlhf.losses.inputs import LOSS_AGG_MODES

# Every loss, in every mode that it has.
LOSSES = [
    (name, {"loss_agg_mode": mode} if mode else {})
    for name in POLICY_LOSS_NAMES
    for mode in (LOSS_AGG_MODES if "loss_agg_mode" in get_policy_loss(name).options else (None,))
]


def logs(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def two_episodes() -> tuple[LossInputs, torch.Tensor]:
    """Of two turns side by side (W of 2 and 1/2, so 1 together) and of one, W 1; the first column
    is a prompt and the last padding, with what nobody may read."""
    nan = math.nan
    inputs = LossInputs(
        log_probs=logs([nan, 0.4, 0.5, 0.25, nan], [nan, 0.5, 0.8, nan, nan]).requires_grad_(),
        rollout_log_probs=logs([nan, 0.2, 0.5, 0.5, nan], [nan, 0.5, 0.8, nan, nan]),
        advantages=torch.tensor([[nan, 1, 1, -1, nan], [nan, 0.5, 0.5, nan, nan]]).double(),
        action_mask=torch.tensor([[0, 1, 1, 1, 0], [0, 1, 1, 0, 0]]),
    )
    return inputs, torch.tensor([[-7, 1, 1, 2, 9], [0, 1, 1, 0, 0]])


def test_an_episode_by_hand() -> None:
    """phi = W^2 e^(3 (1 - W)) where A >= 0, W^3 e^(2 (1 - W)) elsewhere."""
    inputs, turns = two_episodes()
    rows, episode = split_turns(inputs, turns)
    assert episode.tolist() == [0, 0, 1]
    assert rows.num_tokens.tolist() == [2, 1, 2]
    vespo = get_policy_loss("vespo", loss_agg_mode="seq-mean-token-sum")
    loss, metrics = vespo(rows)
    phi = [4 * math.exp(-3), math.e / 8, 1.0]
    assert metrics["phi"].tolist() == pytest.approx(phi, rel=1e-6)
    assert metrics["log_w"].tolist() == pytest.approx([math.log(2), -math.log(2), 0.0], abs=1e-7)
    log_pi = [math.log(0.4) + math.log(0.5), math.log(0.25), math.log(0.5) + math.log(0.8)]
    by_hand = -(phi[0] * log_pi[0] - phi[1] * log_pi[1] + 0.5 * phi[2] * log_pi[2]) / 2
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, inputs.log_probs)
    first, second = -phi[0] / 2, phi[1] / 2
    expected = [[0, first, first, second, 0], [0, -0.25, -0.25, 0, 0]]
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64))
    # And of the episode, the W 1 and the mean advantage 1/3 for all three of its tokens.
    _, whole = vespo(inputs)
    assert whole["phi"].tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("mode", "units"), [("token-mean", [5, 5, 5]), ("seq-mean-token-mean", [6, 6, 4])]
)
def test_what_a_token_is_divided_by_is_the_batchs_or_its_episodes(mode, units) -> None:
    """Three tokens and two: by 5, or by 2 episodes times 3 or 2 tokens."""
    inputs, turns = two_episodes()
    rows, _ = split_turns(inputs, turns)
    loss, _ = get_policy_loss("reinforce", loss_agg_mode=mode)(rows)
    (gradient,) = torch.autograd.grad(loss, inputs.log_probs)
    found = [gradient[0, 1].item(), gradient[0, 3].item(), gradient[1, 1].item()]
    assert found == pytest.approx([-1 / units[0], 1 / units[1], -0.5 / units[2]])


def of_parts(inputs: LossInputs, parts: int) -> torch.Tensor:
    """(B, A) turns: the columns, cut into as many blocks, side by side."""
    batch, tokens = inputs.log_probs.shape
    return (torch.arange(tokens) * parts // tokens + 1).expand(batch, tokens)


def trained(policy_loss, rows: LossInputs, log_probs: torch.Tensor):
    """The loss of a whole update, its metrics, and its gradient in the (B, A) log-probs."""
    loss, metrics = policy_loss(policy_loss.with_own_statistics(rows))
    (gradient,) = torch.autograd.grad(loss, log_probs)
    return loss, metrics, gradient


@pytest.mark.parametrize(("name", "options"), LOSSES)
@pytest.mark.parametrize("turn", [0, 3])
def test_episodes_of_one_turn_are_what_they_were(random_inputs, name, options, turn) -> None:
    """To the bit, with an empty one among them, whatever the ranks without batch totals."""
    inputs = dataclasses.replace(random_inputs(0), dp_size=3)
    policy_loss = get_policy_loss(name, **options)
    loss, metrics, gradient = trained(policy_loss, inputs, inputs.log_probs)
    rows, episode = split_turns(inputs, turn * inputs.mask.long())
    assert episode.tolist() == list(range(len(inputs.mask)))
    by_turn = trained(policy_loss, rows, inputs.log_probs)
    torch.testing.assert_close(by_turn, (loss, metrics, gradient), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "options"), LOSSES)
def test_on_policy_turns_have_the_gradient_of_their_episode(random_inputs, name, options) -> None:
    made, policy_loss = random_inputs(1), get_policy_loss(name, **options)
    log_probs = made.log_probs.detach().double().requires_grad_()
    mu = log_probs.detach()
    inputs = dataclasses.replace(made, log_probs=log_probs, rollout_log_probs=mu, old_log_probs=mu)
    _, _, gradient = trained(policy_loss, inputs, log_probs)
    rows, _ = split_turns(inputs, of_parts(inputs, 4))
    assert len(rows.mask) > 3 * len(inputs.mask)
    _, _, by_turn = trained(policy_loss, rows, log_probs)
    torch.testing.assert_close(by_turn, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), LOSSES)
def test_micro_batches_of_episodes_add_up_to_the_whole(random_inputs, name, options) -> None:
    policy_loss, made = get_policy_loss(name, **options), random_inputs(2)
    totals = {
        "batch_num_tokens": float(made.num_tokens.sum()),
        "global_batch_size": float((made.num_tokens > 0).sum()),
    }
    inputs = dataclasses.replace(made, **totals)
    turns = of_parts(inputs, 3)
    rows, _ = split_turns(inputs, turns)
    rows = policy_loss.with_own_statistics(rows)
    (expected,) = torch.autograd.grad(policy_loss(rows)[0], inputs.log_probs)
    summed = torch.zeros_like(expected)
    names = ("log_probs", "old_log_probs", "rollout_log_probs", "advantages", "action_mask")
    for chosen in ([0, 1], [2, 3, 4], [5]):
        part = dataclasses.replace(inputs, **{n: getattr(inputs, n)[chosen] for n in names})
        split, _ = split_turns(part, turns[chosen])
        split = dataclasses.replace(split, statistics=rows.statistics)
        summed += torch.autograd.grad(policy_loss(split)[0], inputs.log_probs)[0]
    torch.testing.assert_close(summed, expected, rtol=1e-5, atol=1e-8)


def test_an_episode_without_turns_keeps_an_empty_row() -> None:
    inputs, turns = two_episodes()
    inputs = dataclasses.replace(inputs, action_mask=inputs.action_mask * torch.tensor([[0], [1]]))
    rows, episode = split_turns(inputs, turns)
    assert episode.tolist() == [0, 1]
    assert rows.num_tokens.tolist() == [0, 2]
    loss, _ = get_policy_loss("vespo", loss_agg_mode="seq-mean-token-sum")(rows)
    assert loss.item() == pytest.approx(-0.5 * (math.log(0.5) + math.log(0.8)))


@pytest.mark.parametrize("tokens", [0, 4])
@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
def test_a_batch_without_an_action_is_a_loss_of_0(name, tokens) -> None:
    zeros = torch.zeros(2, tokens)
    inputs = LossInputs(
        log_probs=zeros.clone().requires_grad_(),
        advantages=zeros,
        action_mask=zeros,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
    )
    policy_loss = get_policy_loss(name)
    rows, episode = split_turns(inputs, zeros.long() - 1)
    assert episode.tolist() == [0, 1]
    assert policy_loss(policy_loss.with_own_statistics(rows))[0].item() == 0
