"""The tables of the first study (docs/study/first.md), from its runs.csv files.

Every comparison is in one table, with the seeds it rests on and its p corrected (Holm) for the
others it was made with.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from vespo_openrlhf.study.contrasts import full_stack_table
from vespo_openrlhf.study.statistics import (
    LEVEL,
    LEVEL_OF_TWO_LOOKS,
    Estimate,
    compare,
    estimate,
    paired,
    t_test,
)
from vespo_openrlhf.study.tables import markdown, percent, probability

STUDIES = ("paper", "ablation", "mismatch", "variants")
#: What the losses were called as their papers set them.
PUBLISHED = ("VESPO", "GRPO", "GSPO", "SAPO", "REINFORCE", "CISPO", "TOPR", "GMPO", "TIS")
_TUNING_SEEDS = (101, 102)
#: The seeds that were planned. Where a table has more, they were added after a look at these.
PLANNED = (1, 2, 3, 4)

_FINALS = ("rival's final accuracy, %", "VESPO's")

Finals = Mapping[int, float]


@dataclass(frozen=True)
class Condition:
    """What runs share: N, and how far the sampler's log-probs are off."""

    updates_per_batch: int
    mu_noise: float = 0.0
    sampler: str = "float32"


#: Condition -> loss -> seed -> final accuracy.
Study = Mapping[Condition, Mapping[str, Finals]]

_FRESH, _STALE, _STALEST = Condition(1), Condition(8), Condition(64)
_NOISY = Condition(8, mu_noise=0.2)
_MISMATCHES = {
    "noise of 0.1 on log mu": Condition(8, mu_noise=0.1),
    "noise of 0.2 on log mu": _NOISY,
    "sampler in bfloat16": Condition(8, sampler="bfloat16"),
}


def read_runs(path: Path) -> Study:
    """The final accuracies in the runs.csv of a study, without the seeds of the tuning.

    Raises:
        ValueError: no such file, or runs of another lag or learning rate than the page's.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    study: dict[Condition, dict[str, dict[int, float]]] = {}
    for row in csv.DictReader(text.splitlines()):
        if (row["lag"], row["learning_rate"]) != ("0", "0.0003"):
            raise ValueError(f"{path}: the page is about lag 0 and a learning rate of 3e-4")
        condition = Condition(int(row["N"]), float(row["mu_noise"]), row["sampler"])
        finals = study.setdefault(condition, {}).setdefault(row["loss"], {})
        if (seed := int(row["seed"])) not in _TUNING_SEEDS:
            finals[seed] = float(row["final"])
    return study


@dataclass(frozen=True)
class Row:
    """One comparison: the cells before it, and VESPO's lead by seed."""

    cells: Sequence[str]
    lead: Finals


def _table(
    headings: Sequence[str],
    *families: Sequence[Row],
    above: Sequence[Sequence[str]] = (),
    what: str = "lead",
) -> str:
    """A table of comparisons, under a line that says how they were corrected.

    Args:
        headings: of the cells of a row.
        families: the rows that are corrected together; all on the same seeds.
        above: rows without a comparison.
        what: the rows compare.
    """
    (seeds,) = {tuple(row.lead) for family in families for row in family}
    added = len(seeds) > len(PLANNED)
    level = LEVEL_OF_TWO_LOOKS if added else LEVEL
    first = [f"{what}, seeds {PLANNED[0]} to {PLANNED[-1]}"] if added else []
    tests = ("p", "Holm's p", "sign-flip p", "verdict")
    columns = [*headings, *first, f"{what}, seeds {seeds[0]} to {seeds[-1]}", *tests]
    cells = [[*row, *[""] * (len(columns) - len(row))] for row in above]
    for family in families:
        for row, found in zip(family, compare([row.lead for row in family]), strict=True):
            planned = [_mean({seed: row.lead[seed] for seed in PLANNED})] if added else []
            ps = map(probability, (found.p, found.holm_p, found.sign_flip_p))
            lead = _shown(found.difference)
            cells.append([*row.cells, *planned, lead, *ps, found.verdict(level)])
    sizes = " and ".join(dict.fromkeys(str(len(family)) for family in families))
    looks = "Planned and added seeds, two looks" if added else "Planned seeds, one look"
    note = f"{looks}; Holm over {sizes} comparisons; settled where its p is below {level:g}."
    return f"{note}\n\n{markdown(columns, cells)}"


def _shown(found: Estimate) -> str:
    return percent(found.mean, found.half_width)


def _mean(finals: Finals) -> str:
    return _shown(estimate(list(finals.values())))


def _rows(
    losses: Mapping[str, Finals], *before: str, ours: str = "VESPO", rivals: Sequence[str] = ()
) -> list[Row]:
    """`ours` against `rivals`, or against all others, with their final accuracy and its own."""
    own = losses[ours]
    return [
        Row([*before, name, _mean(losses[name]), _mean(own)], paired(own, losses[name]))
        for name in rivals or [name for name in losses if name != ours]
    ]


def _published(paper: Study, condition: Condition) -> str:
    """Every loss at its published setting, and how far each is below on-policy."""
    losses = {name: finals for name, finals in paper[condition].items() if name in PUBLISHED}
    control = {seed: paper[_FRESH]["on-policy"][seed] for seed in losses["VESPO"]}

    def below(name: str) -> str:
        return _mean(paired(control, losses[name]))

    return _table(
        ("loss", "final accuracy, %", "below on-policy"),
        [Row([*row.cells[:2], below(row.cells[0])], row.lead) for row in _rows(losses)],
        above=[
            ["on-policy", _mean(control)],
            ["VESPO", _mean(losses["VESPO"]), below("VESPO")],
        ],
    )


def _tuned(paper: Study) -> str:
    """Tuned VESPO against all the rest, and published VESPO against the best of the rest."""
    losses = paper[_STALEST]
    tuned = [name for name in losses if name not in PUBLISHED]
    (wide,) = [name for name in tuned if name.startswith("VESPO")]
    (gspo,) = [name for name in tuned if name.startswith("GSPO")]
    rivals = ["VESPO", *[name for name in tuned if name != wide], "CISPO", "TOPR"]
    return _table(
        ("VESPO", "rival", *_FINALS),
        [
            *_rows(losses, "tuned", ours=wide, rivals=rivals),
            *_rows(losses, "published", rivals=[gspo]),
        ],
    )


def _ablation(ablation: Study) -> str:
    """VESPO against its ablations."""
    return _table(
        ("N", "rival", *_FINALS),
        *[
            _rows(ablation[condition], str(condition.updates_per_batch))
            for condition in (_STALE, _STALEST)
        ],
    )


def _mismatch(mismatch: Study) -> str:
    """VESPO against its rivals where the sampler's log-probs are off."""
    return _table(
        ("N = 8 with", "rival", *_FINALS),
        *[_rows(mismatch[condition], name) for name, condition in _MISMATCHES.items()],
    )


def _mismatch_cost(mismatch: Study) -> str:
    """How much of each lead is new: the lead less that without mismatch, by seed."""
    rows = []
    for name, condition in _MISMATCHES.items():
        for off, true in zip(_rows(mismatch[condition]), _rows(mismatch[_STALE]), strict=True):
            rows.append(Row([name, off.cells[0], _mean(true.lead)], paired(off.lead, true.lead)))
    return _table(("N = 8 with", "rival", "lead without"), rows, what="change of the lead")


def _variants(variants: Study) -> str:
    """VESPO against candidates for a better one; TOPR at N = 64 is among the published."""
    candidates = [name for name in variants[_STALEST] if name not in PUBLISHED]
    return _table(
        ("N", "rival", *_FINALS),
        _rows(variants[_STALEST], "64", rivals=candidates),
        _rows(variants[_NOISY], "8, noise of 0.2"),
    )


def _topr(variants: Study) -> str:
    """TOPR over both of its conditions, which nobody had planned to test."""
    conditions = [variants[condition] for condition in (_STALEST, _NOISY)]
    leads = [paired(losses["VESPO"], losses["TOPR"]) for losses in conditions]
    both = {seed: fmean(lead[seed] for lead in leads) for seed in leads[0]}
    return (
        f"Over both conditions together, which nobody had planned to test, VESPO's lead over TOPR "
        f"is {_mean(both)} points (p {probability(t_test(list(both.values())))}, not corrected).\n"
    )


def tables(folder: Path) -> dict[str, str]:
    """Name of a marker -> what belongs there, in Markdown.

    Args:
        folder: with a folder for each of STUDIES.

    Raises:
        ValueError: see `read_runs`.
    """
    paper, ablation, mismatch, variants = (
        read_runs(folder / study / "runs.csv") for study in STUDIES
    )
    return {
        "published-64": _published(paper, _STALEST),
        "published-8": _published(paper, _STALE),
        "tuned": _tuned(paper),
        "ablation": _ablation(ablation),
        "mismatch": _mismatch(mismatch),
        "mismatch-cost": _mismatch_cost(mismatch),
        "variants": _variants(variants),
        "topr": _topr(variants),
        "full-stack": full_stack_table(folder / "paper" / "agreement.csv"),
    }
