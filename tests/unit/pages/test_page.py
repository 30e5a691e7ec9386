import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vespo_openrlhf import pages


@pytest.fixture
def page() -> pages.Page:
    page = pages.Page("A <title>", "and a line")
    page.section("First & last", pages.paragraph("text"), intro="lead")
    return page


def drawing():  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure

    with pages.plotting():
        figure = Figure()
        figure.subplots().plot([1, 2, 3], **pages.line_style(1))
    return figure


def test_a_page_is_one_file_that_names_no_other(page: pages.Page, tmp_path: Path) -> None:
    page.section("Figures", pages.figure(drawing(), "caption", title="title"))
    page.section("Samples", pages.sample_browser([], [], []))
    path = tmp_path / "new" / "page.html"
    page.write(path)
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    html = path.read_text()
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    assert not re.findall(r"https?://", without_namespaces)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', without_namespaces)
    HTMLParser().feed(html)


def test_the_policy_allows_the_pages_own_script_and_no_other(page: pages.Page) -> None:
    assert "script-src 'none'" in page.render()
    block = pages.Block("<b>x</b>", script="let a = 1;")
    page.section("Scripts", block, block)
    html = page.render()
    assert html.count("let a = 1;") == 1
    digest = base64.b64encode(hashlib.sha256(b"let a = 1;").digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_sections_of_one_title_have_anchors_of_their_own(page: pages.Page) -> None:
    page.section("First & last")
    page.section("§")
    anchors = re.findall(r'<section id="([^"]+)"', page.render())
    assert anchors == ["first-last", "first-last-1", "section"]


def test_figures_that_follow_one_another_share_a_grid(page: pages.Page) -> None:
    one = pages.figure(drawing(), "one")
    page.section("Figures", one, one, pages.paragraph("between"), one)
    assert page.render().count('<div class="figures">') == 2


def test_a_response_with_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    page = pages.Page("t")
    sample = pages.Sample(0, 0, True, "correct", "", ["\ud83d text"])
    page.section(
        "s", pages.paragraph("\ud83d"), pages.sample_browser([pages.Problem("p")], [sample], ["r"])
    )
    page.write(tmp_path / "page.html")
    assert '"? text"' in (tmp_path / "page.html").read_text()


class TestFigure:
    def test_text_stays_text_and_colours_follow_the_page(self) -> None:
        block = pages.figure(drawing(), "caption", "what is seen", title="title")
        assert 'role="img" aria-label="what is seen"' in block.html
        assert "<text" in block.html
        assert "var(--series-1)" in block.html
        assert "var(--muted)" in block.html
        assert "<style" not in block.html
        assert "<metadata" not in block.html

    def test_a_figure_in_matplotlibs_own_style_is_readable_too(self) -> None:
        from matplotlib.figure import Figure

        plain = Figure()
        plain.subplots().plot([1, 2])
        html = pages.figure(plain, "").html
        assert "#000000" not in html
        assert "#ffffff" not in html

    def test_names_within_it_are_its_own_and_all_resolve(self) -> None:
        html = pages.figure(drawing(), "").html
        names = re.findall(r'\bid="([^"]+)"', html)
        used = re.findall(r'(?:href="|url\()#([^")]+)', html)
        assert used
        assert set(used) <= set(names)
        assert all(name.startswith(names[0].split("-")[0]) for name in names)

    def test_the_same_data_make_the_same_bytes(self) -> None:
        assert pages.figure(drawing(), "").html == pages.figure(drawing(), "").html

    def test_a_wide_one_scrolls_by_itself(self) -> None:
        figure = drawing()
        figure.set_size_inches(9, 3)
        html = pages.figure(figure, "").html
        assert '<figure class="wide">' in html
        assert "min-width: 648px" in html


def test_the_toolkit_can_be_imported_without_matplotlib() -> None:
    import subprocess
    import sys

    code = "import sys, vespo_openrlhf.pages; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
