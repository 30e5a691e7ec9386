"""A cell on the full stack: the same policy, the same problems, flags that OpenRLHF takes."""

import math
from dataclasses import replace

import pytest
import torch

from vespo_openrlhf.check.resolve import resolve
from vespo_openrlhf.quickstart.job import to_arguments
from vespo_openrlhf.study.analysis import Analysis
from vespo_openrlhf.study.cells import Cell, LossSetting, Recipe
from vespo_openrlhf.study.checkpoint import build_tokenizer, policy_model, save_checkpoint
from vespo_openrlhf.study.full_stack import check_cells, flags, full_stack_store
from vespo_openrlhf.study.presets import PESSIMISTIC, PUBLISHED, Grid, Study
from vespo_openrlhf.study.store import Store
from vespo_openrlhf.study.tables import agreement_table
from vespo_openrlhf.study.tasks.addition import MAX_TOKENS, PROMPT_TOKENS, Addition, encode
from vespo_openrlhf.study.warm_start import warm_start

VESPO = PUBLISHED["VESPO"]
TAPERED = {"c1_pos": -1.0, "c2_pos": 0.0, "c1_neg": 1.0, "c2_neg": 0.0}
RECIPE = Recipe(
    updates=8,
    groups_per_update=2,
    group_size=4,
    evaluate_every=2,
    evaluation_problems=16,
    last_evaluations=2,
    warm_steps=4,
    warm_batch=8,
)


@pytest.fixture
def start(tmp_path):
    return warm_start(1, RECIPE, tmp_path / "warm_starts")


def test_transformers_computes_the_same_log_probs(start) -> None:
    decoder = Addition().policy(RECIPE.width, RECIPE.layers, RECIPE.heads)
    decoder.load_state_dict(start.weights)
    samples = decoder.sample(
        Addition().encode_prompts(start.held_out), torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        logits = policy_model(start.weights, RECIPE)(input_ids=samples.ids).logits
    log_p = logits[:, PROMPT_TOKENS - 1 : -1].log_softmax(-1)
    theirs = log_p.gather(-1, samples.responses[..., None])[..., 0]
    torch.testing.assert_close(
        theirs[samples.mask], samples.log_probs[samples.mask], atol=1e-5, rtol=0
    )


def test_the_tokenizer_splits_as_the_task_does(start, tmp_path) -> None:
    save_checkpoint(start.weights, RECIPE, tmp_path / "model")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "347+586=7+6=13\n4+8+1=13\n\\boxed{933}"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id == build_tokenizer().eos_token_id
    assert tokenizer.model_max_length == MAX_TOKENS


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (VESPO, {"actor.policy_loss_type": "vespo"}),
        (
            LossSetting("wide", "gspo", {"clip_low": 0.03, "clip_high": 0.04}),
            {"actor.policy_loss_type": "gspo", "actor.eps_clip_low_high": [0.03, 0.04]},
        ),
        (
            LossSetting("kernel", "vespo", {"c1_pos": 1.0, "length_normalisation": "full"}),
            {"vespo.c1_pos": 1.0, "vespo.length_normalisation": "full"},
        ),
        (
            LossSetting("soft", "sapo", {"tau_pos": 3.0}),
            {"vespo.loss_options": ["tau_pos=3.0"]},
        ),
        (PESSIMISTIC, {"actor.policy_loss_type": "vespo", "vespo.shape": "pessimistic"}),
        (
            LossSetting("taper", "vespo", TAPERED | {"shape": "pessimistic"}),
            {f"vespo.{name}": value for name, value in TAPERED.items()},
        ),
        (
            LossSetting("open", "ppo", {"dual_clip": math.inf, "loss_agg_mode": "token-mean"}),
            {"actor.dual_clip": math.inf, "actor.loss_agg_mode": "token-mean"},
        ),
    ],
)
def test_the_flags_say_what_the_cell_says(loss, expected, tmp_path) -> None:
    cell = Cell(loss, updates_per_batch=4, seed=3, learning_rate=6e-4)
    parsed = resolve(to_arguments(flags(cell, RECIPE, tmp_path))).flags
    for name, value in expected.items():
        assert parsed[name] == value
    assert parsed["rollout.batch_size"] == 8
    assert parsed["train.batch_size"] == 8
    assert parsed["actor.adam.lr"] == 6e-4
    assert parsed["train.seed"] == 3
    assert not parsed["train.async_enable"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell(VESPO, 4, 1, lag=4), "without extra lag"),
        (Cell(VESPO, 4, 1, mu_noise=0.1), "without extra lag"),
        (Cell(VESPO, 3, 1), "no whole number of rollout batches"),
        (Cell(LossSetting("half", "ppo", {"clip_low": 0.1}), 4, 1), "both clip_low and clip_high"),
    ],
)
def test_what_the_full_stack_cannot_run_is_refused(cell, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_cells([cell], [cell], RECIPE)


def test_a_cell_without_a_counterpart_is_refused() -> None:
    with pytest.raises(ValueError, match="runs no VESPO at N = 4"):
        check_cells([Cell(VESPO, 4, 1)], [Cell(VESPO, 2, 1)], RECIPE)


def test_a_full_stack_run_is_put_beside_the_light_trainers(tmp_path) -> None:
    grid = Grid((VESPO,), (4,), (1, 2))
    study = Study("s", "?", (grid,), full_stack=replace(grid, seeds=(1,)), recipe=RECIPE)
    store = Store(tmp_path, RECIPE)
    for cell, level in zip(study.cells(), (0.5, 0.7), strict=True):
        evaluations = [[update, level if update > 4 else 0.0] for update in (0, 2, 4, 6, 8)]
        store.save(cell, _result(evaluations))
    (cell,) = study.full_stack.cells()
    full = full_stack_store(store)
    assert Analysis(study, store).agreement() == []
    full.save(cell, {"evaluations": [[4, 0.0], [8, 0.9]]})
    (row,) = Analysis(study, store).agreement()
    assert row["updates"] == [8]
    assert (row["light_same_seed"], row["light"], row["seeds"]) == (0.5, pytest.approx(0.6), 2)
    assert row["full_stack"] == 0.9
    assert agreement_table([row])[1] == [["VESPO", "4", "1", "8", "90.0", "50.0", "60.0 (2)"]]


def _result(evaluations):
    return {
        "evaluations": evaluations,
        "updates": {},
        "lag": {"max": 3, "mean": 1.5},
        "skipped": 0,
        "seconds": 1.0,
    }
