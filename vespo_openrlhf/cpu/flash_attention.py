"""A stand-in for flash-attn, which OpenRLHF imports on start-up and needs only to pack samples.

Packing is refused on the CPU (see `flags`), so nothing here is ever called; each function
says so if it is.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

_FUNCTIONS = {
    "flash_attn": (),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
}


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError("flash-attn needs a GPU: leave out --ds.packing_samples on a CPU")


def provide() -> None:
    """Make `import flash_attn...` succeed; does nothing where the real one is installed."""
    if "flash_attn" in sys.modules or importlib.util.find_spec("flash_attn") is not None:
        return
    for name, functions in _FUNCTIONS.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
        for function in functions:
            setattr(module, function, _refuse)
        sys.modules[name] = module
