"""The rules of the house: which folder may import what, and how light the package is."""

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vespo_openrlhf"
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


def modules() -> dict[str, Path]:
    """Every module of the package, `eval` and `reward` behind their links too, and every script."""
    rooms = [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_symlink())]
    found = {}
    for room in rooms:
        for path in room.resolve().rglob("*.py"):
            inside = path.relative_to(room.resolve()).with_suffix("").parts
            parts = (*room.relative_to(ROOT).parts, *inside)
            found[".".join(parts)] = path
    return found | {f"scripts.{path.stem}": path for path in (ROOT / "scripts").glob("*.py")}


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ours that one imports, wherever in the file it does."""
    package = name.rpartition(".")[0].split(".")
    for node in ast.walk(ast.parse(path.read_text())):
        wanted = []
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            wanted = [f"{base}.{alias.name}" for alias in node.names]
        for target in wanted:
            while target and not {target, f"{target}.__init__"} & known.keys():
                target = target.rpartition(".")[0]
            if target and target != name:
                yield target if target in known else f"{target}.__init__"


def test_no_room_imports_one_that_imports_it() -> None:
    """Neither two rooms nor two files of one: at each folder, its files and folders have an order
    in which everything imports only what stands before it."""
    known = modules()
    assert {"vespo_openrlhf.eval.__main__", "vespo_openrlhf.reward.api"} <= known.keys()
    below: dict[str, dict[str, dict[str, str]]] = {}
    for name, path in known.items():
        for target in imported(name, path, known):
            ours, theirs = name.split("."), target.split(".")
            depth = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
            folder = ".".join(ours[:depth])
            arrows = below.setdefault(folder, {}).setdefault(ours[depth], {})
            arrows[theirs[depth]] = f"{name} imports {target}"
    circles = []
    for folder, arrows in below.items():
        try:
            TopologicalSorter(arrows).prepare()
        except CycleError as error:
            steps = itertools.pairwise(error.args[1][::-1])
            circles.append((folder, [arrows[a][b] for a, b in steps]))
    assert not circles
