"""Builds the documentation as a site, with a page of the API for every module.

    python scripts/docs_site.py            into build/site; a warning is an error
    python scripts/docs_site.py serve      and shows it, until interrupted

The pages in `docs` link to source files, as one reads them in the repository; on the site these
links lead to the page of that module. Zensical is the maintained successor of Material for MkDocs.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "vespo_openrlhf"
BUILD = ROOT / "build"
#: Pages that lie elsewhere in the repository -> where they lie on the site.
ELSEWHERE = {
    "README.md": "index.md",
    "docs/README.md": "pages.md",
    "reward/README.md": "reward.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/one_page.py": "one-page.md",
}

_LINK = re.compile(r"(\]\()([^)#:]+)((?:#[^)]*)?\))")
_FENCE = re.compile(r"^```(\w+) (?:file=(\S+)|\w+)$", re.MULTILINE)


def modules() -> Iterator[str]:
    """The files of the package, from its root; reward and eval are links in it."""
    for folder, folders, files in os.walk(ROOT / PACKAGE, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(("_", ".")))
        for name in sorted(files if "__init__.py" in files else []):
            if name.endswith(".py") and name != "__main__.py":
                yield (Path(folder) / name).relative_to(ROOT / PACKAGE).as_posix()


def page_of(module: str) -> str:
    """The page of a module on the site: that of a package is the index of its folder."""
    return "api/" + re.sub("__init__$", "index", module.removesuffix(".py")) + ".md"


def led(text: str, source: str, page: str) -> str:
    """The text of a page with links to where the site has what they name, and code blocks without
    the tests' marks.

    Args:
        text: of the page.
        source, page: where it lies in the repository, and on the site.
    """

    def lead(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if target in ELSEWHERE:
            found = ELSEWHERE[target]
        elif target.startswith(f"{PACKAGE}/") and target.endswith(".py"):
            found = page_of(target.removeprefix(f"{PACKAGE}/"))
        elif target.startswith("docs/"):
            found = target.removeprefix("docs/")
        else:
            return match[0]
        return match[1] + posixpath.relpath(found, posixpath.dirname(page) or ".") + match[3]

    def unmark(match: re.Match[str]) -> str:
        return f'```{match[1]} title="{match[2]}"' if match[2] else f"```{match[1]}"

    return _FENCE.sub(unmark, _LINK.sub(lead, text))


def navigation(paths: list[str]) -> list[Any]:
    """The API's part of the navigation: files before folders, and a folder's own page first."""
    pages = [path for path in paths if "/" not in path]
    below: dict[str, list[str]] = {}
    for path in paths:
        folder, _, rest = path.partition("/")
        if rest:
            below.setdefault(folder, []).append(rest)
    named = sorted(pages, key=lambda page: (page != "index.md", page))
    return [*named, *({folder: navigation(rest)} for folder, rest in sorted(below.items()))]


def _rooted(nav: list[Any], root: str) -> list[Any]:
    return [
        f"{root}/{item}"
        if isinstance(item, str)
        else {name: _rooted(below, f"{root}/{name}") for name, below in item.items()}
        for item in nav
    ]


def write_pages(folder: Path) -> list[Any]:
    """Write every page; returns the API's part of the navigation."""
    shutil.copytree(ROOT / "docs", folder)
    for path in folder.rglob("*.md"):
        page = path.relative_to(folder).as_posix()
        path.write_text(led(path.read_text(encoding="utf-8"), f"docs/{page}", page))
    (folder / "README.md").unlink()
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source.endswith(".py"):
            text = f"# {Path(source).stem}\n\n```python\n{text}```\n"
        (folder / page).write_text(led(text, source, page))
    pages = []
    for module in modules():
        dotted = ".".join([PACKAGE, *Path(module).with_suffix("").parts])
        page = folder / page_of(module)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"::: {dotted.removesuffix('.__init__')}\n")
        pages.append(page_of(module).removeprefix("api/"))
    return _rooted(navigation(pages), "api")


def main() -> int:
    """Write the pages and build the site; the exit status is the builder's."""
    shutil.rmtree(BUILD / "docs", ignore_errors=True)
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config["nav"].append({"API": write_pages(BUILD / "docs")})
    (BUILD / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    zensical = [sys.executable, "-m", "zensical"]
    config_file = ["-f", str(BUILD / "mkdocs.yml")]
    if sys.argv[1:] == ["serve"]:
        return subprocess.call([*zensical, "serve", *config_file])
    command = [*zensical, "build", "--clean", "--strict", *config_file]
    built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # --strict is about links; what is wrong with a docstring is only printed.
    wrong = [line for line in built.stdout.splitlines() if line.startswith("griffe:")]
    print(built.stdout if built.returncode else "\n".join(dict.fromkeys(wrong)))
    return built.returncode or bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
