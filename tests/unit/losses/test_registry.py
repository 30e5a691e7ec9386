import re
import sys
import textwrap

import pytest
import torch

from vespo_openrlhf import losses
from vespo_openrlhf.losses import (
    POLICY_LOSS_NAMES,
    LossInputs,
    get_policy_loss,
    option_defaults,
    registry,
)


def test_names():
    assert set(POLICY_LOSS_NAMES) == {
        "vespo", "ppo", "gspo", "sapo", "cispo", "topr", "gmpo", "reinforce", "tis",
        "decoupled_ppo", "dppo", "m2po", "bapo", "seq_mis", "geo_mask", "off_policy_mask", "vcpo",
        "aspo", "minpro",
    }  # fmt: skip


def test_published_defaults():
    published = {
        "vespo": {"c1_pos": 2.0, "c2_pos": 3.0, "c1_neg": 3.0, "c2_neg": 2.0,
                  "shape": "published",
                  "length_normalisation": "none", "anchor": "rollout",
                  "loss_agg_mode": "token-mean"},
        "ppo": {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0, "tis": "off",
                "loss_agg_mode": "token-mean"},
        "gspo": {"clip_low": 3e-4, "clip_high": 4e-4},
        "sapo": {"tau_pos": 1.0, "tau_neg": 1.05, "loss_agg_mode": "seq-mean-token-mean"},
        "topr": {"length_normalisation": "none", "loss_agg_mode": "token-mean"},
        "gmpo": {"clip_low": 0.4, "clip_high": 0.4},
        "dppo": {"tv_low": 0.2, "tv_high": 0.2},
        "m2po": {"budget": 0.04},
        "bapo": {"target": 0.4, "low_start": 0.6, "low_max": 0.9, "low_step": 0.02,
                 "high_start": 1.2, "high_max": 3.0, "high_step": 0.05},
        "vcpo": {"cap": 8.0},
    }  # fmt: skip
    for name, options in published.items():
        assert options.items() <= option_defaults(name).items()
        assert options.items() <= get_policy_loss(name).options.items()


def test_every_off_policy_loss_starts_from_the_rollout_log_probs():
    for name in set(POLICY_LOSS_NAMES) - {"reinforce", "decoupled_ppo"}:
        assert option_defaults(name)["anchor"] == "rollout"


@pytest.mark.parametrize(
    ("name", "options", "needs_rollout", "reads_old"),
    [
        ("vespo", {}, True, False),
        ("vespo", {"anchor": "old"}, False, True),
        ("vespo", {"anchor": "old", "tis_cap": 2.0}, True, True),
        ("ppo", {}, True, False),
        ("ppo", {"anchor": "old"}, False, True),
        ("ppo", {"anchor": "old", "tis": "clip"}, True, True),
        ("decoupled_ppo", {}, True, True),
        ("reinforce", {}, False, False),
        ("topr", {}, True, False),
        ("gspo", {"anchor": "old"}, False, True),
    ],
)
def test_what_a_loss_reads(random_inputs, name, options, needs_rollout, reads_old):
    policy_loss = get_policy_loss(name, **options)
    assert policy_loss.needs_rollout_log_probs is needs_rollout
    assert policy_loss.reads_old_log_probs is reads_old


@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
@pytest.mark.parametrize("anchor", ["rollout", "old"])
def test_the_declaration_is_true(random_inputs, name, anchor):
    """What is declared unread may be missing; what is declared needed may not."""
    options = {"anchor": anchor} if "anchor" in option_defaults(name) else {}
    policy_loss = get_policy_loss(name, **options)
    given = random_inputs(0)

    def inputs(*, rollout, old):
        return LossInputs(
            log_probs=given.log_probs,
            old_log_probs=given.old_log_probs if old else None,
            advantages=given.advantages,
            action_mask=given.action_mask,
            rollout_log_probs=given.rollout_log_probs if rollout else None,
        )

    needs, reads = policy_loss.needs_rollout_log_probs, policy_loss.reads_old_log_probs
    policy_loss(policy_loss.with_own_statistics(inputs(rollout=needs, old=reads)))
    if needs:
        with pytest.raises(ValueError, match="rollout_log_probs is missing"):
            policy_loss(policy_loss.with_own_statistics(inputs(rollout=False, old=True)))
    if reads:
        with pytest.raises(ValueError, match="old_log_probs is missing"):
            policy_loss(policy_loss.with_own_statistics(inputs(rollout=True, old=False)))


def test_unknown_name_lists_the_nearest_first():
    with pytest.raises(ValueError, match=r"unknown policy loss 'gpso'. Known: gspo, ") as error:
        get_policy_loss("gpso")
    for name in POLICY_LOSS_NAMES:
        assert name in str(error.value)
    with pytest.raises(ValueError, match="unknown policy loss"):
        option_defaults("grpo2")


def test_unknown_option_lists_the_options_with_defaults():
    with pytest.raises(ValueError, match="sapo has no option 'tau'") as error:
        get_policy_loss("sapo", tau=1.0)
    assert "tau_pos=1.0, tau_neg=1.05, anchor='rollout'" in str(error.value)
    with pytest.raises(ValueError, match="gspo has no option 'loss_agg_mode'"):
        get_policy_loss("gspo", loss_agg_mode="token-mean")  # its own is the sequence mean


@pytest.mark.parametrize("option", ["tis", "is_correction_level", "rollout_is_weights"])
def test_a_second_mismatch_correction_is_refused(option):
    with pytest.raises(ValueError, match="count it twice"):
        get_policy_loss("vespo", **{option: "token"})


def test_a_new_loss_is_one_file(tmp_path, monkeypatch):
    """Every function NAME_loss(inputs, *, options) of a module in the folder is a loss."""
    folder = [*losses.__path__, str(tmp_path)]
    monkeypatch.setattr(losses, "__path__", folder)
    (tmp_path / "newest.py").write_text(
        "from .weighted import weighted_log_prob_loss\n"
        "def newest_loss(inputs, *, scale=1.0): ...\n"
        "def other_loss(inputs, weight, *, scale=1.0): ...\n"
    )
    found = dict(registry._own_losses())
    sys.modules.pop("vespo_openrlhf.losses.newest")
    assert set(found) == {*POLICY_LOSS_NAMES, "newest"}


@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
def test_every_loss_names_its_source(name):
    function = get_policy_loss(name).function
    assert function.__name__ == f"{name}_loss"
    assert re.search(r"arXiv \d{4}\.\d{5}|19\d\d|20\d\d", function.__doc__)


@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
def test_errors_name_options_and_no_flags(name):
    for option, default in option_defaults(name).items():
        if option != "dual_clip" or name != "ppo":  # None is its default
            value = "nonsense" if isinstance(default, str) else -1e9
            with pytest.raises(ValueError, match=option.partition("_")[0]) as error:
                get_policy_loss(name, **{option: value})
            assert "--" not in str(error.value)


# --- a user's own loss ---------------------------------------------------------------------


@pytest.fixture
def user_file(tmp_path):
    def write(body, name="own_loss.py"):
        path = tmp_path / name
        path.write_text("import torch\n" + textwrap.dedent(body))
        return path

    return write


GOOD = """
    def loss(inputs, beta=0.5, *, gamma=1.0):
        value = -(beta * inputs.log_probs * inputs.action_mask).sum()
        return value, {"beta": torch.tensor(beta) * value}
    """


def test_by_file_path(user_file, random_inputs):
    policy_loss = get_policy_loss(f"{user_file(GOOD)}:loss", beta=2.0)
    inputs = random_inputs(0)
    loss, metrics = policy_loss(inputs)
    loss.backward()
    assert torch.equal(inputs.log_probs.grad, -2.0 * inputs.action_mask)
    assert not metrics["beta"].requires_grad
    assert dict(policy_loss.options) == {"beta": 2.0}
    # Nothing is known about it, so nothing it may read is left out.
    assert policy_loss.needs_rollout_log_probs
    assert policy_loss.reads_old_log_probs


def test_by_module_name(user_file, random_inputs, monkeypatch):
    monkeypatch.syspath_prepend(user_file(GOOD, "own_losses.py").parent)
    loss, _ = get_policy_loss("own_losses:loss")(random_inputs(0))
    assert torch.isfinite(loss)


def test_declares_what_it_reads(user_file):
    body = GOOD + "\n    loss.needs_rollout_log_probs = loss.reads_old_log_probs = False\n"
    policy_loss = get_policy_loss(f"{user_file(body)}:loss")
    assert not policy_loss.needs_rollout_log_probs
    assert not policy_loss.reads_old_log_probs


def test_declares_batch_statistics(user_file, random_inputs):
    body = """
    def tokens(inputs, *, unit=1.0):
        return inputs.num_tokens.sum(0, keepdim=True).double() / unit

    def loss(inputs, *, unit=1.0):
        return -(inputs.log_probs * inputs.mask).sum() / inputs.statistics[0], {}

    loss.statistics = tokens
    """
    policy_loss = get_policy_loss(f"{user_file(body)}:loss", unit=2.0)
    inputs = policy_loss.with_own_statistics(random_inputs(0))
    assert inputs.statistics.item() == inputs.num_tokens.sum() / 2
    assert torch.isfinite(policy_loss(inputs)[0])


def test_batch_statistics_are_given_the_losses_defaults(user_file, random_inputs):
    path = user_file("""
    import torch

    def tokens(inputs, *, share):
        return share * inputs.num_tokens.sum().double()[None]

    def own(inputs, *, share=0.5, floor=1.0):
        return -(inputs.log_probs * inputs.mask).sum() / inputs.statistics[0], {}

    own.statistics = tokens
    """)
    for options, share in (({}, 0.5), ({"floor": 2.0}, 0.5), ({"share": 0.25}, 0.25)):
        inputs = get_policy_loss(f"{path}:own", **options).with_own_statistics(random_inputs(0))
        assert inputs.statistics.item() == share * inputs.num_tokens.sum()


def test_a_file_may_hold_a_dataclass(user_file, random_inputs):
    """With postponed annotations dataclasses need their module in sys.modules."""
    path = user_file(GOOD)
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    path.write_text(head + path.read_text() + "@dataclass\nclass Options:\n    beta: float\n")
    assert get_policy_loss(f"{path}:loss")(random_inputs(0))[0].dim() == 0


def test_takes_any_option_where_the_function_does(user_file):
    path = user_file("def loss(inputs, **options): return inputs.log_probs.sum(), {}")
    assert dict(get_policy_loss(f"{path}:loss", whatever=1).options) == {"whatever": 1}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_package.module:loss", "cannot import 'no_such_package.module'"),
        ("math:no_such_function", "there is no 'no_such_function' in it"),
        ("math:pi", "math:pi is no function"),
        ("no/such/file.py:loss", "no/such/file.py: there is no such file"),
    ],
)
def test_not_found(reference, message):
    with pytest.raises(ValueError, match=message):
        get_policy_loss(reference)


@pytest.mark.parametrize(
    "definition",
    ["def loss(): ...", "def loss(*, inputs): ...", "def loss(inputs, advantages, clip): ..."],
)
def test_wrong_signature(user_file, definition):
    reference = f"{user_file(definition)}:loss"
    with pytest.raises(ValueError, match=re.escape(reference) + ".*function\\(inputs: LossInputs"):
        get_policy_loss(reference)


def test_unknown_option_of_a_users_loss(user_file):
    with pytest.raises(ValueError, match=r"has no option 'alpha'. Its options: beta=0.5, gamma=1"):
        get_policy_loss(f"{user_file(GOOD)}:loss", alpha=1)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("inputs.log_probs.sum()", r"must return \(loss, metrics\), got Tensor"),
        ("(inputs.log_probs.sum(-1), {})", r"must return a 0-dim loss tensor, got \(6,\)"),
        ("(1.0, {})", "must return a 0-dim loss tensor, got float"),
        ("(inputs.log_probs.sum() * torch.nan, {})", "not finite: nan"),
        ("(inputs.log_probs.sum() / 0, {})", "not finite: -inf"),
        ("(inputs.log_probs.sum(), [])", "dict of tensors"),
        ("(inputs.log_probs.sum(), {'a': 1.0})", "dict of tensors"),
    ],
)
def test_wrong_result_names_the_function(user_file, random_inputs, returned, message):
    reference = f"{user_file(f'def loss(inputs): return {returned}')}:loss"
    with pytest.raises(ValueError, match=re.escape(reference) + ".*" + message):
        get_policy_loss(reference)(random_inputs(0))
