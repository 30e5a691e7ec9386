"""The tables as CSV and Markdown, and the cells of both for the page. Standard library only."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

#: Conditions that a table shows only where they differ.
CONDITIONS = {
    "N": "N",
    "lag": "extra lag",
    "learning_rate": "lr",
    "mu_noise": "noise on log mu",
    "engine_noise": "noise on the engine's logits",
    "sampler": "sampler",
}


def percent(value: float | None, half_width: float | None = None) -> str:
    """0.8123 and 0.034 as "81.2 ± 3.4": shares in per cent."""
    if value is None or math.isnan(value):
        return "–"
    if half_width is None or math.isnan(half_width):
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} ± {100 * half_width:.1f}"


def probability(p: float | None) -> str:
    """A p to three digits."""
    if p is None or math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def shown_conditions(rows: Sequence[Row]) -> dict[str, str]:
    """Key -> heading of N and of the conditions in which these rows differ."""
    return {
        key: heading
        for key, heading in CONDITIONS.items()
        if key == "N" or len({row[key] for row in rows}) > 1
    }


def main_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of `Analysis.table`."""
    conditions = shown_conditions(rows)
    headings = [
        "loss",
        *conditions.values(),
        "seeds",
        "final accuracy, %",
        "drop from best",
        "collapsed",
        "on-policy level reached",
        "mean abs. log W",
        "ESS",
    ]
    cells = []
    for row in rows:
        reached = f"{row['reached_level']}/{row['seeds']}"
        if row["updates_to_level"] is not None:
            reached += f", update {row['updates_to_level']:g}"
        cells.append(
            [
                row["loss"],
                *(f"{row[key]:g}" if key != "sampler" else row[key] for key in conditions),
                str(row["seeds"]),
                percent(row["final"], row["final_half_width"]),
                percent(row["drop"]),
                f"{row['collapsed']:.0%}",
                reached,
                "–" if row["log_w_abs_mean"] is None else f"{row['log_w_abs_mean']:.2f}",
                "–" if row["ess"] is None else f"{row['ess']:.2f}",
            ]
        )
    return headings, cells


def claims_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of `Analysis.claims`."""
    conditions = shown_conditions(rows) if rows else {}
    headings = ["claim", *conditions.values(), "seeds", "paired difference, points", *_TESTS]
    cells = [
        [
            row["claim"],
            *(f"{row[key]:g}" if key != "sampler" else row[key] for key in conditions),
            str(row["paired_seeds"]),
            percent(row["difference"], row["difference_half_width"]),
            *_tests(row),
        ]
        for row in rows
    ]
    return headings, cells


_TESTS = ("p", "p, Holm", "p, sign-flip", "verdict")


def _tests(row: Row) -> list[str]:
    ps = [probability(row.get(name)) for name in ("p", "holm_p", "sign_flip_p")]
    return [*ps, row.get("verdict", "–")]


def tuned_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of `Analysis.tuned`."""
    headings = [
        *("loss", "chosen", "lr", "settings tried", "at an edge", "on the tuning seeds, %"),
        *("seeds", "final accuracy, %"),
    ]
    cells = [
        [
            row["loss"],
            row["chosen"],
            f"{row['learning_rate']:g}",
            "–" if row["tried"] is None else str(row["tried"]),
            {None: "–", True: "yes", False: "no"}[row["at_edge"]],
            percent(row["tuning_score"]),
            str(row["seeds"]),
            percent(row["final"], row["final_half_width"]),
        ]
        for row in rows
    ]
    return headings, cells


def agreement_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of `Analysis.agreement`."""
    headings = [
        "loss",
        "N",
        "seed",
        "at updates",
        "full stack, %",
        "light trainer, same seed, %",
        "light trainer, all seeds, %",
    ]
    cells = [
        [
            row["loss"],
            str(row["N"]),
            str(row["seed"]),
            ", ".join(map(str, row["updates"])),
            percent(row["full_stack"]),
            percent(row["light_same_seed"]),
            f"{percent(row['light'])} ({row['seeds']})",
        ]
        for row in rows
    ]
    return headings, cells


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Rows of one kind, with every digit, one column a key."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path, take: Callable[[Mapping[str, str]], None]) -> None:
    """Hand the rows of a CSV file to `take`, one by one.

    Raises:
        ValueError: it cannot be read, a column is missing, or `take` raises it; the message begins
            with the file, and the line.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    for line, row in enumerate(rows, start=2):
        try:
            if None in row.values() or None in row:
                raise ValueError("the row has more or fewer cells than the first line")
            take(row)
        except KeyError as error:
            raise ValueError(f"{path}:{line}: no column {error}") from error
        except ValueError as error:
            raise ValueError(f"{path}:{line}: {error}") from error
