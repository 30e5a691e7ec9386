"""Our losses in the shape that OpenRLHF calls."""

import dataclasses
import math

import pytest
import torch

from vespo_openrlhf.bridge.loss import build_loss
from vespo_openrlhf.bridge.rank import learning_rate
from vespo_openrlhf.bridge.rank.loss_adapter import PolicyLossAdapter
from vespo_openrlhf.losses import POLICY_LOSS_NAMES, LossInputs, get_policy_loss, split_turns
from vespo_openrlhf.losses.distillation import DistillOptions

VESPO = {
    "actor.policy_loss_type": "vespo",
    "actor.loss_agg_mode": "token-mean",
    "actor.eps_clip_low_high": None,
    "actor.dual_clip": None,
    "vespo.anchor": "rollout",
    "vespo.length_normalisation": "none",
    "vespo.loss_options": [],
    "vespo.shape": "published",
    "vespo.c1_pos": 2.0,
    "vespo.c2_pos": 3.0,
    "vespo.c1_neg": 3.0,
    "vespo.c2_neg": 2.0,
}


def micro_batch(seed: int, rows: int = 3, columns: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    rollout = -torch.rand(rows, columns)
    return {
        "log_probs": (rollout + 0.1 * torch.randn(rows, columns)).requires_grad_(),
        "old_log_probs": rollout + 0.05,
        "advantages": torch.randn(rows, 1).expand(rows, columns),
        "action_mask": (torch.arange(columns) < columns - 1).expand(rows, columns).float(),
        "rollout_log_probs": rollout,
    }


def call(adapter: PolicyLossAdapter, batch: dict[str, torch.Tensor]) -> tuple:
    """As `ActorPPOTrainer.training_step` calls it: three by position, the rest by name."""
    first = [batch[name] for name in ("log_probs", "old_log_probs", "advantages")]
    rest = {name: batch[name] for name in ("action_mask", "rollout_log_probs")}
    return adapter(*first, **rest, dp_size=1, batch_num_tokens=None, global_batch_size=None)


def test_the_first_result_is_the_loss_itself() -> None:
    batch = micro_batch(0)
    loss, clip_ratio, ppo_kl, vllm_kl, is_filter_ratio = call(
        PolicyLossAdapter(build_loss(VESPO)), batch
    )
    expected, _ = get_policy_loss("vespo")(LossInputs(**batch))
    assert loss == expected
    assert clip_ratio == 0
    assert is_filter_ratio == 0
    kept = batch["action_mask"].bool()
    drift = (batch["old_log_probs"] - batch["log_probs"])[kept].mean()
    torch.testing.assert_close(ppo_kl, drift.detach())
    torch.testing.assert_close(vllm_kl, torch.tensor(-0.05))
    assert not any(t.requires_grad for t in (clip_ratio, ppo_kl, vllm_kl, is_filter_ratio))


def test_metrics_cover_every_micro_batch_since_the_last_drain() -> None:
    adapter = PolicyLossAdapter(build_loss(VESPO))
    batches = [micro_batch(seed) for seed in range(4)]
    for batch in batches:
        call(adapter, batch)
    metrics = adapter.drain()
    log_w = torch.cat(
        [
            ((b["log_probs"] - b["rollout_log_probs"]) * b["action_mask"]).sum(-1).detach()
            for b in batches
        ]
    )
    assert metrics["vespo/log_w_mean"] == pytest.approx(log_w.mean().item(), abs=1e-6)
    assert metrics["vespo/log_w_max"] == pytest.approx(log_w.max().item(), abs=1e-6)
    assert metrics["vespo/log_w_std"] == pytest.approx(log_w.std(correction=0).item(), abs=1e-6)
    counted = [metrics[f"vespo/num_{sign}"] for sign in ("positive", "negative", "zero")]
    assert sum(counted) == len(log_w)


def test_a_drain_without_a_call_says_that_the_seam_moved() -> None:
    with pytest.raises(RuntimeError, match="policy-loss seam"):
        PolicyLossAdapter(build_loss(VESPO)).drain()


def test_missing_rollout_log_probs_name_the_flag_that_brings_them() -> None:
    batch = micro_batch(0) | {"rollout_log_probs": None}
    with pytest.raises(ValueError, match=r"--algo\.advantage\.is_correction_level token"):
        call(PolicyLossAdapter(build_loss(VESPO)), batch)


def test_a_loss_with_batch_statistics_is_given_those_of_the_update_before() -> None:
    """And so the same for every micro-batch of an update, whatever their size."""
    own = get_policy_loss("m2po", budget=1e-3)
    updates = [[micro_batch(seed) for seed in seeds] for seeds in ((0, 1), (2, 3, 4))]
    adapter = PolicyLossAdapter(own)
    before = torch.zeros_like(own.statistics(LossInputs(**updates[0][0])))
    for update in updates:
        for batch in update:
            loss, *_ = call(adapter, batch)
            expected, _ = own(LossInputs(**batch, statistics=before))
            assert loss == expected
        adapter.end_update()
        before = sum(own.statistics(LossInputs(**batch)) for batch in update)
    masked, whole = (
        own(LossInputs(**updates[1][0], statistics=statistics))[1]["clip_ratio"]
        for statistics in (before, torch.zeros_like(before))
    )
    assert masked > whole == 0


def test_a_step_is_as_long_as_the_loss_says_of_the_updates_own_sequences() -> None:
    """VCPO: sqrt of the effective share of the update's weights, over all its micro-batches."""
    adapter = PolicyLossAdapter(get_policy_loss("vcpo"))
    scales = []
    for seeds in ((0, 1, 2), (3, 4)):
        batches = [micro_batch(seed) for seed in seeds]
        for batch in batches:
            call(adapter, batch)
        weights = torch.cat(
            [
                ((b["log_probs"] - b["rollout_log_probs"]) * b["action_mask"])
                .sum(-1)
                .detach()
                .exp()
                for b in batches
            ]
        )
        share = weights.sum() ** 2 / (weights**2).sum() / len(weights)
        scales.append(adapter.step_scale())
        assert scales[-1] == pytest.approx(share.sqrt().item(), rel=1e-5)
        adapter.end_update()
    batch_mean = (3 * scales[0] + 2 * scales[1]) / 5  # over micro-batches
    assert adapter.drain()["vcpo/step_scale"] == pytest.approx(batch_mean)
    assert [u["vcpo/step_scale"] for u in adapter.by_update()] == pytest.approx(scales)
    plain = PolicyLossAdapter(build_loss(VESPO))
    call(plain, micro_batch(0))
    assert plain.step_scale() == 1.0
    assert "vespo/step_scale" not in plain.drain()


def test_a_step_whose_scale_is_not_finite_is_not_scaled() -> None:
    """It is left out by the guard; its learning rate would be no number, and never come back."""
    adapter = PolicyLossAdapter(get_policy_loss("vcpo"))
    batch = micro_batch(0)
    with torch.no_grad():
        batch["log_probs"][0, 0] = math.nan
    call(adapter, batch)
    assert adapter.step_scale() == 1.0
    adapter.end_update()
    assert math.isnan(adapter.drain()["vcpo/step_scale"])


@pytest.mark.parametrize("name", ["m2po", "bapo"])
def test_an_update_that_is_not_finite_leaves_the_statistics_before_it(name: str) -> None:
    """It is left out by the guard; bounds made of it would be the next update's."""
    adapter = PolicyLossAdapter(get_policy_loss(name))
    call(adapter, micro_batch(0))
    adapter.end_update()
    broken = micro_batch(1)
    with torch.no_grad():
        broken["log_probs"][0, 0] = math.nan
    call(adapter, broken)
    adapter.end_update()
    loss, *_ = call(adapter, micro_batch(2))
    own = get_policy_loss(name)
    before = own.statistics(LossInputs(**micro_batch(0)))
    expected, _ = own(LossInputs(**micro_batch(2), statistics=before))
    assert loss == expected


def test_a_scaled_step_leaves_the_schedule_alone() -> None:
    """The scheduler moves on within a step of DeepSpeed's, and its rate is the one that stays."""
    for schedule in (lambda step: 1.0, lambda step: 1 / (step + 1)):
        weight = torch.nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.SGD([weight], lr=0.5)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        weight.grad = torch.ones(())
        with learning_rate.scaled(optimizer, 0.25):
            optimizer.step()
            scheduler.step()
        assert weight.item() == -0.125
        assert optimizer.param_groups[0]["lr"] == 0.5 * schedule(1)


def test_a_users_loss_needs_no_metrics_of_ours(tmp_path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def plain(inputs):\n    return -inputs.log_probs.mean(), {}\n")
    loss = build_loss(VESPO | {"actor.policy_loss_type": f"{own}:plain"})
    adapter = PolicyLossAdapter(loss)
    call(adapter, micro_batch(0))
    metrics = adapter.drain()
    assert adapter.name == "plain"
    assert metrics["plain/num_positive"] + metrics["plain/num_negative"] == 3


@pytest.mark.parametrize("name", sorted(set(POLICY_LOSS_NAMES) - {"vespo"}))
def test_rivals_take_the_same_flags(name: str) -> None:
    adapter = PolicyLossAdapter(build_loss(VESPO | {"actor.policy_loss_type": name}))
    loss, *_ = call(adapter, micro_batch(0))
    assert torch.isfinite(loss)
    assert f"{name}/num_positive" in adapter.drain()


def test_a_truncated_correction_inside_w_by_flag() -> None:
    flags = VESPO | {"vespo.anchor": "old", "vespo.loss_options": ["tis_cap=3"]}
    loss = build_loss(flags)
    assert loss.options["tis_cap"] == 3.0
    assert loss.needs_rollout_log_probs
    assert loss.reads_old_log_probs
    assert build_loss(VESPO | {"vespo.anchor": "old"}).options["tis_cap"] is None


def test_the_length_normalisation_of_topr_by_flag() -> None:
    flags = VESPO | {"actor.policy_loss_type": "topr", "vespo.length_normalisation": "full"}
    assert build_loss(flags).options["length_normalisation"] == "full"
    with pytest.raises(ValueError, match="full is for vespo and topr, and sapo knows nothing"):
        build_loss(flags | {"actor.policy_loss_type": "sapo"})


def test_clip_flags_of_openrlhf_reach_the_losses_that_have_a_clip() -> None:
    flags = VESPO | {"actor.eps_clip_low_high": [0.1, 0.3], "actor.dual_clip": 3.0}
    ppo = build_loss(flags | {"actor.policy_loss_type": "ppo"})
    assert (ppo.options["clip_low"], ppo.options["clip_high"]) == (0.1, 0.3)
    assert ppo.options["dual_clip"] == 3.0
    assert "clip_low" not in build_loss(flags).options


@pytest.mark.parametrize(
    ("name", "pairs", "expected"),
    [
        ("sapo", ["tau_pos=1.5", "tau_neg=2"], {"tau_pos": 1.5, "tau_neg": 2.0}),
        ("tis", ["level=sequence", "cap=5"], {"level": "sequence", "cap": 5.0}),
        ("cispo", ["weight_high=4e0"], {"weight_low": 0.0, "weight_high": 4.0}),
        ("decoupled_ppo", ["behaviour_cap=inf"], {"behaviour_cap": float("inf")}),
    ],
)
def test_a_rivals_own_options(name: str, pairs: list[str], expected: dict) -> None:
    flags = VESPO | {"actor.policy_loss_type": name, "vespo.loss_options": pairs}
    options = build_loss(flags).options
    assert expected.items() <= options.items()
    assert all(type(options[option]) is type(value) for option, value in expected.items())


@pytest.mark.parametrize(
    ("name", "pairs", "message"),
    [
        ("sapo", ["tau_po=1"], r"sapo has no option 'tau_po' \(did you mean tau_pos\?\)"),
        ("topr", ["cap=1"], "topr has no option 'cap'. Its options: length_norm"),
        ("topr", ["length_normalisation=full"], "write --vespo.length_normalisation, the flag"),
        ("vespo", ["tis_cap=2"], "already contains it"),
        ("sapo", ["tau_pos=warm"], "tau_pos=warm: expected a number, such as 1.0"),
        ("sapo", ["tau_pos=0"], "tau_pos and tau_neg must be positive"),
        ("tis", ["level=word"], "level must be token or sequence"),
        ("tis", ["cap=1", "cap=2"], "gives cap twice"),
        ("sapo", ["anchor=old"], "write --vespo.anchor, the flag of this option"),
        ("gmpo", ["clip_low=0.3"], "write --actor.eps_clip_low_high LOW HIGH"),
        ("vespo", ["c1_pos=3"], "write --vespo.c1_pos, the flag of this option"),
        ("ppo", ["tis=clip"], "already contains it"),
    ],
)
def test_options_that_a_rival_refuses(name: str, pairs: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss(VESPO | {"actor.policy_loss_type": name, "vespo.loss_options": pairs})


def test_options_of_a_users_own_loss_take_the_type_of_their_defaults(tmp_path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "def plain(inputs, scale, *, power=2, soft=False, mode='a', anchor='x', **others):\n"
        "    return scale * inputs.log_probs.mean(), {}\n"
    )
    pairs = ["scale=0.5", "power=3", "soft=true", "mode=7", "anchor=y", "word=b", "number=8"]
    flags = VESPO | {"actor.policy_loss_type": f"{own}:plain", "vespo.loss_options": pairs}
    assert build_loss(flags).options == {
        **{"scale": 0.5, "power": 3, "soft": True, "mode": "7", "anchor": "y"},
        **{"word": "b", "number": 8.0},
    }
    with pytest.raises(ValueError, match="soft=perhaps: 'perhaps' is neither true nor false"):
        build_loss(flags | {"vespo.loss_options": ["scale=1", "soft=perhaps"]})
    with pytest.raises(ValueError, match=r"power=2\.5: expected a whole number, such as 2"):
        build_loss(flags | {"vespo.loss_options": ["scale=1", "power=2.5"]})
    with pytest.raises(ValueError, match="missing a required argument: 'scale'"):
        build_loss(flags | {"vespo.loss_options": []})


def test_ablations_reach_vespo() -> None:
    loss = build_loss(VESPO | {"vespo.length_normalisation": "sqrt", "vespo.anchor": "old"})
    assert loss.options["length_normalisation"] == "sqrt"
    assert loss.reads_old_log_probs
    assert build_loss(VESPO | {"vespo.shape": "pessimistic"}).options["shape"] == "pessimistic"


def test_a_sample_whose_rollout_log_probs_are_not_finite_is_dropped_and_counted() -> None:
    whole, broken = micro_batch(0), micro_batch(0)
    broken["rollout_log_probs"] = broken["rollout_log_probs"].clone()
    broken["rollout_log_probs"][1, 2] = torch.nan
    whole["action_mask"] = whole["action_mask"].clone()
    whole["action_mask"][1] = 0
    total = {"dp_size": 1, "batch_num_tokens": torch.tensor(12.0), "global_batch_size": None}
    losses = []
    for batch in (whole, broken):
        adapter = PolicyLossAdapter(build_loss(VESPO))
        loss, *_ = adapter(**batch, **total)
        losses.append(loss)
    assert losses[0] == losses[1]
    assert adapter.drain()["vespo/num_dropped"] == 1


def test_a_micro_batch_without_an_action_token_has_no_say_in_any_mean() -> None:
    """Filled up with what does not count, a short batch has such micro-batches."""
    full = micro_batch(0)
    full["log_probs"] = (full["rollout_log_probs"] + 1.0).requires_grad_()  # all of it is clipped
    empty = micro_batch(1)
    empty["action_mask"] = torch.zeros_like(empty["action_mask"])
    drained = []
    for batches in ([full], [full, empty], [empty]):
        adapter = PolicyLossAdapter(get_policy_loss("cispo", weight_high=1.0))
        for batch in batches:
            call(adapter, batch)
        drained.append(adapter.drain())
    assert drained[0]["cispo/clip_ratio"] == 1.0
    assert drained[1] == pytest.approx(drained[0], nan_ok=True)
    assert math.isnan(drained[2]["cispo/clip_ratio"])


def test_what_was_there_before_the_batch_is_told_from_what_its_updates_added() -> None:
    adapter = PolicyLossAdapter(build_loss(VESPO))
    sizes = []
    for update in range(3):
        batch = micro_batch(update)
        call(adapter, batch)
        adapter.end_update()
        log_w = ((batch["log_probs"] - batch["rollout_log_probs"]) * batch["action_mask"]).sum(-1)
        sizes.append(log_w.abs().mean().item())
    metrics = adapter.drain()
    assert metrics["vespo/log_w_abs_mean_before"] == pytest.approx(sizes[0], rel=1e-5)
    drift = sum(sizes) / 3 - sizes[0]
    assert metrics["vespo/log_w_abs_mean_drift"] == pytest.approx(drift, abs=1e-6)


def test_engine_mismatch_at_lag_0_is_warned_of_and_lag_is_not(caplog) -> None:
    batch = micro_batch(0)
    batch["log_probs"] = (batch["rollout_log_probs"] + 0.5).requires_grad_()
    for lag, warnings in ((1.0, 0), (0.0, 1)):
        adapter = PolicyLossAdapter(build_loss(VESPO))
        adapter.note(lag=torch.full((len(batch["log_probs"]),), lag))
        call(adapter, batch)
        adapter.drain()
        assert len(caplog.records) == warnings
    assert "the engine and the trainer disagree" in caplog.text
    assert "--vespo.anchor old" in caplog.text


def test_the_mismatch_warning_says_what_it_costs(caplog) -> None:
    log_w = torch.tensor([0.0, 2.0, -2.0, 5.0])  # the last one has a lag
    ones = torch.ones(4, 1)
    batch = {
        "log_probs": (log_w[:, None] - 3).requires_grad_(),
        "old_log_probs": log_w[:, None] - 6,
        "rollout_log_probs": -3 * ones,
        "advantages": torch.tensor([[1.0], [1.0], [-1.0], [1.0]]),
        "action_mask": ones,
    }
    for anchor in ("rollout", "old"):
        adapter = PolicyLossAdapter(get_policy_loss("vespo", anchor=anchor))
        adapter.note(lag=torch.tensor([0.0, 0.0, 0.0, 1.0]))
        call(adapter, batch)
        adapter.drain()
    engine, own = (record.message for record in caplog.records)
    good = (1 + math.exp(2 * 2 + 3 * (1 - math.exp(2)))) / 2
    bad = math.exp(3 * -2 + 2 * (1 - math.exp(-2)))
    assert "mean |log W| is 1.33 on samples at lag 0, with variance 2.67" in engine
    assert f"is {good:.2f} where A >= 0 and {bad:.2f} where A < 0" in engine
    assert "own two passes" in own


def test_noted_lags_tell_the_weights_apart_by_age() -> None:
    """W by lag: 2 at 0, 1/4 at 1, 1 and 3 at 2 and 3, 5 at 6; three micro-batches."""
    adapter = PolicyLossAdapter(build_loss(VESPO))
    for lags, weights in (([0, 2], [2.0, 1.0]), ([1, 3], [0.25, 3.0]), ([6], [5.0])):
        log_w = torch.tensor(weights).log()[:, None]
        ones = torch.ones_like(log_w)
        batch = {
            "log_probs": (log_w - 3).requires_grad_(),
            "old_log_probs": -3 * ones,
            "rollout_log_probs": -3 * ones,
            "advantages": ones,
            "action_mask": ones,
        }
        adapter.note(lag=torch.tensor(lags))
        call(adapter, batch)
    metrics = adapter.drain()
    expected = {
        "lag_0/num_samples": 1,
        "lag_0/log_w_mean": math.log(2),
        "lag_0/ess_ratio": 1.0,
        "lag_0/phi_mean": 2**2 * math.exp(3 * (1 - 2)),
        "lag_0/phi_small_share": 0.0,
        "lag_1/num_samples": 1,
        "lag_1/log_w_abs_mean": math.log(4),
        "lag_2_3/num_samples": 2,
        "lag_2_3/log_w_mean": math.log(3) / 2,
        "lag_2_3/ess_ratio": (1 + 3) ** 2 / (1 + 9) / 2,
        "lag_2_3/phi_mean": (1 + 9 * math.exp(-6)) / 2,
        "lag_4_7/num_samples": 1,
        "lag_4_7/phi_small_share": 1.0,
    }
    for name, value in expected.items():
        assert metrics[f"vespo/{name}"] == pytest.approx(value, abs=1e-5), name
    ranges = {name.split("/")[1] for name in metrics if name.startswith("vespo/lag_")}
    assert ranges == {"lag_0", "lag_1", "lag_2_3", "lag_4_7"}


@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
def test_no_call_of_the_loss_waits_for_the_device(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = PolicyLossAdapter(get_policy_loss(name))
    batch = micro_batch(0)

    def refuse(self: torch.Tensor, *args: object) -> None:
        raise AssertionError("a wait for the device in a micro-batch")

    for name in ("item", "tolist", "cpu", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    call(adapter, batch)


@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
def test_with_turns_noted_each_is_a_sequence(name: str) -> None:
    """Two updates of two micro-batches; the losses' statistics and step scales are of turns, too.
    Sample 1 has no rollout log-prob somewhere: it is left out, and no turn of it counts."""
    adapter, own = PolicyLossAdapter(get_policy_loss(name)), get_policy_loss(name)
    turns = torch.tensor([[1, 1, 2, 2, 0], [1, 2, 2, 2, 0], [1, 1, 1, 1, 0]])
    statistics = None
    for seeds in ((0, 1), (2, 3)):
        parts = []
        for seed in seeds:
            batch = micro_batch(seed)
            batch["rollout_log_probs"][1, 2] = math.nan
            adapter.note(turns=turns, lag=torch.tensor([0.0, 5.0, 2.0]))
            loss, *_ = call(adapter, batch)
            batch["action_mask"][1] = 0
            rows, episode = split_turns(LossInputs(**batch), turns)
            assert episode.tolist() == [0, 0, 1, 2]
            if own.statistics is not None:
                parts.append(own.statistics(rows))
                before = torch.zeros_like(parts[0]) if statistics is None else statistics
                rows = dataclasses.replace(rows, statistics=before)
            assert loss == own(rows)[0]
        adapter.step_scale()
        adapter.end_update()
        statistics = sum(parts) if parts else None
    metrics = adapter.drain()
    signs = [metrics[f"{name}/num_{sign}"] for sign in ("positive", "negative", "zero")]
    assert sum(signs) == 4 * 3
    assert metrics[f"{name}/num_dropped"] == 4
    assert metrics[f"{name}/lag_0/num_samples"] == 4 * 2
    assert metrics[f"{name}/lag_2_3/num_samples"] == 4
    assert len(adapter.by_update()) == 2


def test_the_turns_of_one_call_are_not_those_of_the_next() -> None:
    adapter, batch = PolicyLossAdapter(build_loss(VESPO)), micro_batch(0)
    whole, *_ = call(adapter, batch)
    adapter.note(turns=torch.tensor([[1, 1, 2, 2, 0]] * 3))
    by_turn, *_ = call(adapter, batch)
    after, *_ = call(adapter, batch)
    assert after == whole != by_turn


def test_a_teacher_takes_the_place_of_the_reward_with_the_present_log_probs() -> None:
    batch = micro_batch(0)
    teacher = -torch.rand(3, 5)
    adapter = PolicyLossAdapter(build_loss(VESPO), distillation=DistillOptions("a model", 0.75))
    adapter.note(teacher=lambda: (None, teacher), lag=torch.zeros(3))
    loss, *_ = call(adapter, batch)
    advantages = 0.25 * batch["advantages"] + 0.75 * (teacher - batch["log_probs"].detach())
    expected, _ = get_policy_loss("vespo")(LossInputs(**batch | {"advantages": advantages}))
    assert loss == expected
    kept = batch["action_mask"].bool()
    adapter.end_update()
    gap = (batch["log_probs"].detach() - teacher)[kept].mean()
    assert adapter.drain()["vespo/teacher_kl"] == pytest.approx(gap.item(), rel=1e-5)


def test_where_no_model_teaches_it_is_the_policy_that_sampled() -> None:
    batch = micro_batch(1)
    adapter = PolicyLossAdapter(build_loss(VESPO), distillation=DistillOptions("recorded"))
    loss, *_ = call(adapter, batch)
    advantages = batch["rollout_log_probs"] - batch["log_probs"].detach()
    expected, _ = get_policy_loss("vespo")(LossInputs(**batch | {"advantages": advantages}))
    assert loss == expected


def test_a_teacher_of_one_call_is_not_that_of_the_next() -> None:
    adapter = PolicyLossAdapter(build_loss(VESPO), distillation=DistillOptions("recorded"))
    adapter.note(teacher=lambda: (None, torch.zeros(3, 5)))
    first, *_ = call(adapter, micro_batch(1))
    second, *_ = call(adapter, micro_batch(1))
    assert first != second


def test_the_whole_distribution_takes_the_place_of_the_sampled_token() -> None:
    """The gradient is that of phi (coef KL) and of the reward's share, and of nothing sampled."""
    batch, coef = micro_batch(0), 0.75
    teacher = -torch.rand(3, 5)
    slope = torch.randn(3, 5)
    adapter = PolicyLossAdapter(build_loss(VESPO), distillation=DistillOptions("a model", coef))

    def told() -> tuple[torch.Tensor, torch.Tensor]:
        return slope * batch["log_probs"] + 2.0, teacher  # some KL that hangs on the policy

    adapter.note(teacher=told)
    loss, *_ = call(adapter, batch)
    (gradient,) = torch.autograd.grad(loss, batch["log_probs"])
    sampled = 0.25 * batch["advantages"] + coef * (teacher - batch["log_probs"].detach())
    _, metrics = get_policy_loss("vespo")(LossInputs(**batch | {"advantages": sampled}))
    expected = coef * slope - 0.25 * batch["advantages"]
    mask = batch["action_mask"]
    torch.testing.assert_close(
        gradient, metrics["phi"][:, None] * expected * mask / mask.sum(), rtol=1e-4, atol=1e-6
    )
    adapter.end_update()
    kl = (slope * batch["log_probs"].detach() + 2.0)[mask.bool()].mean()
    assert adapter.drain()["vespo/teacher_kl"] == pytest.approx(kl.item(), rel=1e-5)
