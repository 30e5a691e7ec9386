"""The site leads its links to where it has their targets; `scripts/test.sh` builds it."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).parents[2]
docs_site = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "docs_site.py")))


@pytest.mark.parametrize(
    ("link", "led"),
    [
        ("[a](../vespo_openrlhf/losses/vespo.py)", "[a](api/losses/vespo.md)"),
        ("[a](../vespo_openrlhf/losses/__init__.py)", "[a](api/losses/index.md)"),
        ("[a](../reward/README.md#options)", "[a](reward.md#options)"),
        ("[a](README.md)", "[a](pages.md)"),
        ("[a](study/README.md)", "[a](study/README.md)"),
        ("[a](https://arxiv.org/abs/2602.10693)", "[a](https://arxiv.org/abs/2602.10693)"),
        ("```bash long", "```bash"),
        ("```python file=my_loss.py", '```python title="my_loss.py"'),
    ],
)
def test_a_page_names_what_the_site_has(link: str, led: str) -> None:
    assert docs_site.led(link, "docs/customising.md", "customising.md") == led


def test_the_readme_is_the_sites_first_page() -> None:
    assert docs_site.led("![a](docs/phi.svg)", "README.md", "index.md") == "![a](phi.svg)"


def test_a_folders_own_page_comes_first_and_its_files_before_its_folders() -> None:
    pages = ["b/x.md", "b/index.md", "a.md", "b/c/index.md"]
    assert docs_site.navigation(pages) == ["a.md", {"b": ["index.md", "x.md", {"c": ["index.md"]}]}]


def test_every_page_of_the_guide_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    known = {
        next(iter(page.values())) if isinstance(page, dict) else page
        for section in nav
        for pages in section.values()
        for page in pages
    }
    there = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert there | set(docs_site.ELSEWHERE.values()) <= known
