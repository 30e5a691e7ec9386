"""What a model's folder or hub id says before it is loaded: config, tokenizer, revision."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_PROBES = 16
_PROBE_BYTES = 65_536

# num_experts (Qwen, OLMoE), num_local_experts (Mixtral, gpt-oss), n_routed_experts (DeepSeek, GLM),
# moe_num_experts (ERNIE, DBRX); not num_experts_per_tok, nor experts that every token takes.
_EXPERTS = re.compile(r"(moe_)?(n|num)_(local_|routed_|moe_)?experts")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_model(path: str | None) -> dict[str, Any]:
    """A local folder must hold a model and a tokenizer; anything else must be a hub id we can read.

    Returns:
        Its config.json.

    Raises:
        ValueError: neither is the case.
    """
    if not path:
        raise ValueError("--actor.model_name_or_path is missing: a model folder or a hub id")
    folder = Path(path)
    if folder.is_dir():
        refuse_adapter(folder, "--actor.model_name_or_path")
        if not (folder / "config.json").is_file():
            raise ValueError(f"--actor.model_name_or_path {path} holds no config.json")
        if not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
            raise ValueError(f"--actor.model_name_or_path {path} holds no tokenizer")
        try:
            return dict(json.loads((folder / "config.json").read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"--actor.model_name_or_path {path}: its config.json cannot be read: {error}"
            ) from error
    return dict(hub_config(path, "--actor.model_name_or_path").to_dict())


def refuse_adapter(folder: Path, flag: str) -> None:
    """A folder of peft's is no model: vLLM and transformers would look for weights in it.

    Raises:
        ValueError: it is one; with the command to make a model of it.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
    except FileNotFoundError:
        return
    except ValueError:
        config = {}
    base = config.get("base_model_name_or_path") or "BASE_MODEL"
    raise ValueError(
        f"{flag} {folder} holds an adapter (adapter_config.json), not a model: where a run of ours "
        f"has written it, give the folder above, {folder.parent}, in which it is merged; otherwise "
        f"merge it: python -m openrlhf.cli.lora_combiner --model_path {base} --lora_path {folder} "
        "--output_path MERGED"
    )


def text_config(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that is the language model's; all of it where it has one part."""
    part: Mapping[str, Any] = model.get("text_config") or model
    return part


def experts(model: Mapping[str, Any]) -> int:
    """Experts of a mixture, by whatever name its config.json counts them; 0 for a dense model."""
    counts = [
        experts(value) if isinstance(value, Mapping) else value
        for name, value in model.items()
        if isinstance(value, Mapping) or (_EXPERTS.fullmatch(name) and isinstance(value, int))
    ]
    return max(counts, default=0)


def hub_config(model: str, flag: str, revision: str | None = None) -> Any:
    """The configuration of a model that is no folder here, from the hub.

    Args:
        model: its hub id.
        flag: that named it, for the errors.
        revision: branch, tag or commit; None is the newest.

    Raises:
        ValueError: it is a path, or cannot be read from the hub.
    """
    if model.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(model):
        raise ValueError(f"{flag} {model}: there is no such folder")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{flag} {model} is neither a folder here nor a model that can be read from the hub: "
            f"{str(error).splitlines()[0]}"
        ) from error


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
