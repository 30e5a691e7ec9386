"""Checks of a run's model, reward and prompts, made before Ray starts.

Each raises ValueError with the flag to change. Heavy libraries are imported where they are used.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vespo_openrlhf.data.reading import KINDS, read_files
from vespo_openrlhf.reward.api import needs_verifier, probe

#: A reward file may define `label_problems(labels)`: per label, why it can never be rewarded, or
#: None where it can. Then a run on labels that cannot be rewarded does not start.
LabelProblems = Callable[[Sequence[Any]], Sequence[str | None]]

# num_experts (Qwen, OLMoE), num_local_experts (Mixtral, gpt-oss), n_routed_experts (DeepSeek, GLM),
# moe_num_experts (ERNIE, DBRX); not num_experts_per_tok, nor experts that every token takes.
_EXPERTS = re.compile(r"(moe_)?(n|num)_(local_|routed_|moe_)?experts")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SHOWN = 3


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


def load_python(path: str, flag: str) -> dict[str, Any]:
    """The names that a user's Python file defines, loaded as OpenRLHF loads a reward.

    Args:
        path: of the file.
        flag: that named it, for the errors.

    Raises:
        ValueError: there is no such file, or it does not import.
    """
    if not Path(path).is_file():
        raise ValueError(f"{flag} {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"vespo_user_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{flag} {path}: expected a Python file, *.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{flag} {path} does not import: {error!r}") from error
    return vars(module)


def load_reward(path: str) -> dict[str, Any]:
    """The names a reward file defines.

    Raises:
        ValueError: there is no such file, it does not import, it defines no `reward_func`, or it
            asks our verifier and that cannot be reached.
    """
    names = load_python(path, "--reward.remote_url")
    if not callable(names.get("reward_func")):
        raise ValueError(
            f"--reward.remote_url {path} defines no reward_func(queries, prompts, labels)"
        )
    if needs_verifier(names):
        try:
            probe()
        except ConnectionError as error:
            raise ValueError(f"--reward.remote_url {path}: {error}") from error
    return names


def check_prompts(
    dataset: str | None,
    *,
    input_key: str,
    label_key: str | None,
    split: str,
    label_problems: LabelProblems | None = None,
    flag: str = "--data.prompt_dataset",
) -> None:
    """Every part of a dataset that is a local file must be usable.

    Hub datasets and folders are left to OpenRLHF's loader: looking into them would download them.

    Args:
        dataset: comma-separated paths, as OpenRLHF takes them.
        input_key: column of the prompt.
        label_key: column of the gold answer, or None.
        split: the split that OpenRLHF will take.
        label_problems: what the reward file has to say of labels, see `LabelProblems`.
        flag: that named the dataset, for the errors.

    Raises:
        ValueError: missing file, wrong columns, no rows, or labels that cannot be rewarded
            (counted, the first three shown).
    """
    if not dataset:
        raise ValueError(f"{flag} is missing: a JSONL or Parquet file, or a hub id")
    for part, rows in local_rows(dataset, split, flag):
        if rows is None:
            continue
        _check_columns(part, rows.column_names, input_key, label_key)
        if len(rows) == 0:
            raise ValueError(f"{flag} {part} holds no rows")
        if label_key is not None and label_problems is not None:
            _check_labels(part, rows[label_key], label_key, label_problems)


def local_rows(
    dataset: str, split: str, flag: str = "--data.prompt_dataset"
) -> Iterator[tuple[str, Any]]:
    """Each part of a dataset with its rows; None for one that is no local file.

    Raises:
        ValueError: there is no such file, it cannot be read, or it has no such split.
    """
    for part in (p.strip() for p in dataset.split(",")):
        if Path(part).suffix.lower() not in KINDS:
            yield part, None
            continue
        rows = read_files([Path(part)], flag, cached=True)
        if split != "train":
            wrong = f"{flag.replace('dataset', 'split')} {split}"
            raise ValueError(f"{wrong}: a single file has only the split train")
        yield part, rows


def _check_columns(path: str, columns: list[str], input_key: str, label_key: str | None) -> None:
    for flag, key in (("--data.input_key", input_key), ("--data.label_key", label_key)):
        if key is not None and key not in columns:
            raise ValueError(
                f"{flag} {key}: {path} has no such column; it has {', '.join(columns)}"
            )


def _check_labels(
    path: str, labels: Sequence[Any], key: str, label_problems: LabelProblems
) -> None:
    problems = [
        f"row {row}: {label!r} ({problem})"
        for row, (label, problem) in enumerate(zip(labels, label_problems(labels), strict=True))
        if problem is not None
    ]
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        raise ValueError(
            f"{len(problems)} of the labels in {path} (--data.label_key {key}) can never be "
            f"rewarded: {shown}. Remove or mend these rows"
        )
