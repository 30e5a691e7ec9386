"""Rules on what the flags point to: model, tokenizer, prompts, reward."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf import models
from vespo_openrlhf.check.findings import Finding, error, note
from vespo_openrlhf.check.shape import model_file
from vespo_openrlhf.data import checks, lengths


@dataclass
class Prompts:
    """The prompt data as far as it lies here.

    Attributes:
        rows: None where some of it is on the hub.
        texts: the prompts' own words, chat messages joined.
    """

    rows: int | None
    texts: list[str]


def check_model_files(flags: Mapping[str, Any]) -> Iterator[Finding]:
    """A folder that looks like one is there and holds a model and a tokenizer."""
    model = flags["actor.model_name_or_path"]
    if model and not Path(model).is_dir() and not model.startswith((".", "/", "~")):
        return  # a hub id: asking the hub would take a network
    try:
        models.check_model(model)
    except ValueError as refused:
        yield error(str(refused))


def check_reward_file(flags: Mapping[str, Any]) -> Iterator[Finding]:
    """A reward that is a file defines what OpenRLHF calls."""
    reward = flags["reward.remote_url"]
    if reward and reward.endswith(".py"):
        try:
            checks.load_reward(reward)
        except ValueError as refused:
            yield error(str(refused))


def load_prompts(flags: Mapping[str, Any]) -> tuple[Prompts, list[Finding]]:
    """The prompts that lie here, and what is wrong with them. Labels are not audited: training
    does so before it starts."""
    dataset, key = flags["data.prompt_dataset"], flags["data.input_key"]
    if flags["offline.data"]:
        data = " ".join(flags["offline.data"])
        return Prompts(None, []), [
            note(f"{data} is recorded: vespo recorded show says what it has")
        ]
    try:
        checks.check_prompts(
            dataset,
            input_key=key,
            label_key=flags["data.label_key"],
            split=flags["data.prompt_split"],
        )
    except ValueError as refused:
        return Prompts(None, []), [error(str(refused))]
    parts = [rows for _, rows in checks.local_rows(dataset, flags["data.prompt_split"])]
    most = flags["data.max_samples"]
    texts = [_text(p) for rows in parts if rows is not None for p in rows[key][:most]]
    if None in parts:
        return Prompts(None, texts), [note(f"{dataset} is on the hub: not looked into")]
    return Prompts(len(texts), texts), []


def check_evaluation(flags: Mapping[str, Any]) -> Iterator[Finding]:
    """The problems that are evaluated in training are there, in the columns of the prompts."""
    if flags["eval.dataset"] is None:
        return
    try:
        checks.check_prompts(
            flags["eval.dataset"],
            input_key=flags["data.input_key"],
            label_key=flags["data.label_key"],
            split=flags["eval.split"],
            flag="--eval.dataset",
        )
    except ValueError as refused:
        yield error(str(refused))


def check_tokenizer(flags: Mapping[str, Any], prompts: Prompts) -> Iterator[Finding]:
    """A chat template where one is applied, and prompts that leave room for a response."""
    model = flags["actor.model_name_or_path"] or ""
    template = _chat_template(model) if flags["data.apply_chat_template"] else ""
    if template is None:
        folder = Path(model).is_dir()
        if folder or model_file(model, "tokenizer_config.json") is not None:
            yield error(lengths.no_template(model))
        else:
            yield note(f"no tokenizer of {model} here: chat template not looked for (--fetch)")
        template = ""
    if flags["train.agent_func_path"]:
        return
    tokenizer_file = model_file(model, "tokenizer.json")
    if tokenizer_file is None:
        if prompts.texts:
            yield note(f"no tokenizer of {model} here: prompts not measured (--fetch)")
        return
    texts = prompts.texts
    if not flags["data.apply_chat_template"] and "{}" in (flags["data.input_template"] or ""):
        texts = [flags["data.input_template"].format(text) for text in texts]
    found = _long_prompts(tokenizer_file, texts, template, lengths.room(flags))
    if not found:
        return
    skip, total = flags["data.overlong_prompts"] == "skip", len(prompts.texts)
    if skip and len(found) < total:
        yield note(f"{len(found)} of {total} prompts are too long and will be left out")
    else:
        yield error(lengths.complaint(found, total, flags, "--data.prompt_dataset"))


def check_run_folder(flags: Mapping[str, Any]) -> Iterator[Finding]:
    """Something is left of the run, where it can be written."""
    folder = flags["run.dir"]
    if folder is None:
        return
    path = Path(folder).resolve()
    while not path.exists():
        path = path.parent
    if not path.is_dir() or not os.access(path, os.W_OK):
        yield error(f"--run.dir {folder} cannot be written here", "choose another folder")


def _text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content", "")) for message in prompt)


def _chat_template(model: str) -> str | None:
    """The template's own text, or None where the tokenizer has none that lies here."""
    beside = model_file(model, "chat_template.jinja")
    if beside is not None:
        return beside.read_text()
    config = model_file(model, "tokenizer_config.json")
    template = json.loads(config.read_text()).get("chat_template") if config else None
    if isinstance(template, list):  # several by name
        template = next((t["template"] for t in template if t["name"] == "default"), None)
    return template


def _long_prompts(
    tokenizer_file: Path, texts: list[str], template: str, limit: int
) -> dict[int, int]:
    """Row and tokens of the prompts over `limit`, with what the chat template adds to each."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))

    def encode(block: list[str]) -> list[list[int]]:
        return [e.ids for e in tokenizer.encode_batch(block, add_special_tokens=False)]

    (around,) = encode([_around(template)])
    found = lengths.overlong(texts, len(texts), encode, limit - len(around))
    return {row: tokens + len(around) for row, tokens in found.items()}


def _around(template: str) -> str:
    """What the template puts around a prompt; nothing if it cannot be rendered here."""
    if not template:
        return ""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        rendered: str = environment.from_string(template).render(
            messages=[{"role": "user", "content": ""}], add_generation_prompt=True
        )
    except (jinja2.TemplateError, TypeError, AttributeError):
        return ""
    return rendered
