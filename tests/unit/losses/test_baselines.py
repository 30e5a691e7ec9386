"""Every rival against values worked out by hand, on one sequence of two action tokens.

pi/mu is 2 for the first token and 0.7 for the second (W = 1.4). A padding token with nan in it
stands before, between and after them.
"""

import math

import pytest
import torch

from vespo_openrlhf.losses import POLICY_LOSS_NAMES, LossInputs, get_policy_loss

LOG_PI = [math.log(0.5), math.log(0.35)]
LOG_MU = [math.log(0.25), math.log(0.5)]
MEAN_RATIO = math.sqrt(1.4)


def padded(first, second, padding=math.nan):
    return torch.tensor([[padding, first, padding, second, padding]])


def made(log_probs, advantages, mask, rollout, old=None):
    return LossInputs(
        log_probs=log_probs,
        advantages=advantages,
        action_mask=mask,
        rollout_log_probs=rollout,
        old_log_probs=old,
    )


def evaluate(name, advantage, log_pi=LOG_PI, log_mu=LOG_MU, log_old=None, **options):
    log_probs = padded(*log_pi).requires_grad_()
    old = padded(*log_old) if log_old is not None else None
    advantages = padded(advantage, advantage)
    mask = padded(1, 1, padding=0)
    inputs = made(log_probs, advantages, mask, padded(*log_mu), old)
    policy_loss = get_policy_loss(name, **options)
    loss, metrics = policy_loss(policy_loss.with_own_statistics(inputs))
    loss.backward()
    gradient = log_probs.grad[0].tolist()
    assert gradient[0::2] == [0, 0, 0]
    assert not any(metric.requires_grad for metric in metrics.values())
    torch.testing.assert_close(metrics["log_w"], torch.tensor([sum(log_pi) - sum(log_mu)]))
    assert metrics["num_tokens"].tolist() == [2]
    assert metrics["advantage"].tolist() == [advantage]
    return loss.item(), gradient[1::2], metrics


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def sapo(advantage, tau):
    """Loss and gradient of -(4/tau) sigmoid(tau (r - 1)) A, r = 2 and 0.7."""
    gates = [sigmoid(tau * (r - 1)) for r in (2, 0.7)]
    slopes = [4 * g * (1 - g) * r for g, r in zip(gates, (2, 0.7), strict=True)]
    return -4 / tau * sum(gates) * advantage / 2, [-s * advantage / 2 for s in slopes]


def weighted(advantage, *weights):
    """Loss and gradient of -c A log pi."""
    loss = -sum(w * x for w, x in zip(weights, LOG_PI, strict=True)) * advantage / 2
    return loss, [-w * advantage / 2 for w in weights]


CASES = [
    # min(2, 1.28) and 0.7; the clipped token has no gradient.
    ("ppo", 1, {}, (-(1.28 + 0.7) / 2, [0, -0.35])),
    # max(2, 0.8) and max(0.7, 0.8): where A < 0 only a falling ratio is clipped.
    ("ppo", -1, {}, ((2 + 0.8) / 2, [1, 0])),
    ("ppo", -1, {"dual_clip": 1.5}, ((1.5 + 0.8) / 2, [0, 0])),
    ("ppo", -1, {"dual_clip": math.inf}, ((2 + 0.8) / 2, [1, 0])),
    ("ppo", 1, {"dual_clip": 1.5, "clip_high": 2}, (-(2 + 0.7) / 2, [-1, -0.35])),
    ("ppo", -1, {"clip_low": 0.4}, ((2 + 0.7) / 2, [1, 0.35])),
    ("ppo", 0, {}, (0, [0, 0])),
    # The geometric mean ratio sqrt(1.4) = 1.183; its derivative is shared by the tokens.
    ("gspo", 1, {}, (-1.0004, [0, 0])),
    ("gspo", -1, {}, (MEAN_RATIO, [MEAN_RATIO / 2] * 2)),
    ("gspo", 1, {"clip_high": 0.5}, (-MEAN_RATIO, [-MEAN_RATIO / 2] * 2)),
    ("sapo", 1, {}, sapo(1, 1.0)),
    ("sapo", -1, {}, sapo(-1, 1.05)),
    ("sapo", -2, {"tau_neg": 2.0}, sapo(-2, 2.0)),
    # log 2 is bounded to 0.4, log 0.7 = -0.357 is inside.
    ("gmpo", 1, {}, (-math.exp((0.4 + math.log(0.7)) / 2),
                     [0, -math.exp((0.4 + math.log(0.7)) / 2) / 2])),
    ("gmpo", -1, {}, (MEAN_RATIO, [MEAN_RATIO / 2] * 2)),
    ("gmpo", -1, {"clip_low": 0.2}, (math.exp((math.log(2) - 0.2) / 2),
                                     [math.exp((math.log(2) - 0.2) / 2) / 2, 0])),
    ("reinforce", 3, {}, weighted(3, 1, 1)),
    ("cispo", 1, {}, weighted(1, 2, 0.7)),
    ("cispo", -1, {"weight_low": 0.9, "weight_high": 1.5}, weighted(-1, 1.5, 0.9)),
    ("tis", 1, {"cap": 1.5}, weighted(1, 1.5, 0.7)),
    ("tis", -1, {}, weighted(-1, 2, 0.7)),
    ("tis", 1, {"level": "sequence"}, weighted(1, 1.4, 1.4)),
    ("tis", -1, {"level": "sequence", "cap": 1.2}, weighted(-1, 1.2, 1.2)),
    # pi - mu is 0.25 and -0.15.
    ("dppo", 1, {}, weighted(1, 0, 0.7)),
    ("dppo", -1, {}, weighted(-1, 2, 0.7)),
    ("dppo", -1, {"tv_low": 0.1}, weighted(-1, 2, 0)),
    ("dppo", 1, {"tv_high": 0.3, "cap": 1.5}, weighted(1, 1.5, 0.7)),
    ("aspo", 1, {}, weighted(1, 0, 1 / 0.7)),
    ("aspo", 1, {"clip_high": 1.5}, weighted(1, 1 / 2, 1 / 0.7)),
    ("aspo", 1, {"dual_clip": 1.25}, weighted(1, 0, 1.25)),
    ("aspo", -1, {}, weighted(-1, 2, 0)),
    ("aspo", -1, {"clip_low": 0.4, "dual_clip": 1.5}, weighted(-1, 1.5, 0.7)),
    # The second token's prefix is the first, 2 * 0.7.
    ("minpro", 1, {}, weighted(1, 2, 1.4)),
    ("minpro", -1, {"weight_high": 1.5}, weighted(-1, 1.5, 1.4)),
    ("seq_mis", 1, {}, weighted(1, 1.4, 1.4)),
    ("seq_mis", -1, {"weight_high": 1.3}, weighted(-1, 0, 0)),
    # The geometric mean ratio 1.183 again.
    ("geo_mask", 1, {}, weighted(1, 0, 0)),
    ("geo_mask", 1, {"weight_high": 1.19}, weighted(1, 2, 0.7)),
    ("geo_mask", -1, {"weight_high": 1.19, "cap": 1.5}, weighted(-1, 1.5, 0.7)),
    ("off_policy_mask", 1, {}, weighted(1, 0, 0.7)),
    ("off_policy_mask", -1, {}, weighted(-1, 2, 0)),
    # PPO may clip the first where A > 0, the second where A < 0: log^2 is 0.48 and 0.127.
    ("m2po", 1, {}, weighted(1, 0, 0.7)),
    ("m2po", -1, {}, weighted(-1, 2, 0)),
    ("m2po", 1, {"budget": 0.5}, weighted(1, 2, 0.7)),
    # Good tokens alone have all of the loss, and the bounds stay at 0.6 and 1.2; bad ones alone
    # drive them to 0.9 and 3.
    ("bapo", 1, {}, weighted(1, 0, 0.7)),
    ("bapo", -1, {}, weighted(-1, 2, 0)),
    ("bapo", -1, {"target": 0.0}, weighted(-1, 2, 0.7)),
    ("vcpo", 1, {}, weighted(1, 1.4, 1.4)),
    ("vcpo", -1, {"cap": 1.2}, weighted(-1, 1.2, 1.2)),
    ("topr", 1, {}, weighted(1, 1, 1)),
    ("topr", -1, {}, weighted(-1, 1, 1)),  # min(1.4, 1)
]  # fmt: skip


@pytest.mark.parametrize(("name", "advantage", "options", "by_hand"), CASES)
def test_by_hand(name, advantage, options, by_hand):
    loss, gradient, _ = evaluate(name, advantage, **options)
    assert loss == pytest.approx(by_hand[0], rel=1e-6, abs=1e-7)
    assert gradient == pytest.approx(by_hand[1], rel=1e-6, abs=1e-7)


def test_every_name_has_a_case():
    assert {case[0] for case in CASES} | {"vespo", "decoupled_ppo"} == set(POLICY_LOSS_NAMES)


@pytest.mark.parametrize(("dual_clip", "bound"), [({}, 3), ({"dual_clip": None}, 4)])
def test_grpo_has_the_dual_clip_of_verl(dual_clip, bound):
    """The ratios are 4 and 0.5; the first is above clip_ratio_c, which is never off there."""
    log_pi, log_mu = [math.log(0.8), math.log(0.2)], [math.log(0.2), math.log(0.4)]
    loss, gradient, _ = evaluate("ppo", -1, log_pi, log_mu, **dual_clip)
    assert loss == pytest.approx((bound + 0.8) / 2, rel=1e-6)
    assert gradient == pytest.approx([0 if bound == 3 else 2, 0], abs=1e-6)


def test_sapo_is_a_mean_over_sequences():
    """Three tokens and one, all with the ratio 1: a gate of 2 and a slope of 1 each."""
    log_probs = torch.full((2, 3), -1.0, requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    inputs = made(log_probs, torch.tensor([1.0, 3]), mask, torch.full((2, 3), -1.0))
    loss, _ = get_policy_loss("sapo")(inputs)
    loss.backward()
    assert loss.item() == pytest.approx(-(2 * 1 + 2 * 3) / 2)
    torch.testing.assert_close(
        log_probs.grad, torch.tensor([[-1 / 6, -1 / 6, -1 / 6], [-3 / 2, 0, 0]])
    )
    by_token, _ = get_policy_loss("sapo", loss_agg_mode="token-mean")(inputs)
    assert by_token.item() == pytest.approx(-(3 * 2 * 1 + 2 * 3) / 4)


def test_topr_divided_by_the_length():
    """W = 0.16 over two tokens: the weight is 0.4 where it was 0.16, and 1 where A >= 0 still."""
    log_pi, log_mu = [math.log(0.1), math.log(0.4)], [math.log(0.5), math.log(0.5)]
    for normalisation, weight in (("none", 0.16), ("full", 0.4), ("sqrt", 0.16**0.5**0.5)):
        options = {"length_normalisation": normalisation}
        _, gradient, metrics = evaluate("topr", -1, log_pi, log_mu, **options)
        assert gradient == pytest.approx([weight / 2] * 2, rel=1e-6)
        assert metrics["log_w"].item() == pytest.approx(math.log(0.16))
        _, gradient, _ = evaluate("topr", 1, log_pi, log_mu, **options)
        assert gradient == pytest.approx([-0.5, -0.5], rel=1e-6)
    with pytest.raises(ValueError, match="length_normalisation must be one of"):
        get_policy_loss("topr", length_normalisation="half")


def test_topr_tapers_what_the_policy_has_left():
    log_mu = [math.log(0.5), math.log(0.5)]
    log_pi = [math.log(0.25), math.log(0.35)]  # W = 0.35
    loss, gradient, _ = evaluate("topr", -1, log_pi, log_mu)
    assert loss == pytest.approx(0.35 * sum(log_pi) / 2, rel=1e-6)
    assert gradient == pytest.approx([0.175, 0.175], rel=1e-6)
    _, gradient, _ = evaluate("topr", 1, log_pi, log_mu)
    assert gradient == pytest.approx([-0.5, -0.5], rel=1e-6)


def test_decoupled_ppo_by_hand():
    """pi/old is 2 and 0.7, old/rollout 1.25 and 8."""
    log_mu = [math.log(0.2), math.log(0.05)]
    log_old = [math.log(0.25), math.log(0.4)]
    log_pi = [math.log(0.5), math.log(0.28)]

    def decoupled(advantage, **options):
        return evaluate("decoupled_ppo", advantage, log_pi, log_mu, log_old, **options)

    loss, gradient, metrics = decoupled(1)  # the weight 8 is above the cap 5: dropped
    assert (loss, gradient) == (pytest.approx(-1.25 * 1.2 / 2), pytest.approx([0, 0]))
    assert metrics["is_filter_ratio"].item() == 0.5
    assert metrics["clip_ratio"].item() == 0.5
    loss, gradient, _ = decoupled(-1)
    assert (loss, gradient) == (pytest.approx(1.25 * 2 / 2), pytest.approx([1.25, 0]))
    loss, gradient, metrics = decoupled(1, behaviour_cap=10)
    assert loss == pytest.approx(-(1.25 * 1.2 + 8 * 0.7) / 2)
    assert gradient == pytest.approx([0, -2.8])
    assert metrics["is_filter_ratio"].item() == 0


def test_ppo_correction_by_hand():
    """Anchored on old, pi/old is 2 and 0.7; old/rollout 1.25 and 8, bounded to [0.5, 5]."""
    log_mu = [math.log(0.2), math.log(0.05)]
    log_old = [math.log(0.25), math.log(0.4)]
    log_probs = padded(math.log(0.5), math.log(0.28)).requires_grad_()
    inputs = made(
        log_probs, padded(1, 1), padded(1, 1, padding=0), padded(*log_mu), padded(*log_old)
    )
    for tis, by_hand in (("clip", (1.25 * 1.28 + 5 * 0.7) / 2), ("mask", 1.25 * 1.28 / 2)):
        loss, metrics = get_policy_loss("ppo", anchor="old", tis=tis)(inputs)
        assert loss.item() == pytest.approx(-by_hand)
        assert metrics["is_filter_ratio"].item() == 0.5


@pytest.mark.parametrize(
    ("name", "advantage", "options", "clip_ratio"),
    [
        ("ppo", 1, {}, 0.5),
        ("ppo", -1, {}, 0.5),
        ("ppo", 0, {}, 0),
        ("ppo", -1, {"clip_low": 0.4, "dual_clip": 1.5}, 0),  # the dual clip is not counted
        ("gspo", 1, {}, 1),
        ("gspo", -1, {}, 0),
        ("gmpo", 1, {}, 0.5),
        ("cispo", 1, {"weight_high": 1.5}, 0.5),
        ("tis", 1, {"cap": 1.5}, 0.5),
        ("tis", 1, {"level": "sequence", "cap": 1.2}, 1),
        ("tis", 1, {"level": "sequence"}, 0),
        ("dppo", 1, {}, 0.5),
        ("dppo", 0, {}, 0),
        ("aspo", -1, {}, 0.5),
        ("minpro", 1, {"weight_high": 1.5}, 0.5),
        ("off_policy_mask", 1, {}, 0.5),
        ("m2po", 1, {}, 0.5),
        ("bapo", 1, {}, 0.5),
        ("vcpo", 1, {"cap": 1.2}, 1),
    ],
)
def test_clip_ratio(name, advantage, options, clip_ratio):
    assert evaluate(name, advantage, **options)[2]["clip_ratio"].item() == clip_ratio


@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
@pytest.mark.parametrize("log_ratio", [-300.0, -90.0, 0.0, 90.0, 300.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_extreme_ratios_stay_finite(name, log_ratio, advantage):
    log_probs = torch.full((2, 3), -1.0, requires_grad=True)
    behaviour = torch.full((2, 3), -1.0 - log_ratio)
    advantages = torch.full((2, 3), advantage)
    inputs = made(log_probs, advantages, torch.ones(2, 3), behaviour, behaviour)
    policy_loss = get_policy_loss(name)
    loss, metrics = policy_loss(policy_loss.with_own_statistics(inputs))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(log_probs.grad).all()
    assert all(torch.isfinite(metric).all() for metric in metrics.values())


@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
def test_fully_masked_rows_change_nothing(name):
    def gradient(rows):
        log_probs = torch.cat([padded(*LOG_PI, padding=-1.0)] * rows).requires_grad_()
        behaviour = torch.cat([padded(*LOG_MU)] * rows)
        mask = torch.cat([padded(1, 1, padding=0)] * rows)
        mask[1:] = 0
        inputs = made(log_probs, torch.ones_like(mask), mask, behaviour, behaviour)
        policy_loss = get_policy_loss(name)
        loss, _ = policy_loss(policy_loss.with_own_statistics(inputs))
        loss.backward()
        return loss.item(), log_probs.grad

    loss, grad = gradient(1)
    loss_beside, grad_beside = gradient(3)
    assert loss == loss_beside
    assert torch.equal(grad[0], grad_beside[0])
    assert (grad_beside[1:] == 0).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ppo", {"clip_low": 1.5}, "clip_low must be in"),
        ("ppo", {"clip_high": -0.1}, "clip_high at least 0"),
        ("ppo", {"dual_clip": 0.9}, "dual_clip must be above 1"),
        ("ppo", {"tis": "truncate"}, "off, clip or mask"),
        ("ppo", {"tis": "clip", "anchor": "old", "tis_low": 6}, "tis_low <= tis_high"),
        ("ppo", {"tis": "clip"}, "already contains it: set anchor 'old'"),
        ("decoupled_ppo", {"behaviour_cap": 0}, "behaviour_cap must be positive"),
        ("sapo", {"tau_neg": 0}, "tau_neg must be positive"),
        ("gspo", {"clip_low": -1}, "clip_low must be in"),
        ("gmpo", {"clip_low": -1}, "at least 0"),
        ("tis", {"cap": 0}, "cap must be positive"),
        ("tis", {"level": "word"}, "token or sequence"),
        ("cispo", {"weight_high": 0.5}, "weight_low <= 1 <= weight_high"),
        ("topr", {"anchor": "new"}, "rollout, old"),
        ("dppo", {"tv_high": 1.5}, "must be in"),
        ("dppo", {"cap": 0.5}, "cap must be at least 1"),
        ("aspo", {"clip_low": 2}, "clip_low must be in"),
        ("aspo", {"dual_clip": 1}, "dual_clip must be above 1"),
        ("minpro", {"weight_low": 1.5}, "weight_low <= 1 <= weight_high"),
        ("seq_mis", {"weight_high": 0.9}, "seq_mis: 0 <= weight_low <= 1 <= weight_high"),
        ("geo_mask", {"weight_low": -1}, "geo_mask: 0 <= weight_low"),
        ("geo_mask", {"cap": 0}, "cap must be at least 1"),
        ("off_policy_mask", {"max_divergence": -1}, "max_divergence must be at least 0"),
        ("off_policy_mask", {"clip_high": -1}, "clip_high at least 0"),
        ("m2po", {"budget": 0}, "budget must be positive"),
        ("bapo", {"low_max": 0.5}, "low_start <= low_max"),
        ("bapo", {"high_step": 0}, "high_step must be positive"),
        ("bapo", {"target": 1.5}, "target must be in"),
        ("vcpo", {"cap": 0}, "cap must be positive"),
    ],
)
def test_options_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        get_policy_loss(name, **options)
