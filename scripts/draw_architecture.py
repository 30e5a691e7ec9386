"""Draws docs/architecture.svg: the way of a sample and of the weights, file by file.

    python scripts/draw_architecture.py [--check]

Standard library only. With --check it writes nothing, and exits with 1 where the picture is not
what it would draw, or names a file that is not there; a test runs it so.
"""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURE = REPOSITORY / "docs" / "architecture.svg"
WIDTH, HEIGHT = 1120, 960
SAMPLE, WEIGHTS, INK, PALE = "#1f5fa8", "#b5541c", "#1c2430", "#5b6675"

# Each process: title, what runs there, left, top, width, height.
PROCESSES = [
    ("Driver", "one process: OpenRLHF's trainer object, on no GPU", 30, 70, 430, 860),
    ("Engine", "one process for each vLLM engine, and one for its core", 560, 70, 530, 300),
    ("Reward", "one server and its workers for each node", 560, 395, 530, 130),
    ("Trainer rank", "one process for each GPU: OpenRLHF's actor on DeepSpeed", 560, 550, 530, 380),
]

# Stations of a sample: number, what happens, where, left, top, width.
STATIONS = [
    ("1", "a prompt is drawn, once per epoch", "scheduling/ledger.py", 50, 130, 390),
    ("2", "may it be sent, and where?", "scheduling/policies/bounded.py", 50, 210, 390),
    ("3", "n samples, side by side, streamed back", "bridge/engine.py", 580, 130, 490),
    (
        "4",
        "each token is stamped with its version",
        "scheduling/lag.py",
        580,
        210,
        490,
    ),
    ("5", "the answer is found, read, compared", "reward/math_reward.py", 580, 458, 490),
    ("6", "the sample travels as numbers and bytes", "bridge/wire.py", 50, 380, 390),
    ("7", "which groups train next: the oldest", "scheduling/policies/bounded.py", 50, 460, 390),
    ("8", "advantages, then one share for each rank", "bridge/samples/experience.py", 50, 560, 390),
    (
        "9",
        "log-probs of its tokens, without logits",
        "vespo_openrlhf/log_prob_head.py",
        580,
        610,
        490,
    ),
    ("10", "W, phi(W) and the loss", "losses/vespo.py", 580, 690, 490),
    ("11", "guard, optimizer step, what the update measured", "bridge/actor.py", 580, 770, 490),
    ("12", "the records of the run", "bridge/run/records.py", 50, 770, 390),
]
# The way of the weights, beside it: what happens, where, left, top, width.
SYNC = [
    ("A", "when the engines get new weights", "scheduling/sync.py", 50, 850, 390),
    ("B", "sent in buckets, adapters merged", "bridge/weights/sender.py", 580, 850, 490),
    ("C", "tokens counted, loaded", "bridge/weights/receiver.py", 825, 290, 245),
    ("D", "checked by the trainer", "bridge/weights/check.py", 580, 290, 225),
]


def box(mark: str, what: str, where: str, x: int, y: int, width: int, colour: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="56" rx="6" fill="#fff" stroke="{colour}"/>'
        f'<circle cx="{x + 20}" cy="{y + 20}" r="12" fill="{colour}"/>'
        f'<text x="{x + 20}" y="{y + 24}" class="mark">{mark}</text>'
        f'<text x="{x + 40}" y="{y + 24}" class="what">{escape(what)}</text>'
        f'<text x="{x + 40}" y="{y + 44}" class="where">{where}</text>'
    )


def arrow(points: list[tuple[int, int]], colour: str, head: str) -> str:
    line = " ".join(f"{x},{y}" for x, y in points)
    return (
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" '
        f'marker-end="url(#{head})"/>'
    )


def picture() -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="The way of a sample and of the weights">',
        "<style>text{font-family:system-ui,sans-serif;fill:" + INK + "}.title{font-size:17px;"
        "font-weight:600}.note{font-size:12.5px;fill:" + PALE + "}.what{font-size:13.5px}"
        ".where{font-size:12.5px;font-family:ui-monospace,monospace;fill:" + PALE + "}"
        ".mark{font-size:12px;font-weight:600;fill:#fff;text-anchor:middle}</style>",
    ]
    for head, colour in (("s", SAMPLE), ("w", WEIGHTS)):
        parts.append(
            f'<marker id="{head}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            f'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" '
            f'fill="{colour}"/></marker>'
        )
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>')
    parts.append(
        f'<text x="30" y="38" class="what"><tspan fill="{SAMPLE}" font-weight="600">1 to 12: a '
        f'sample</tspan>, from the prompt to the update; <tspan fill="{WEIGHTS}" font-weight="600">'
        "A to D: the weights</tspan>, from the update to the engines</text>"
    )
    for title, note, x, y, width, height in PROCESSES:
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="#f3f5f8" '
            f'stroke="#c9d0d9"/><text x="{x + 20}" y="{y + 28}" class="title">{title}</text>'
            f'<text x="{x + 20}" y="{y + 47}" class="note">{note}</text>'
        )
    ways = [
        [(245, 186), (245, 208)],
        [(440, 238), (510, 238), (510, 158), (578, 158)],
        [(825, 186), (825, 208)],
        [(1070, 238), (1090, 238), (1090, 486), (1072, 486)],
        [(580, 486), (500, 486), (500, 408), (442, 408)],
        [(245, 436), (245, 458)],
        [(245, 516), (245, 558)],
        [(440, 588), (500, 588), (500, 638), (578, 638)],
        [(825, 666), (825, 688)],
        [(825, 746), (825, 768)],
        [(580, 798), (442, 798)],
    ]
    parts += [arrow(way, SAMPLE, "s") for way in ways]
    syncs = [
        [(440, 878), (578, 878)],
        [(1070, 878), (1106, 878), (1106, 318), (1072, 318)],
        [(825, 318), (807, 318)],
    ]
    parts += [arrow(way, WEIGHTS, "w") for way in syncs]
    parts += [box(*station, SAMPLE) for station in STATIONS]
    parts += [box(*station, WEIGHTS) for station in SYNC]
    return "\n".join([*parts, "</svg>"]) + "\n"


def missing() -> list[str]:
    """Files that the picture names and the repository does not have."""
    named = re.findall(r'class="where">([^<]+)<', picture())
    places = (REPOSITORY, REPOSITORY / "vespo_openrlhf")
    return [name for name in named if not any((place / name).is_file() for place in places)]


def main() -> int:
    if lost := missing():
        print(f"not in the repository: {', '.join(lost)}", file=sys.stderr)
        return 1
    if "--check" in sys.argv[1:]:
        same = PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == picture()
        return 0 if same else 1
    PICTURE.write_text(picture(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
