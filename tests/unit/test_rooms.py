"""The rules of the house: which folder may import what, and how light the package is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "vespo_openrlhf"
STACK = {"openrlhf", "ray", "vllm", "deepspeed"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_only_the_bridge_and_the_cpu_stack_import_the_stack(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    if room not in ("bridge", "cpu"):
        assert not imports(path) & STACK


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, vespo_openrlhf; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert not (STACK | {"torch", "transformers"}) & set(loaded.split())
