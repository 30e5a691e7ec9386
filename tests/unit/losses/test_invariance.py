"""The gradient of a step is the same, to 1e-6, however its batch was split or laid out."""

import dataclasses
import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vespo_openrlhf.losses import (
    POLICY_LOSS_NAMES,
    LossInputs,
    get_policy_loss,
    option_defaults,
)
from vespo_openrlhf.losses.inputs import LOSS_AGG_MODES

TENSORS = ("log_probs", "old_log_probs", "advantages", "action_mask", "rollout_log_probs")
# Where the defaults would leave these batches, which have drifted little, alone.
NARROW = {
    "aspo": {"clip_low": 0.05, "clip_high": 0.05},
    "bapo": {"low_start": 0.9, "low_max": 0.98, "high_start": 1.02, "high_max": 1.1,
             "high_step": 0.02, "target": 0.5},
    "dppo": {"tv_low": 0.02, "tv_high": 0.02},
    "geo_mask": {"weight_low": 0.99, "weight_high": 1.01},
    "m2po": {"budget": 1e-3},
    "off_policy_mask": {"max_divergence": 0.001},
    "vcpo": {"cap": 1.1},
}  # fmt: skip
LOSSES = [
    (name, mode)
    for name in POLICY_LOSS_NAMES
    for mode in LOSS_AGG_MODES
    if mode == "token-mean" or "loss_agg_mode" in option_defaults(name)
]


@pytest.fixture(params=LOSSES, ids="-".join)
def policy_loss(request):
    name, mode = request.param
    options = {"loss_agg_mode": mode} if "loss_agg_mode" in option_defaults(name) else {}
    return get_policy_loss(name, **options, **NARROW.get(name, {}))


@pytest.fixture
def step(random_inputs, request):
    """A whole optimizer step, its totals given as OpenRLHF gives them, and its statistics."""
    inputs = random_inputs(11, batch=9, tokens=31, drift=0.05)
    mask = inputs.action_mask
    inputs = dataclasses.replace(
        inputs, batch_num_tokens=mask.sum().float(), global_batch_size=mask.any(-1).sum().float()
    )
    return with_statistics(request, inputs)


def with_statistics(request, inputs):
    if "policy_loss" not in request.fixturenames:
        return inputs
    return request.getfixturevalue("policy_loss").with_own_statistics(inputs)


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


@pytest.mark.parametrize("name", [n for n in POLICY_LOSS_NAMES if get_policy_loss(n).statistics])
def test_statistics_of_parts_add_up_to_those_of_the_whole(random_inputs, name):
    loss = get_policy_loss(name, **NARROW[name])
    whole = random_inputs(11, batch=9, tokens=31, drift=0.5)
    expected = loss.statistics(whole)
    assert expected.count_nonzero() > 3

    def pad(t):
        return torch.nn.functional.pad(t, (5, 40), value=0 if t.dtype == torch.bool else torch.nan)

    for i, j in ((1, 1), (1, 4), (4, 5), (2, 9)):
        parts = [
            relayout(whole, lambda t, s=s: pad(t[s])) for s in (slice(i), slice(i, j), slice(j, 9))
        ]
        together = sum(map(loss.statistics, parts))
        torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)


def test_a_loss_with_batch_statistics_does_not_make_its_own(step):
    """It would be another loss for every size of micro-batch."""
    for name in ("m2po", "bapo"):
        with pytest.raises(ValueError, match=f"{name} depends on all sequences of an update"):
            get_policy_loss(name)(step)


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


@pytest.mark.parametrize("layout", ["sorted", "shuffled"])
def test_sorted_or_shuffled_rows(policy_loss, step, layout):
    """By length, as OpenRLHF balances ranks, or at random, as its loader shuffles."""
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    if layout == "sorted":
        order = step.action_mask.sum(-1).argsort(descending=True)
    assert order.tolist() != list(range(9))
    moved = gradient(policy_loss, relayout(step, lambda t: t[order]), step.log_probs)
    assert_same(moved, gradient(policy_loss, step, step.log_probs))


def test_holes_closed(policy_loss, step):
    """Masked tokens between action tokens, or the action tokens side by side: the same."""
    order = (~step.action_mask).long().argsort(dim=-1, stable=True)
    packed = gradient(policy_loss, relayout(step, lambda t: t.gather(1, order)), step.log_probs)
    assert_same(packed, gradient(policy_loss, step, step.log_probs))


# --- responses of different length ----------------------------------------------------------

LENGTHS = (3, 31, 7, 1, 18, 12, 2, 25, 9)  # action tokens of each response, after its prompt


@pytest.fixture
def ragged(step, request):
    """The step with one response of each length, on the right of prompts of different length."""
    columns = torch.arange(31)
    mask = torch.stack([columns >= 31 - length for length in LENGTHS]) & step.action_mask
    mask[:, -1] = True  # at least one action token each
    mask[4] = False  # and one response that counts for nothing
    inputs = dataclasses.replace(
        step,
        action_mask=mask,
        batch_num_tokens=mask.sum().float(),
        global_batch_size=mask.any(-1).sum().float(),
    )
    return with_statistics(request, inputs)


@pytest.fixture(scope="module")
def balanced_partitions():
    """OpenRLHF's own split of a dynamic batch, from its file: its package needs flash-attn."""
    package = importlib.util.find_spec("openrlhf")
    if package is None:
        pytest.skip("OpenRLHF is not installed")
    path = Path(package.submodule_search_locations[0]) / "utils" / "seqlen_balancing.py"
    spec = importlib.util.spec_from_file_location("openrlhf_seqlen_balancing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_seqlen_balanced_partitions


@pytest.mark.parametrize("num_micro_batches", [2, 4, 9])
def test_dynamic_batches(policy_loss, ragged, balanced_partitions, num_micro_batches):
    """Micro-batches of as many tokens rather than as many rows, each as wide as its longest.

    `setup_dynamic_batch` gives every micro-batch of an update the update's own totals, undivided:
    with dynamic batches DeepSpeed's own accumulation is 1, and it divides by nothing.
    """
    whole = gradient(policy_loss, ragged, ragged.log_probs)
    partitions = balanced_partitions(list(LENGTHS), num_micro_batches, equal_size=False)
    assert sorted(itertools.chain.from_iterable(partitions)) == list(range(9))
    assert len({len(rows) for rows in partitions}) > 1 or num_micro_batches == 9

    def collate(tensor, rows):
        width = max(LENGTHS[row] for row in rows)
        return tensor[rows][:, 31 - width :]

    parts = [
        gradient(
            policy_loss,
            relayout(ragged, lambda t, rows=rows: collate(t, rows)),
            ragged.log_probs,
        )
        for rows in partitions
    ]
    assert_same(sum(parts), whole)


def test_packed_rows_unpacked_by_the_actor(policy_loss, ragged):
    """All sequences one after the other in one row, (1, tokens), as the model sees them.

    OpenRLHF's actor scatters the row's log-probs back to (B, A) before the loss (`pad_input` in
    `gather_and_pad_tensor`, here as an index_put: flash-attn is not there on a CPU). The gradient
    at the packed row is that of the padded batch, token by token.
    """
    whole = gradient(policy_loss, ragged, ragged.log_probs)
    attended = torch.stack([torch.arange(31) >= 31 - length for length in LENGTHS])
    attended[:, 0] |= True  # a prompt token: it is in the row and no action
    packed = ragged.log_probs.detach()[attended][None].requires_grad_()

    def unpack(row):
        return torch.zeros_like(ragged.log_probs).index_put(attended.nonzero(as_tuple=True), row[0])

    unpacked = dataclasses.replace(ragged, log_probs=unpack(packed))
    assert_same(gradient(policy_loss, unpacked, packed), whole[attended][None])


def test_packed_rows_with_a_mask_per_sequence(policy_loss, ragged):
    """The same row for every sequence, (B, tokens), and each sequence's own tokens in its mask."""
    whole = gradient(policy_loss, ragged, ragged.log_probs)
    attended = torch.stack([torch.arange(31) >= 31 - length for length in LENGTHS])
    owner = attended.nonzero()[:, 0]
    packed = ragged.log_probs.detach()[attended][None].requires_grad_()

    def expand(tensor):
        return tensor.detach()[attended][None].expand(9, -1)

    own = owner == torch.arange(9)[:, None]
    rows = dataclasses.replace(
        relayout(ragged, expand),
        log_probs=packed.expand(9, -1),
        action_mask=expand(ragged.action_mask) & own,
        # A sequence's advantage is that of its own tokens; the others' stand under its mask.
        advantages=torch.where(own, expand(ragged.advantages), torch.nan),
    )
    assert_same(gradient(policy_loss, rows, packed), whole[attended][None])


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
        policy_loss = get_policy_loss(name)
        whole = policy_loss.with_own_statistics(step)
        assert_same(ours, gradient(policy_loss, whole, step.log_probs))


@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
def test_a_batch_without_a_column_is_a_loss_of_0(name):
    none = torch.zeros(2, 0)
    inputs = LossInputs(
        log_probs=none.clone().requires_grad_(),
        advantages=none,
        action_mask=none,
        rollout_log_probs=none,
        old_log_probs=none,
    )
    policy_loss = get_policy_loss(name)
    loss, metrics = policy_loss(policy_loss.with_own_statistics(inputs))
    loss.backward()
    assert loss == 0
    assert metrics["num_tokens"].tolist() == [0, 0]
