"""The gradient of a step is the same, to 1e-6, however its batch was split or laid out."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vespo_openrlhf.losses import POLICY_LOSS_NAMES, get_policy_loss, option_defaults

TENSORS = ("log_probs", "old_log_probs", "advantages", "action_mask", "rollout_log_probs")
LOSSES = [
    (name, mode)
    for name in POLICY_LOSS_NAMES
    for mode in ("token-mean", "seq-mean-token-mean")
    if mode == "token-mean" or "loss_agg_mode" in option_defaults(name)
]


@pytest.fixture(params=LOSSES, ids="-".join)
def policy_loss(request):
    name, mode = request.param
    options = {"loss_agg_mode": mode} if "loss_agg_mode" in option_defaults(name) else {}
    return get_policy_loss(name, **options)


@pytest.fixture
def step(random_inputs):
    """A whole optimizer step, its totals given as OpenRLHF gives them."""
    inputs = random_inputs(11, batch=9, tokens=31, drift=0.05)
    mask = inputs.action_mask
    return dataclasses.replace(
        inputs, batch_num_tokens=mask.sum().float(), global_batch_size=mask.any(-1).sum().float()
    )


def relayout(inputs, function):
    """The inputs with every (B, A) tensor passed through `function`."""
    return dataclasses.replace(
        inputs, **{name: function(getattr(inputs, name)) for name in TENSORS}
    )


def gradient(policy_loss, inputs, leaf):
    loss, _ = policy_loss(inputs)
    return torch.autograd.grad(loss, leaf)[0]


def assert_same(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


def test_micro_batches(policy_loss, step):
    whole = gradient(policy_loss, step, step.log_probs)
    assert whole.abs().max() > 0
    parts = [
        gradient(policy_loss, relayout(step, lambda t, i=i, j=j: t[i:j]), step.log_probs)
        for i, j in ((0, 1), (1, 4), (4, 5), (5, 9))  # (4, 5) is the fully masked row alone
    ]
    assert_same(sum(parts), whole)


def test_gradient_accumulation_divided_by_the_engine(policy_loss, step):
    """OpenRLHF divides the totals by the accumulation steps, DeepSpeed each backward by them."""
    whole = gradient(policy_loss, step, step.log_probs)
    accumulated = dataclasses.replace(
        step,
        batch_num_tokens=step.batch_num_tokens / 3,
        global_batch_size=step.global_batch_size / 3,
    )
    parts = [
        gradient(policy_loss, relayout(accumulated, lambda t, i=i: t[i::3]), step.log_probs) / 3
        for i in range(3)
    ]
    assert_same(sum(parts), whole)


def test_padding(policy_loss, step):
    """More columns on both sides, full of garbage."""

    def pad(t):
        fill = 0 if t.dtype == torch.bool else torch.nan
        return torch.nn.functional.pad(t, (5, 40), value=fill)

    padded = gradient(policy_loss, relayout(step, pad), step.log_probs)
    assert_same(padded, gradient(policy_loss, step, step.log_probs))


def test_shuffled_rows(policy_loss, step):
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = gradient(policy_loss, relayout(step, lambda t: t[order]), step.log_probs)
    assert_same(shuffled, gradient(policy_loss, step, step.log_probs))


def test_holes_closed(policy_loss, step):
    """Masked tokens between action tokens, or the action tokens side by side: the same."""
    order = (~step.action_mask).long().argsort(dim=-1, stable=True)
    packed = gradient(policy_loss, relayout(step, lambda t: t.gather(1, order)), step.log_probs)
    assert_same(packed, gradient(policy_loss, step, step.log_probs))


def test_two_gloo_ranks(step, tmp_path):
    """Each rank takes a part, the gradients are averaged as DeepSpeed does: the same gradient.

    The ranks are plain processes on a script: spawned functions must be importable by name, and
    nothing of ours is imported as `tests`.
    """
    torch.save({field.name: getattr(step, field.name) for field in dataclasses.fields(step)},
               tmp_path / "step.pt")  # fmt: skip
    worker = Path(__file__).with_name("gloo_rank.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen([sys.executable, worker, str(rank), tmp_path], env=environment)
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    averaged = torch.load(tmp_path / "gradients.pt")
    assert set(averaged) == set(POLICY_LOSS_NAMES)
    for name, ours in averaged.items():
        assert_same(ours, gradient(get_policy_loss(name), step, step.log_probs))
