"""The budget of a tuning: as much for each loss, and more only beyond an edge that wins."""

from collections.abc import Callable

import pytest

from vespo_openrlhf.losses import get_policy_loss
from vespo_openrlhf.losses.registry import option_defaults
from vespo_openrlhf.study.cells import Cell, LossSetting
from vespo_openrlhf.study.presets import FAMILIES, PRESETS
from vespo_openrlhf.study.tuning import Family, Tuning

STEPS = {step: LossSetting(f"a x {step}", "vespo", {"c1_pos": 2.0 + step}) for step in range(-2, 6)}
UNTUNED = LossSetting("rule", "topr")


def tuning(*families: Family) -> Tuning:
    return Tuning(families, 64, (101, 102), (1, 2, 3), 1e-3, (UNTUNED,))


def peak_at(step: int, rate: float) -> Callable[[Cell], float]:
    """Accuracy falls with the distance from a setting and a learning rate."""

    def final(cell: Cell) -> float:
        distance = abs(cell.loss.options["c1_pos"] - 2 - step) + abs(cell.learning_rate / rate - 1)
        return 1 - distance / 100 - cell.seed * 1e-6

    return final


def settle(tuning: Tuning, final: Callable[[Cell], float]) -> tuple[set[str], int]:
    """Run what is asked for until nothing is; the cells, and in how many rounds."""
    run: dict[str, float] = {}

    def known(cell: Cell) -> float | None:
        return run.get(repr(cell))

    for rounds in range(1, 20):
        cells = tuning.progress(known).cells
        new = [cell for cell in cells if repr(cell) not in run]
        if not new:
            return {repr(cell) for cell in cells}, rounds - 1
        run |= {repr(cell): final(cell) for cell in new}
    raise AssertionError("it does not come to an end")


def test_nine_settings_where_the_best_is_in_the_middle() -> None:
    asked, rounds = settle(tuning(Family("a", STEPS)), peak_at(0, 1e-3))
    assert (len(asked), rounds) == (9 * 2, 1)
    choice = tuning(Family("a", STEPS)).progress(peak_at(0, 1e-3)).chosen["a"]
    assert (choice.setting.label, choice.learning_rate, choice.tried) == ("a x 0", 1e-3, 9)
    assert choice.score == pytest.approx(1, abs=1e-3)


def test_a_winner_at_the_edge_has_a_row_more_tried_beyond_it() -> None:
    asked, rounds = settle(tuning(Family("a", STEPS)), peak_at(3, 1e-3))
    # Steps -1 to 1, then 2, 3 and 4: the best is inside at last.
    assert (len(asked), rounds) == (6 * 3 * 2, 4)
    asked, _ = settle(tuning(Family("a", STEPS)), peak_at(0, 9e-3))
    assert len(asked) == 3 * 5 * 2
    assert tuning(Family("a", STEPS)).progress(peak_at(0, 9e-3)).chosen["a"].learning_rate == 9e-3


def test_both_sides_of_a_corner_grow_at_once() -> None:
    asked, rounds = settle(tuning(Family("a", STEPS)), peak_at(2, 9e-3))
    # Steps -1 to 3 and rates up to three steps above the middle, the corner among them.
    assert (len(asked), rounds) == (5 * 5 * 2, 3)


def test_a_choice_at_the_end_of_what_there_is_says_so() -> None:
    few = {step: STEPS[step] for step in (0, 1, 2)}
    for ordered in (True, False):
        one = tuning(Family("a", few, ordered))
        asked, rounds = settle(one, peak_at(5, 1e-3))
        assert (len(asked), rounds) == (9 * 2, 1)
        assert one.progress(peak_at(5, 1e-3)).chosen["a"].at_edge == ordered
    assert not tuning(Family("a", STEPS)).progress(peak_at(0, 1e-3)).chosen["a"].at_edge
    ever_faster = tuning(Family("a", STEPS)).progress(lambda cell: cell.learning_rate).chosen["a"]
    assert (ever_faster.at_edge, ever_faster.learning_rate) == (True, 0.729)


def test_the_study_tunes_what_the_protocol_says() -> None:
    of_study = PRESETS["tuned"].tuning
    assert of_study is not None
    assert (of_study.seeds, of_study.report_seeds) == (
        tuple(range(101, 109)),
        tuple(range(2001, 2065)),
    )
    assert of_study.updates_per_batch == 64
    assert of_study.families == FAMILIES
    labels = [family.label for family in FAMILIES]
    assert labels == ["VESPO", "pessimistic", "taper", "GRPO", "GSPO", "SAPO", "TOPR"]
    assert [loss.label for loss in of_study.untuned] == [
        "VESPO, kernel by ESS",
        "pessimistic, kernel by ESS",
    ]
    first = of_study.progress(lambda _: None).cells
    assert len(first) == 7 * 9 * 8
    assert {cell.learning_rate for cell in first} == {1e-4, 3e-4, 9e-4}
    above = {family.label: family.settings[1].options for family in FAMILIES}
    assert above["VESPO"] == {"c1_pos": 4, "c2_pos": 6, "c1_neg": 6, "c2_neg": 4}
    assert above["pessimistic"] == above["VESPO"] | {"shape": "pessimistic"}
    assert above["GRPO"] == {"clip_low": 0.4, "clip_high": 0.56}
    assert above["GSPO"] == {"clip_low": 0.003, "clip_high": 0.004}
    assert above["SAPO"] == {"tau_pos": 3, "tau_neg": 3.15}
    assert above["taper"] == {"power": 2}
    assert above["TOPR"] == {"length_normalisation": "sqrt"}


def test_of_equals_the_one_nearest_to_what_is_published() -> None:
    choice = tuning(Family("a", STEPS)).progress(lambda _: 0.5).chosen["a"]
    assert (choice.setting.label, choice.learning_rate) == ("a x 0", 1e-3)


def test_the_report_waits_for_every_choice_and_is_on_other_seeds() -> None:
    two = tuning(Family("a", STEPS), Family("b", STEPS))

    def first_seed_only(cell: Cell) -> float | None:
        return 0.5 if cell.seed == 101 else None

    assert two.report(two.progress(first_seed_only).chosen) == []
    chosen = two.progress(peak_at(1, 1e-3)).chosen
    report = two.report(chosen)
    assert [cell.seed for cell in report] == [1] * 3 + [2] * 3 + [3] * 3
    assert [cell.loss.label for cell in report[:3]] == ["a x 1", "a x 1", "rule"]
    with pytest.raises(ValueError, match="seed 101 is both"):
        Tuning((), 64, (101, 102), (101,))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.label)
def test_every_setting_of_the_study_is_one_that_the_loss_takes(family: Family) -> None:
    assert len({setting.label for setting in family.settings.values()}) == len(family.settings)
    published = option_defaults(family.settings[0].name)
    for step, setting in family.settings.items():
        get_policy_loss(setting.name, **setting.options)
        changed = {name for name, value in setting.options.items() if value != published[name]}
        assert changed - {"shape"} if step else not changed - {"shape"}
