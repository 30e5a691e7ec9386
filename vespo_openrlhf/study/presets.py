"""The grids: which losses, how stale, how often. Standard library only.

Every loss of a grid runs under the same conditions and on the same seeds. What a tuned setting is
chosen on (`Tuning.seeds`) is never what it is reported on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vespo_openrlhf.study.cells import Cell, LossSetting, Recipe

#: SAPO and GRPO as the committed runs had them. The settings of the paper, the defaults by now, are
#: the mean over sequences for SAPO and a dual clip of 3 for GRPO; responses of this task are of
#: nearly one length, and the dual clip is for ratios above 3.
_TOKEN_MEAN = {"loss_agg_mode": "token-mean"}
_NO_DUAL_CLIP = {"dual_clip": math.inf}

#: Every loss as its paper sets it, but for the two above; TOPR is the canonical one, which the
#: VESPO paper divides by the length. decoupled_ppo is PPO with a narrower clip wherever the trainer
#: recomputes with the weights that sampled, as here at lag 0: it is left to --loss.
PUBLISHED: dict[str, LossSetting] = {
    setting.label: setting
    for setting in (
        LossSetting("VESPO", "vespo"),
        LossSetting("GRPO", "ppo", _NO_DUAL_CLIP),
        LossSetting("GSPO", "gspo"),
        LossSetting("SAPO", "sapo", _TOKEN_MEAN),
        LossSetting("REINFORCE", "reinforce"),
        LossSetting("CISPO", "cispo"),
        LossSetting("TOPR", "topr"),
        LossSetting("GMPO", "gmpo"),
        LossSetting("TIS", "tis"),
    )
}

#: On-policy, W = 1 and all token-mean losses have one gradient, so one of them is the control.
CONTROL = LossSetting("on-policy", "reinforce")


def _set(published: str, change: str, **options: Any) -> LossSetting:
    """A published setting with other options."""
    setting = PUBLISHED[published]
    return replace(setting, label=f"{published}, {change}", options=dict(setting.options) | options)


def _kernel(label: str, c1_pos: float, c2_pos: float, c1_neg: float, c2_neg: float) -> LossSetting:
    options = {"c1_pos": c1_pos, "c2_pos": c2_pos, "c1_neg": c1_neg, "c2_neg": c2_neg}
    return LossSetting(label, "vespo", options)


def _clip(published: str, low: float, high: float) -> LossSetting:
    return _set(published, f"clip {low:g}/{high:g}", clip_low=low, clip_high=high)


#: Three settings each, the published one among them; TOPR and REINFORCE have nothing to tune.
CANDIDATES: dict[str, tuple[LossSetting, ...]] = {
    "VESPO": (
        PUBLISHED["VESPO"],
        _kernel("VESPO, kernel wide (1, 1.5) (1.5, 1)", 1, 1.5, 1.5, 1),
        _kernel("VESPO, kernel narrow (4, 6) (6, 4)", 4, 6, 6, 4),
    ),
    "GRPO": (PUBLISHED["GRPO"], _clip("GRPO", 0.1, 0.14), _clip("GRPO", 0.4, 0.56)),
    "GSPO": (PUBLISHED["GSPO"], _clip("GSPO", 0.003, 0.004), _clip("GSPO", 0.03, 0.04)),
    "SAPO": (
        PUBLISHED["SAPO"],
        _set("SAPO", "tau 3/3.15", tau_pos=3.0, tau_neg=3.15),
        _set("SAPO", "tau 10/10.5", tau_pos=10.0, tau_neg=10.5),
    ),
    "CISPO": (
        PUBLISHED["CISPO"],
        _set("CISPO", "weight at most 2", weight_high=2.0),
        _set("CISPO", "weight at most 1.2", weight_high=1.2),
    ),
    "GMPO": (PUBLISHED["GMPO"], _clip("GMPO", 0.2, 0.2), _clip("GMPO", 0.8, 0.8)),
    "TIS": (
        PUBLISHED["TIS"],
        _set("TIS", "sequence weight at most 1", level="sequence", cap=1.0),
        _set("TIS", "sequence weight at most 5", level="sequence", cap=5.0),
    ),
}


@dataclass(frozen=True)
class Grid:
    """Every combination of its axes."""

    losses: tuple[LossSetting, ...]
    updates_per_batch: tuple[int, ...]
    seeds: tuple[int, ...]
    lags: tuple[int, ...] = (0,)
    learning_rates: tuple[float, ...] = (3e-4,)
    mu_noises: tuple[float, ...] = (0.0,)
    engine_noises: tuple[float, ...] = (0.0,)
    sampler_dtypes: tuple[str, ...] = ("float32",)

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
class Tuning:
    """Choose one of each family's settings on seeds of its own, then report it on others.

    Attributes:
        grid: where the choice is reported; its losses are not used.
        seeds: those of the choice.
        candidates: family -> its settings, as many for each.
    """

    grid: Grid
    seeds: tuple[int, ...]
    candidates: Mapping[str, tuple[LossSetting, ...]] = field(default_factory=lambda: CANDIDATES)

    def cells(self) -> list[Cell]:
        """What the choice is made on."""
        settings = tuple(itertools.chain.from_iterable(self.candidates.values()))
        return replace(self.grid, losses=settings, seeds=self.seeds).cells()

    def report(self, chosen: Mapping[str, LossSetting]) -> list[Cell]:
        """What the choice is reported on."""
        return replace(self.grid, losses=tuple(chosen.values())).cells()


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


_ALL = tuple(PUBLISHED.values())
_QUICK = _settings("VESPO", "GRPO", "SAPO", "REINFORCE")
_SEEDS = (1, 2, 3, 4)
_MORE_SEEDS = (*_SEEDS, 5, 6, 7, 8)
_N = (4, 8, 16, 32, 64)
_VESPO = PUBLISHED["VESPO"]
_VARIANTS = (
    LossSetting("tempered to ESS 0.5", "vespo_openrlhf.study.variants:tempered"),
    LossSetting("kernel by ESS 0.5", "vespo_openrlhf.study.variants:adaptive_kernel"),
    LossSetting("one-sided where A >= 0", "vespo_openrlhf.study.variants:one_sided"),
    PUBLISHED["TOPR"],
)
#: Of docs/study/protocol.md: not looked at before it.
_FRESH_SEEDS = tuple(range(1001, 1065))
_PRIMARY = (
    _VESPO,
    LossSetting("pessimistic", "vespo_openrlhf.study.variants:pessimistic"),
    LossSetting("taper", "vespo_openrlhf.study.variants:taper"),
    *_settings("TOPR", "GSPO"),
    LossSetting("GSPO, wide", "gspo", {"clip_low": 0.03, "clip_high": 0.04}),
    LossSetting("GRPO", "ppo"),
    LossSetting("SAPO", "sapo"),
)
_GPU = tuple(s for s in _PRIMARY if s.label not in ("taper", "GSPO"))
_SHRUNK = LossSetting(
    "shrunk by the mismatch", "vespo_openrlhf.study.variants:shrunk", {"mismatch_std": 0.2}
)

PRESETS: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "quick",
            "Does staleness bring down REINFORCE, SAPO and GRPO, and leave VESPO up?",
            (
                *_with_control(Grid(_QUICK, (64,), _MORE_SEEDS)),
                Grid(_QUICK, (8,), (1, 2, 3)),
            ),
        ),
        Study(
            "paper",
            "Every loss at its published setting, then each tuned with the same small budget.",
            (
                *_with_control(Grid(_ALL, (64,), _MORE_SEEDS)),
                Grid(_ALL, (8,), _SEEDS),
            ),
            Tuning(Grid((), (64,), _MORE_SEEDS), (101, 102)),
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
            "What if the engine's log-probs are not those of the policy that sampled?",
            (
                *_with_control(
                    Grid(
                        _settings("VESPO", "GRPO", "GSPO"),
                        (8,),
                        _SEEDS,
                        mu_noises=(0.0, 0.1, 0.2),
                    )
                ),
                Grid(
                    _settings("VESPO", "GRPO", "GSPO"),
                    (8,),
                    _SEEDS,
                    sampler_dtypes=("bfloat16",),
                ),
            ),
        ),
        Study(
            "primary",
            "Published VESPO and two candidates against their rivals, on 64 fresh seeds.",
            _with_control(Grid(_PRIMARY, (64,), _FRESH_SEEDS)),
        ),
        Study(
            "gpu",
            "The same with a decoder of 13 million parameters and some 400 tokens a response.",
            _with_control(Grid(_GPU, (64,), (1, 2, 3, 4))),
            recipe=Recipe(task="columns"),
        ),
        Study(
            "variants",
            "Does VESPO get better with a weight or a kernel that is set from the data?",
            (
                *_with_control(Grid((_VESPO, *_VARIANTS), (64,), _MORE_SEEDS)),
                Grid((_VESPO, *_VARIANTS, _SHRUNK), (8,), _MORE_SEEDS, mu_noises=(0.2,)),
            ),
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
    )
}
