"""Which model is evaluated: found, told apart from others, and its tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from vespo_openrlhf.data.checks import hub_config, refuse_adapter

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_PROBES = 16
_PROBE_BYTES = 65_536


def revision_of(model: str, revision: str | None) -> str:
    """A hub model's commit, or a fingerprint of a local folder.

    The fingerprint covers small files whole and of the weights their sizes and 16 places spread
    over each file, which takes no time and changes with any update of the model.

    Raises:
        ValueError: there is no such folder, it holds no model, or the hub cannot be read.
    """
    folder = Path(model)
    if folder.is_dir():
        return _fingerprint(folder)
    config = hub_config(model, "--model", revision)
    return str(getattr(config, "_commit_hash", None) or revision or "unknown")


def _fingerprint(folder: Path) -> str:
    refuse_adapter(folder, "--model")
    if not (folder / "config.json").is_file():
        raise ValueError(f"--model {folder} holds no config.json")
    weights = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
    if not weights:
        raise ValueError(f"--model {folder} holds no weights ({', '.join(_WEIGHTS)})")
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.jinja")):
        digest.update(path.name.encode() + path.read_bytes())
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            for place in range(_PROBES):
                file.seek(max(0, size - _PROBE_BYTES) * place // (_PROBES - 1))
                digest.update(file.read(_PROBE_BYTES))
    return f"local-{digest.hexdigest()[:16]}"


def load_tokenizer(model: str, revision: str | None) -> Any:
    """The model's tokenizer.

    Raises:
        ValueError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--model {model}: its tokenizer cannot be loaded: {reason}") from error
