from vespo_openrlhf import pages

NASTY = '<script>alert("&")</script>'


def test_text_from_outside_is_escaped_everywhere() -> None:
    blocks = [
        pages.paragraph(NASTY),
        pages.facts({NASTY: NASTY}),
        pages.tiles({NASTY: (NASTY, NASTY)}),
        pages.legend([NASTY], note=NASTY),
        pages.table([NASTY], [[NASTY]], caption=NASTY),
        pages.settings_table({NASTY: {NASTY: NASTY}, "b": {}}),
        pages.details(NASTY, pages.paragraph(NASTY)),
        pages.sample_browser([pages.Problem(NASTY, NASTY)], [], [NASTY, "b"]),
    ]
    for block in blocks:
        assert "<script>alert" not in block.html
        assert NASTY not in block.html


def test_a_paragraph_sets_backquotes_as_code_and_splits_at_empty_lines() -> None:
    assert pages.paragraph("one `x<y`\n\n\ntwo").html == (
        "<p>one <code>x&lt;y</code></p><p>two</p>"
    )


def test_a_table_takes_blocks_and_none_and_sets_numbers_flush_right() -> None:
    block = pages.table(["a", "b"], [[pages.raw("<i>x</i>"), None], ["y", 2]], "title", {1})
    assert '<th scope="row"><i>x</i></th><td class="number">–</td>' in block.html
    assert '<td class="number">2</td>' in block.html
    assert '<p class="caption">title</p>' in block.html


def test_settings_show_what_differs_and_fold_what_is_equal() -> None:
    runs = {"a": {"lr": 1, "same": "x", "deep": {"k": 1}}, "b": {"lr": 2, "same": "x"}}
    visible, _, folded = pages.settings_table(runs).html.partition("<details>")
    assert visible.count('class="different"') == 2
    assert "<code>lr</code>" in visible
    assert "<code>deep.k</code>" in visible
    assert "not set" in visible
    assert "<code>same</code>" in folded


def test_one_run_has_nothing_that_differs() -> None:
    html = pages.settings_table({"a": {"lr": 1}}).html
    assert "different" not in html
    assert "1 settings" in html


def test_nothing_recorded_is_said() -> None:
    assert "No versions are recorded" in pages.settings_table({"a": {}}, "versions").html


def test_details_pass_on_the_scripts_of_what_they_hold() -> None:
    inner = pages.sample_browser([], [], [])
    assert pages.details("more", inner, inner).script == inner.script != ""


def test_what_is_no_markup_is_escaped_by_its_type() -> None:
    from vespo_openrlhf.pages.blocks import joined, optional

    assert joined("<i>{}</i>", [(NASTY,), (1.5,)]).endswith("&lt;/script&gt;</i><i>1.5</i>")
    assert optional("<p>{}</p>", "`<`") == "<p><code>&lt;</code></p>"
    assert optional("<p>{}</p>", "") == ""
