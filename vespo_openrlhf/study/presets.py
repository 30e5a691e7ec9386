"""The grids: which losses, how stale, how often. Standard library only.

Every loss of a grid runs under the same conditions and on the same seeds. What a tuned setting is
chosen on (`Tuning.seeds`) is never what it is reported on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from vespo_openrlhf.study.cells import BASE_RATE, Cell, LossSetting, Recipe
from vespo_openrlhf.study.tuning import Family, Final, Tuning

_VARIANT = "vespo_openrlhf.study.variants:"


def _of(*settings: LossSetting) -> Mapping[str, LossSetting]:
    return MappingProxyType({setting.label: setting for setting in settings})


def _kernel(label: str, c1_pos: float, c2_pos: float, c1_neg: float, c2_neg: float) -> LossSetting:
    options = {"c1_pos": c1_pos, "c2_pos": c2_pos, "c1_neg": c1_neg, "c2_neg": c2_neg}
    return LossSetting(label, "vespo", options)


PESSIMISTIC = LossSetting("pessimistic", "vespo", {"shape": "pessimistic"})
TAPER = LossSetting("taper", _VARIANT + "taper")
WIDE_GSPO = LossSetting("GSPO, wide", "gspo", {"clip_low": 0.03, "clip_high": 0.04})

#: The losses by their defaults, which are what their papers set. TOPR is the canonical one, which
#: the VESPO paper divides by the length. decoupled_ppo is PPO with a narrower clip wherever the
#: trainer recomputes with the weights that sampled, as here at lag 0: it is left to --loss.
PUBLISHED = _of(
    LossSetting("VESPO", "vespo"),
    LossSetting("GRPO", "ppo"),
    LossSetting("GSPO", "gspo"),
    LossSetting("SAPO", "sapo"),
    LossSetting("REINFORCE", "reinforce"),
    LossSetting("CISPO", "cispo"),
    LossSetting("TOPR", "topr"),
    LossSetting("GMPO", "gmpo"),
    LossSetting("TIS", "tis"),
)
#: Of later papers, the same way.
LATER = _of(
    LossSetting("DPPO", "dppo"),
    LossSetting("M2PO", "m2po"),
    LossSetting("BAPO", "bapo"),
    LossSetting("VCPO", "vcpo"),
    LossSetting("ASPO", "aspo"),
    LossSetting("MinPRO", "minpro"),
    LossSetting("off-policy mask", "off_policy_mask"),
    LossSetting("sequence mask", "seq_mis"),
    LossSetting("geometric mask", "geo_mask"),
)

#: What may be called by its label alone.
KNOWN = {**PUBLISHED, **LATER, PESSIMISTIC.label: PESSIMISTIC, TAPER.label: TAPER}

#: On-policy, W = 1 and all token-mean losses have one gradient, so one of them is the control.
CONTROL = LossSetting("on-policy", "reinforce")


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _family(
    setting: LossSetting, what: str, factor: float, steps: range, **published: float
) -> Family:
    """A loss of which some options are scaled together, by a factor a step."""
    scales = {step: factor**step for step in steps}
    return Family(
        setting.label,
        {
            step: replace(
                setting,
                label=f"{setting.label}, {what} x {_rounded(scale):g}" if step else setting.label,
                options={
                    **setting.options,
                    **{k: _rounded(v * scale) for k, v in published.items()},
                },
            )
            for step, scale in scales.items()
        },
    )


_COEFFICIENTS = {"c1_pos": 2.0, "c2_pos": 3.0, "c1_neg": 3.0, "c2_neg": 2.0}
#: What is tuned, beside the learning rate: a kernel's sharpness, a clip's width, a temperature;
#: of TOPR its normalisation by length. Clips have an end above: clip_low is at most 1.
FAMILIES = (
    _family(PUBLISHED["VESPO"], "kernel", 2, range(-6, 7), **_COEFFICIENTS),
    _family(PESSIMISTIC, "kernel", 2, range(-6, 7), **_COEFFICIENTS),
    _family(TAPER, "power", 2, range(-6, 7), power=1.0),
    _family(PUBLISHED["GRPO"], "clip", 2, range(-6, 3), clip_low=0.2, clip_high=0.28),
    _family(PUBLISHED["GSPO"], "clip", 10, range(-4, 4), clip_low=3e-4, clip_high=4e-4),
    _family(PUBLISHED["SAPO"], "tau", 3, range(-6, 7), tau_pos=1.0, tau_neg=1.05),
    Family(
        "TOPR",
        {
            0: PUBLISHED["TOPR"],
            1: LossSetting("TOPR, log W / sqrt(T)", "topr", {"length_normalisation": "sqrt"}),
            2: LossSetting("TOPR, log W / T", "topr", {"length_normalisation": "full"}),
        },
        ordered=False,
    ),
)


@dataclass(frozen=True)
class Grid:
    """Every combination of its axes. A learning rate of BASE_RATE stands for the task's own, and
    others are to it as they are to that."""

    losses: tuple[LossSetting, ...]
    updates_per_batch: tuple[int, ...]
    seeds: tuple[int, ...]
    lags: tuple[int, ...] = (0,)
    learning_rates: tuple[float, ...] = (BASE_RATE,)
    mu_noises: tuple[float, ...] = (0.0,)
    engine_noises: tuple[float, ...] = (0.0,)
    sampler_dtypes: tuple[str, ...] = ("float32",)

    def at_rate(self, learning_rate: float) -> Grid:
        """The same for a task of this learning rate."""
        rates = (learning_rate / BASE_RATE * rate for rate in self.learning_rates)
        return replace(self, learning_rates=tuple(_rounded(rate) for rate in rates))

    def cells(self) -> list[Cell]:
        """Seed by seed, so that a study that is cut short compares all its losses."""
        axes = (
            self.seeds,
            self.learning_rates,
            self.lags,
            self.mu_noises,
            self.engine_noises,
            self.sampler_dtypes,
            self.updates_per_batch,
            self.losses,
        )
        return [
            Cell(loss, n, seed, lag, learning_rate, mu_noise, engine_noise, dtype)
            for seed, learning_rate, lag, mu_noise, engine_noise, dtype, n, loss in (
                itertools.product(*axes)
            )
        ]


@dataclass(frozen=True)
class Study:
    """What one command runs.

    Attributes:
        name: of the preset.
        text: what it asks, for the page.
        grids: run in this order.
        tuning: run after them, if any.
        full_stack: what `--backend openrlhf` runs on the full stack as well.
        recipe: of every run.
    """

    name: str
    text: str
    grids: tuple[Grid, ...]
    tuning: Tuning | None = None
    full_stack: Grid = field(
        default_factory=lambda: Grid(_settings("VESPO", "GRPO"), (8, 64), (1,))
    )
    recipe: Recipe = field(default_factory=Recipe)

    def at_rate(self, learning_rate: float) -> Study:
        """The same for a task of this learning rate."""
        return replace(
            self,
            grids=tuple(grid.at_rate(learning_rate) for grid in self.grids),
            tuning=self.tuning and replace(self.tuning, learning_rate=learning_rate),
            full_stack=self.full_stack.at_rate(learning_rate),
        )

    def all_cells(self, final: Final) -> list[Cell]:
        """The cells of its grids, then those that its tuning asks for as far as it has come.

        Args:
            final: see `Tuning.progress`.
        """
        if self.tuning is None:
            return self.cells()
        progress = self.tuning.progress(final)
        every = [*self.cells(), *progress.cells, *self.tuning.report(progress.chosen)]
        return list({cell.key(self.recipe): cell for cell in every}.values())

    def settings(self) -> list[LossSetting]:
        """Every loss that it may train with."""
        grids = (loss for grid in self.grids for loss in grid.losses)
        return [*grids, *(self.tuning.settings() if self.tuning else ())]

    def cells(self) -> list[Cell]:
        """The cells of its grids, each once, seed by seed: cut short, it compares losses."""
        cells = [cell for grid in self.grids for cell in grid.cells()]
        unique = {cell.key(self.recipe): cell for cell in cells}
        return sorted(unique.values(), key=lambda cell: cell.seed)


def _settings(*labels: str) -> tuple[LossSetting, ...]:
    return tuple(PUBLISHED[label] for label in labels)


def _with_control(grid: Grid) -> tuple[Grid, Grid]:
    control = Grid((CONTROL,), (1,), grid.seeds, learning_rates=grid.learning_rates)
    return control, grid


_QUICK = _settings("VESPO", "GRPO", "SAPO", "REINFORCE")
_SEEDS = (1, 2, 3, 4, 5, 6, 7, 8)
_VESPO = PUBLISHED["VESPO"]
#: Of docs/study/protocol.md: not looked at before it.
_FRESH_SEEDS, _REPORT_SEEDS = tuple(range(1001, 1065)), tuple(range(2001, 2065))
_PRIMARY = (
    _VESPO,
    replace(PESSIMISTIC, name=_VARIANT + "pessimistic", options={}),  # as it ran: no option yet
    TAPER,
    *_settings("TOPR", "GSPO"),
    WIDE_GSPO,
    *_settings("GRPO", "SAPO"),
)
_GRID = (*PUBLISHED.values(), PESSIMISTIC, TAPER, WIDE_GSPO, *LATER.values())
_MISMATCHED = (_VESPO, PESSIMISTIC, WIDE_GSPO, *_settings("GRPO", "GSPO", "SAPO", "TOPR"))
#: (c1, c2) without tuning, each beside the tuned kernel of its shape.
MEASURED = (
    LossSetting("VESPO, kernel by ESS", _VARIANT + "measured_kernel"),
    LossSetting(
        "pessimistic, kernel by ESS", _VARIANT + "measured_kernel", {"shape": "pessimistic"}
    ),
)
_VARIANTS = (
    LossSetting("tempered to ESS 0.5", _VARIANT + "tempered"),
    *MEASURED,
    LossSetting("one-sided where A >= 0", _VARIANT + "one_sided"),
    PESSIMISTIC,
    TAPER,
)


#: REINFORCE has no W, and taper no option for its denominator.
_WITHOUT_ANCHOR = ("REINFORCE", "taper")


def _anchored(losses: tuple[LossSetting, ...]) -> tuple[LossSetting, ...]:
    """The same on the trainer's own log-probs, the usual cure of a mismatch, where they can be."""
    return tuple(
        replace(loss, label=f"{loss.label}, old", options=dict(loss.options) | {"anchor": "old"})
        for loss in losses
        if loss.label not in _WITHOUT_ANCHOR
    )


def _mismatches(losses: tuple[LossSetting, ...]) -> tuple[Grid, ...]:
    """Losses without a mismatch, and under each kind of it on both anchors."""
    return (
        *_with_control(Grid(losses, (8,), _SEEDS)),
        *(
            Grid(some, (8,), _SEEDS, **noises)
            for some in (losses, _anchored(losses))
            for noises in (
                {"engine_noises": (0.05, 0.2)},
                {"mu_noises": (0.05, 0.2)},
                {"sampler_dtypes": ("bfloat16",)},
            )
        ),
    )


PRESETS: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "quick",
            "Does staleness bring down REINFORCE, SAPO and GRPO, and leave VESPO up?",
            (*_with_control(Grid(_QUICK, (64,), _SEEDS)), Grid(_QUICK, (8,), (1, 2, 3))),
        ),
        Study(
            "primary",
            "Published VESPO and two candidates against their rivals, on 64 fresh seeds.",
            _with_control(Grid(_PRIMARY, (64,), _FRESH_SEEDS)),
            full_stack=Grid(
                (_VESPO, PESSIMISTIC, *_settings("TOPR", "GRPO")), (64,), _FRESH_SEEDS[:3]
            ),
        ),
        Study(
            "tuned",
            "Every loss tuned with the same budget, learning rate included, then on fresh seeds.",
            (),
            Tuning(FAMILIES, 64, tuple(range(101, 109)), _REPORT_SEEDS, untuned=MEASURED),
        ),
        Study(
            "paper",
            "The grid of the paper, and more: every loss at each N, with lag, at two rates.",
            (
                *_with_control(Grid(_GRID, (4, 8, 16, 32, 64), _SEEDS)),
                Grid(_GRID, (8, 64), _SEEDS, lags=(64,)),
                *_with_control(Grid(_GRID, (8, 64), _SEEDS, learning_rates=(2 * BASE_RATE,))),
            ),
        ),
        Study(
            "ablation",
            "Is it the missing length normalisation, and is it the asymmetric kernel?",
            _with_control(
                Grid(
                    (
                        _VESPO,
                        LossSetting("log W / sqrt(T)", "vespo", {"length_normalisation": "sqrt"}),
                        LossSetting("log W / T", "vespo", {"length_normalisation": "full"}),
                        _kernel("(2, 3) for both signs", 2, 3, 2, 3),
                        _kernel("(3, 2) for both signs", 3, 2, 3, 2),
                    ),
                    (8, 64),
                    _SEEDS,
                )
            ),
        ),
        Study(
            "mismatch",
            "What if the engine's log-probs are not the trainer's at the same weights?",
            _mismatches(_MISMATCHED),
        ),
        Study(
            "mismatch-others",
            "The same for the other losses of the grid.",
            _mismatches(tuple(loss for loss in _GRID if loss not in _MISMATCHED)),
        ),
        Study(
            "variants",
            "Does VESPO get better with a weight or a kernel that is set from the data?",
            _with_control(Grid((_VESPO, *_VARIANTS), (8, 64), _SEEDS)),
        ),
        Study(
            "kernel",
            "How much do c1 and c2 matter?",
            _with_control(
                Grid(
                    tuple(
                        _kernel(f"({c1:g}, {c2:g}) ({c1:g}, {c2:g})", c1, c2, c1, c2)
                        for c1, c2 in itertools.product((1, 2, 3), (1, 2, 3))
                    ),
                    (64,),
                    _SEEDS,
                )
            ),
        ),
        Study(
            "gpu",
            "The same with a decoder of 13 million parameters and some 400 tokens a response.",
            # The control last: it samples 256 times where the others do 4, and takes their time.
            _with_control(
                Grid(
                    (_VESPO, PESSIMISTIC, PUBLISHED["TOPR"], WIDE_GSPO, *_settings("GRPO", "SAPO")),
                    (64,),
                    (1, 2, 3, 4),
                )
            )[::-1],
            recipe=Recipe(task="columns"),
        ),
    )
}
