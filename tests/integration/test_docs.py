"""The README and docs/ do as they say: cheap commands are run, of the others every flag is checked.

A fence's first line carries a mark: ```bash run, ```bash long (minutes, or a run made before) or
```bash gpu; ```python run; and ```python file=NAME for a file that later commands use.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
MARKS = {"bash": ("run", "long", "gpu"), "python": ("run", "file")}
#: Commands of others: nothing of ours can be checked in them.
FOREIGN = ("git", "cd", ".", "ray", "docker", "pip")
_COMMAND = re.compile(r"^\s*(?:\w+=\S+ )*(?:python|pip|vespo|ray|scripts/\S+|sbatch) ", re.M)


@dataclass(frozen=True)
class Fence:
    """One fenced block: ```LANGUAGE MARK or ```LANGUAGE file=NAME."""

    place: str
    language: str
    mark: str
    file: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command line: variables set for it, and its words."""

    place: str
    environment: dict[str, str]
    words: list[str]


def fences(page: Path) -> list[Fence]:
    found, text = [], page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*) *(.*?)\n(.*?)^```$", text, re.M | re.S):
        language, info, body = match.groups()
        mark, _, file = info.partition("=")
        line = text.count("\n", 0, match.start()) + 1
        found.append(Fence(f"{page.name}:{line}", language, mark, file, body))
    return found


def commands(fence: Fence) -> list[Command]:
    found = []
    for line in fence.text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
                continue
            environment = {}
            while words and re.match(r"[A-Z_]+=", words[0]):
                name, _, value = words.pop(0).partition("=")
                environment[name] = value
            if words:
                found.append(Command(f"{fence.place} {line.strip()!r}", environment, words))
            words = []
    return found


def named(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


by_page = pytest.mark.parametrize("page", PAGES, ids=named)


@by_page
def test_every_command_is_marked(page: Path) -> None:
    for fence in fences(page):
        if fence.language in MARKS:
            assert fence.mark in MARKS[fence.language], f"{fence.place}: mark it, see docs/README"
        elif not fence.file:
            assert not _COMMAND.search(fence.text), f"{fence.place}: a command outside ```bash"


@pytest.mark.parametrize("page", [p for p in PAGES if " run\n" in p.read_text()], ids=named)
def test_what_is_cheap_runs(page: Path, tmp_path: Path) -> None:
    blocks = [f for f in fences(page) if f.mark in ("run", "file")]
    for entry in ("docs", "eval", "reward", "scripts", "vespo_openrlhf"):
        (tmp_path / entry).symlink_to(REPOSITORY / entry)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    for fence in blocks:
        if fence.file:
            (tmp_path / fence.file).write_text(fence.text)
            continue
        shell = [sys.executable, "-c"] if fence.language == "python" else ["bash", "-euc"]
        finished = subprocess.run(
            ["nice", *shell, fence.text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, f"{fence.place}: {finished.stderr[-3000:]}"


@by_page
def test_every_test_that_is_named_exists(page: Path) -> None:
    for name, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text()):
        source = REPOSITORY / name
        assert source.is_file(), f"{named(page)}: there is no {name}"
        if test:
            assert f"def {test}(" in source.read_text(), f"{named(page)}: {name} has no {test}"


@by_page
def test_every_flag_of_every_command_exists(page: Path) -> None:
    for fence in fences(page):
        if fence.language == "bash":
            for command in commands(fence):
                with mock.patch.dict(os.environ, command.environment):
                    check(command.words, command.place)


def check(words: Sequence[str], place: str) -> None:
    """The command is one we know, with flags that it has."""
    program, arguments = words[0], list(words[1:])
    if program in ("ray", "sbatch") and any("/" in word for word in arguments):
        # What it submits or starts: ray job submit -- COMMAND, sbatch scripts/ray.slurm COMMAND.
        assert all((REPOSITORY / w).is_file() for w in arguments if w.endswith(".slurm")), place
        starts = [i for i, w in enumerate(arguments) if w == "python" or w.endswith(".sh")]
        check(arguments[starts[0] :], place)
    elif program == "vespo":
        check_module(f"vespo_openrlhf.{arguments[0]}", arguments[1:], place)
    elif program == "python" and arguments[0] == "-m":
        check_module(arguments[1], arguments[2:], place)
    elif program == "python":
        assert arguments[0] == "-c" or (REPOSITORY / arguments[0]).is_file(), place
    elif program.startswith("scripts/"):
        check_script(program, arguments, place)
    else:
        assert program in FOREIGN, f"{place}: teach this test about {program}"


def check_script(name: str, arguments: list[str], place: str) -> None:
    script = REPOSITORY / name
    assert script.is_file(), f"{place}: there is no {name}"
    if "recipe.sh" not in script.read_text():
        for flag in (a for a in arguments if a.startswith("-")):
            assert re.search(rf"^#\s+.*{flag}\b", script.read_text(), re.M), f"{place}: {flag}"
        return
    from vespo_openrlhf.check.recipe import submitted_flags

    check_training(submitted_flags(script, arguments), place)


def check_training(flags: Sequence[str], place: str) -> None:
    from vespo_openrlhf.check.resolve import resolve

    try:
        resolve(flags)
    except ValueError as error:
        pytest.fail(f"{place}: {error}")


class Parsed(BaseException):
    """The command line was read to its end; nothing is to be started."""


def check_module(module: str, arguments: list[str], place: str) -> None:
    """The module's own parser takes the arguments."""
    if module == "vespo_openrlhf.train":
        return check_training(arguments, place)
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{place}: there is no module {module}"
    if module == "vespo_openrlhf.check":
        from vespo_openrlhf.check.__main__ import build_parser

        recipe = build_parser().parse_known_args(arguments)[1]
        return check_script(recipe[0], recipe[1:], place)
    main = importlib.import_module(
        f"{module}.__main__" if spec.submodule_search_locations else module
    ).main
    upstream = argparse.ArgumentParser.parse_args

    def parse_args(parser, args=None, namespace=None):  # type: ignore[no-untyped-def]
        result = upstream(parser, args, namespace)
        if list(args) == arguments[len(arguments) - len(args) :]:
            raise Parsed
        return result

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        pytest.raises((Parsed, SystemExit)) as ending,
    ):
        main(arguments)
    assert ending.type is Parsed, f"{place}: {module} refuses it"
    return None


@cache
def flags_there_are() -> frozenset[str]:
    from vespo_openrlhf.check.resolve import resolve

    least = {"actor.model_name_or_path": "m", "reward.remote_url": "r", "vllm.num_engines": "1"}
    return frozenset(resolve([w for f, v in least.items() for w in (f"--{f}", v)]).flags)


@by_page
def test_every_training_flag_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"--([a-z]+\.\w+(?:\.\w+)*)", text)):
        known = any(f.startswith(name) for f in flags_there_are()) if name[-1] == "_" else False
        assert known or name in flags_there_are(), f"{page.name} names --{name}"


@cache
def words_of_metrics() -> frozenset[str]:
    """Every word of the code that makes metrics, and the names that it only makes when it runs."""
    import torch

    from vespo_openrlhf.losses.diagnostics import summarise, summarise_by_lag

    ones = torch.ones(2)
    measured = dict.fromkeys(("advantage", "num_tokens", "log_w", "phi", "lag"), ones)
    code = " ".join(
        path.read_text()
        for room in ("losses", "scheduling", "bridge")
        for path in (REPOSITORY / "vespo_openrlhf" / room).rglob("*.py")
    )
    return frozenset(re.findall(r"\w+", code)) | {*summarise(measured), *summarise_by_lag(measured)}


@by_page
def test_every_metric_that_is_named_exists(page: Path) -> None:
    names = re.findall(
        r"`((?:vespo|lag|scheduler|timing|lag_tokens|lag_oldest|token_version)/[^`\s]+)`",
        page.read_text(encoding="utf-8"),
    )
    for name in names:
        room, *_, last = name.split("/")
        word = room if re.fullmatch(r"-?\d+", last) else last
        assert word in words_of_metrics(), f"{page.name} names {name}"


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page.name} links to {target}"
