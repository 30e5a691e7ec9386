"""Keeps secrets out of what is written down, shown or sent: by the names they go under.

Used where flags and settings are written and again where they are read, since a file may be older
than this or made by hand. Nothing heavy is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

REDACTED = "***"

_SECRET = {
    *("password", "passwd", "passphrase", "secret", "credential", "authorization", "cookie"),
    *("apikey", "accesskey", "authtoken"),
}
#: A key or a token is a secret unless the word before says of what it is one.
_KEY_OF = {
    *("input", "label", "image", "images", "video", "audio", "output", "prompt", "response"),
    *("answer", "question", "text", "messages", "chosen", "rejected", "system", "tools", "id"),
    *("metric", "sort", "group", "primary", "foreign", "data", "source", "datasource", "column"),
    *("cache", "key", "query", "dict", "reward", "score", "content"),
}
_TOKEN_OF = {
    *("eos", "bos", "pad", "unk", "sep", "cls", "mask", "stop", "special", "think", "start", "end"),
    *("image", "video", "audio", "max", "min", "new", "per", "prompt", "response", "decoder"),
    *("batched", "num", "next", "total", "added", "extra", "bad", "suppress", "forced", "dummy"),
}
_URL_USER = re.compile(r"(?<=://)[^/\s@?#]+@")
_URL_OPTION = re.compile(r"(?<=[?&])([\w.%-]+)=([^&\s#]+)")
_PAIR = re.compile(r"(?s)(-{0,2}[\w.-]+)=(.+)")


def is_secret(name: str) -> bool:
    """Whether what goes under this name is one: `logger.wandb.key`, `hf_token`, `API_KEY`; but not
    `data.input_key`, `max_new_tokens`, `eos_token` or `reward.tokenizer`."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name.rpartition(".")[2])
    last, before = "", ""
    for word in words:
        last, before = word.lower(), last
    singular = last if last in _SECRET else last.removesuffix("s")
    if singular == "key":
        return before not in _KEY_OF
    if singular == "token":
        return before not in _TOKEN_OF
    return singular in _SECRET or (last == "auth" and bool(before))


def redact(value: Any, name: str = "") -> Any:
    """A copy of `value` with every secret in it replaced by `***`.

    Looks into mappings, lists and namespaces, into strings that hold JSON, and into NAME=VALUE.
    What a secret's name stands for is replaced whole, save numbers, booleans, None and what is
    empty; the user part of a URL goes whatever its name.

    Args:
        value: flags, settings, a manifest: anything made of plain data.
        name: what it goes under, if anything.
    """
    if isinstance(value, Mapping):
        return {key: redact(entry, str(key)) for key, entry in value.items()}
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**redact(vars(value)))
    if isinstance(value, list | tuple):
        flags = [
            REDACTED if _follows_a_secret(value, i) else redact(v, name)
            for i, v in enumerate(value)
        ]
        return flags if isinstance(value, list) else tuple(flags)
    if isinstance(value, str) and value:
        return REDACTED if is_secret(name) else _redact_text(value)
    return value


def _follows_a_secret(arguments: list[Any] | tuple[Any, ...], place: int) -> bool:
    """Of a command line in a list: `--logger.wandb.key`, and then the key."""
    before = arguments[place - 1] if place else None
    return isinstance(before, str) and before.startswith("--") and is_secret(before)


def _redact_text(text: str) -> str:
    if text.lstrip()[:1] in ("{", "["):
        try:
            nested = json.loads(text)
        except ValueError:
            pass
        else:
            hidden = redact(nested)
            return text if hidden == nested else json.dumps(hidden)
    if (pair := _PAIR.fullmatch(text)) and is_secret(pair[1]):
        return f"{pair[1]}={REDACTED}"
    if "://" in text:
        text = _URL_USER.sub(f"{REDACTED}@", text)
        text = _URL_OPTION.sub(
            lambda option: f"{option[1]}={REDACTED}" if is_secret(option[1]) else option[0], text
        )
    return text


class Hidden(str):
    """A string that works as it is and shows itself redacted: namespaces of flags are printed."""

    def __repr__(self) -> str:
        text = _redact_text(str(self))
        return repr(REDACTED if text == self else text)

    def split(self, *arguments: Any, **options: Any) -> list[str]:
        """Its parts, hidden where they must be: URLs of a list that OpenRLHF takes apart."""
        return [hide(part) for part in super().split(*arguments, **options)]


def hide(value: Any, name: str = "") -> Any:
    """`value`, or where it is a string or a list of strings with a secret, `Hidden` ones."""
    if isinstance(value, list):
        return [hide(entry, name) for entry in value]
    secret = isinstance(value, str) and redact(value, name) != value
    return Hidden(value) if secret else value
