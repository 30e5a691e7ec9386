"""The checkpoints of a training run that can be evaluated."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BEST = "best"
_CRITIC = re.compile(r"(?i)(?<![a-z])critic(?![a-z])")


def checkpoints(folder: Path) -> tuple[list[tuple[int, Path]], list[Path]]:
    """The complete checkpoints below a folder: (step, path) by step, and those that are critics.

    Raises:
        ValueError: two of one step.
    """
    found: dict[int, Path] = {}
    critics = []
    for config in sorted([*folder.glob("*/config.json"), *folder.glob("*/*/config.json")]):
        path = config.parent
        numbers = re.findall(r"\d+", path.name)
        if not numbers or not is_complete(path):
            continue
        step = int(numbers[-1])
        if _CRITIC.search(str(path.relative_to(folder))):
            critics.append(path)
        elif step in found and _BEST in (path.name[:4], found[step].name[:4]):
            # OpenRLHF keeps the best evaluation's model twice.
            found[step] = min(path, found[step], key=lambda copy: copy.name.startswith(_BEST))
        elif step in found:
            raise ValueError(
                f"{found[step]} and {path} are both checkpoints of step {step}: name the folder "
                "that holds the right ones as CKPT_DIR"
            )
        else:
            found[step] = path
    return sorted(found.items()), critics


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint is written to its end: tokenizer, and every weight of every file."""
    if not any(checkpoint.glob("tokenizer*")):
        return False
    files = {path.name for path in checkpoint.glob("*.safetensors")}
    index = checkpoint / "model.safetensors.index.json"
    try:
        if index.exists():
            files |= set(json.loads(index.read_text())["weight_map"].values())
        return bool(files) and all(_whole(checkpoint / name) for name in files)
    except (OSError, ValueError, KeyError, struct.error):
        return False


def _whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            return False
        header: Mapping[str, Any] = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return path.stat().st_size == 8 + length + max(ends, default=0)
