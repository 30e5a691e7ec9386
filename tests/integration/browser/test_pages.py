"""The report pages in a real browser: no error, no request, everything drawn, nothing cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vespo_openrlhf.eval.commands.report import main as evaluation_report
from vespo_openrlhf.report.__main__ import main as run_report
from vespo_openrlhf.study.__main__ import run as run_study
from vespo_openrlhf.study.analysis import Analysis
from vespo_openrlhf.study.cells import Recipe
from vespo_openrlhf.study.page import write_report
from vespo_openrlhf.study.presets import CONTROL, FAMILIES, PUBLISHED, Grid, Study
from vespo_openrlhf.study.store import Store
from vespo_openrlhf.study.tuning import Tuning

PHONE, DESKTOP = (390, 844), (1400, 900)
NASTY = (
    'Hm. </script><script>window.hacked = 1</script><img src="http://example.com/x.png" '
    'onerror="window.hacked = 1"> \\boxed{{{answer}}}'
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, folders: ModuleType) -> dict[str, Path]:
    """Name -> a page, made as a user makes it."""
    root = tmp_path_factory.mktemp("pages")
    lines = [folders.line(step, entropy_loss=1 / step) for step in range(1, 101)]
    for name, rate in (("vespo", 1e-6), ("a-rather-long-name-of-a-run", 2e-6)):
        folders.make_run(root / name, lines=lines, config={"actor.adam.lr": rate, "x": 1})
        folders.make_evaluation(
            root / "eval" / name, right_below=1e6 * rate / 3, response=NASTY, model=f"org/{name}"
        )
    runs = [str(root / name) for name in ("vespo", "a-rather-long-name-of-a-run")]
    evaluations = [str(root / "eval" / Path(run).name) for run in runs]
    made = {
        "run": root / "run.html",
        "runs": root / "runs.html",
        "evaluation": root / "evaluation.html",
        "evaluations": root / "evaluations.html",
        "study": root / "study" / "report.html",
        "episodes": root / "episodes.html",
    }
    assert run_report([runs[0], "--out", str(made["run"])]) == 0
    assert run_report([*runs, "--out", str(made["runs"])]) == 0
    assert evaluation_report([evaluations[0], "--out", str(made["evaluation"])]) == 0
    assert evaluation_report([*evaluations, "--out", str(made["evaluations"])]) == 0
    _make_study(root / "study")
    _make_episodes(folders.make_evaluation(root / "agent", {"aime24": (2, 2)}))
    assert evaluation_report([str(root / "agent"), "--out", str(made["episodes"])]) == 0
    return made


def _make_episodes(folder: Path) -> None:
    """Make its records those of an agent of two turns, with what an environment may say."""
    path = folder / "aime24" / "generations.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        first = {"action": "calc(1 < 2)", "observation": NASTY, "reward": 0.0}
        last = {"action": record["response"], "observation": "", "reward": 1.0}
        record |= {"turns": [first, last], "agent": {"reward": 1.0, "score": 1.0, "logs": {}}}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _make_study(out: Path) -> None:
    """A study of seconds: its page is laid out as that of a long one."""
    recipe = Recipe(
        updates=8,
        groups_per_update=2,
        group_size=4,
        evaluate_every=2,
        evaluation_problems=16,
        last_evaluations=2,
        width=16,
        warm_steps=4,
        warm_batch=8,
    )
    losses, seeds = (PUBLISHED["VESPO"], PUBLISHED["GRPO"]), (1, 2)
    families = tuple(family for family in FAMILIES if family.label in ("VESPO", "GRPO"))
    tuning = Tuning(families, 8, (9,), seeds)
    grids = (Grid((CONTROL,), (1,), seeds), Grid(losses, (2, 8), seeds))
    study, store = Study("tiny", "Does it show?", grids, tuning, recipe=recipe), Store(out, recipe)
    run_study(study, store, 1, full_stack=False, progress=False)
    write_report(Analysis(study, store), out, {"command": "none"})


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """(file, size, scheme) -> the page in the browser; on leaving, nothing may have gone wrong."""
    contexts, troubles, requests = [], [], []

    def open_page(path: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        # Among them what the content security policy had to forbid.
        page.on("console", lambda message: troubles.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []
    assert all(url.startswith("file://") and url.endswith(".html") for url in requests), requests


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", ["run", "runs", "evaluation", "evaluations", "study"])
def test_everything_is_drawn_and_nothing_hangs_over(
    visit: Callable[..., Any], pages: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    page = visit(pages[name], size)
    page.evaluate("document.querySelectorAll('main details').forEach((d) => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    figures = page.evaluate(
        """[...document.querySelectorAll("figure svg")].map((svg) => {
             const box = svg.getBoundingClientRect();
             const ink = [...svg.querySelectorAll("path, image, rect")]
               .filter((part) => !part.closest("defs, clipPath"))
               .map((part) => part.getBoundingClientRect())
               .filter((part) => part.width * part.height > 100);
             const frame = svg.closest("figure").getBoundingClientRect();
             return { name: svg.getAttribute("aria-label"), width: box.width, height: box.height,
                      ink: ink.length, inside: box.left >= frame.left && box.right <= frame.right };
           })"""
    )
    assert len(figures) >= (10 if name.startswith("run") else 4)
    for figure in figures:
        assert figure["name"]
        assert figure["width"] > 100, figure
        assert figure["height"] > 10, figure
        assert figure["ink"] > 0, figure
        assert figure["inside"], figure
    # Every section has its heading in view, and the contents lead to it.
    anchors = page.locator("nav a").evaluate_all("links => links.map((a) => a.hash.slice(1))")
    assert anchors == page.locator("main section").evaluate_all("all => all.map((s) => s.id)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["runs", "evaluations"])
def test_text_stands_out_from_its_ground(
    visit: Callable[..., Any], pages: dict[str, Path], name: str, scheme: str
) -> None:
    """Contrast of at least 4.5 (WCAG 2.1, AA) for the page's text and that in figures."""
    page = visit(pages[name], scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.querySelector('figure')).backgroundColor")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) < 0.2) == (scheme == "dark")
    in_figures = page.evaluate(
        "[...new Set([...document.querySelectorAll('figure svg text')]"
        ".map((text) => getComputedStyle(text).fill))]"
    )
    on_paper = page.evaluate(
        "[...new Set([...document.querySelectorAll('h1, h2, p, td, th, a, dt, dd, summary')]"
        ".filter((part) => !part.closest('figure, .browser, .tiles, .different'))"
        ".map((part) => getComputedStyle(part).color))]"
    )
    assert in_figures
    assert on_paper
    for colour, behind in [(c, ground) for c in in_figures] + [(c, paper) for c in on_paper]:
        assert contrast(colour, behind) >= 4.5, (colour, behind)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1) of an `rgb(...)`."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def shown(page: Any) -> list[str]:
    return page.locator(".sample summary").all_inner_texts()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_generations_are_filtered(
    visit: Callable[..., Any], pages: dict[str, Path], size: tuple[int, int]
) -> None:
    page = visit(pages["evaluations"], size)
    count = page.locator(".browser .count")
    assert count.inner_text() == "312 samples"
    assert len(shown(page)) == 20
    page.get_by_role("button", name="show more").click()
    assert len(shown(page)) == 40

    page.locator("select[name=verdict]").select_option("wrong")
    assert all("correct" not in text for text in shown(page))
    page.locator("select[name=verdict]").select_option("no answer")
    assert all("no answer" in text for text in shown(page))
    page.locator("select[name=verdict]").select_option("right")
    page.locator("select[name=run]").select_option("0")
    page.locator("select[name=group]").select_option("math500")
    texts = shown(page)
    assert texts
    assert all("correct" in text and "math500" in text and "vespo" in text for text in texts)

    page.get_by_label("text or problem").fill("no such text")
    assert count.inner_text() == "0 of 312 samples"
    assert not page.get_by_role("button", name="show more").is_visible()
    page.get_by_label("text or problem").fill("WHAT IS 0 + 0")
    assert len(shown(page)) == 1


def test_a_generation_shows_its_text_as_text_with_its_answer_marked(
    visit: Callable[..., Any], pages: dict[str, Path]
) -> None:
    page = visit(pages["evaluation"])
    page.locator("select[name=verdict]").select_option("right")
    page.locator(".sample summary").first.click()
    sample = page.locator(".sample").first
    response = sample.locator("pre.response").inner_text()
    assert response.startswith("Hm. </script><script>window.hacked = 1</script><img src=")
    gold = sample.locator("pre").nth(1).inner_text()
    assert sample.locator("mark").inner_text() == gold
    assert "Is 1 < 2 & 3 > 2?" in sample.locator("pre").first.inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_an_episode_shows_model_and_environment_apart(
    visit: Callable[..., Any], pages: dict[str, Path]
) -> None:
    page = visit(pages["episodes"], PHONE)
    sample = page.locator(".sample").first
    assert sample.locator("pre").count() == 0  # closed
    sample.locator("summary").click()
    assert sample.locator("h4").all_inner_texts() == [
        "prompt", "reference answer", "model", "environment", "model",
    ]  # fmt: skip
    assert sample.locator("pre.model").inner_text() == "calc(1 < 2)"
    assert sample.locator("pre.environment").inner_text() == NASTY
    assert page.evaluate("window.hacked") is None
    page.get_by_label("text or problem").fill("onerror")
    assert page.locator(".browser .count").inner_text() == "4 samples"


def test_a_click_on_a_problem_shows_its_generations(
    visit: Callable[..., Any], pages: dict[str, Path]
) -> None:
    page = visit(pages["evaluations"])
    page.locator('[data-group="aime24"][data-problem="p1"]').first.click()
    assert page.locator(".browser .count").inner_text() == "16 of 312 samples"
    assert all("aime24 · p1" in text for text in shown(page))
    assert page.locator(".browser .controls").is_visible()


def test_the_page_is_whole_without_scripts(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["evaluation"].as_uri())
    assert page.locator("noscript p").is_visible()
    assert page.locator("figure svg").first.is_visible()
    context.close()


def test_the_policy_forbids_what_an_injected_text_could_try(
    browser: Any, pages: dict[str, Path]
) -> None:
    """Were the escaping ever broken, there is still no script run and no request made."""
    page = browser.new_page()
    failed: dict[str, str] = {}
    page.on("requestfailed", lambda request: failed.update({request.url: request.failure}))
    page.goto(pages["evaluation"].as_uri())
    page.evaluate(
        """() => {
             const script = document.createElement("script");
             script.textContent = "window.hacked = 1";
             document.body.append(script);
             document.body.insertAdjacentHTML("beforeend",
               '<img src="http://example.com/x.png" onerror="window.hacked = 1">');
           }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("typeof window.hacked") == "undefined"
    assert failed == {"http://example.com/x.png": "csp"}
    page.close()
