"""Which text is judged, by what, and how much of it is in memory."""

import importlib.metadata
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from vespo_openrlhf.eval.judging import verdicts
from vespo_openrlhf.eval.judging.verdicts import judge, judge_all, source_hash, verifier_version
from vespo_openrlhf.eval.options import Options
from vespo_openrlhf.eval.results.folder import Folder, slim
from vespo_openrlhf.eval.running.rescoring import rescore
from vespo_openrlhf.eval.running.summary import summarise_folder


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("2+3 is\n#### 5", "correct"),
        ("<think>maybe \\boxed{3}</think> #### 5", "correct"),
        ("<think>maybe #### 3</think> It is #### 5\n", "correct"),
        ("maybe \\boxed{3}</think>\n#### 5<|im_end|>\n", "correct"),
        ("<think>#### 5</think> It is five", "no_answer"),
        ("<think>maybe \\boxed{5}\n#### 5", "truncated"),
        ("\\boxed{5} #### 3", "correct"),  # a box of the answer's own comes first
        ("#### 6", "wrong"),
    ],
)
def test_gsm8ks_marker_counts_where_the_answer_has_no_box(response: str, reason: str) -> None:
    assert judge(response, "5", marker="####")["reason"] == reason


def test_the_verifiers_identity_names_all_that_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, installed = verifier_version(), importlib.metadata.version
    for name in ("math-verify", "sympy", "latex2sympy2_extended", "pebble"):
        assert f"{name}-{installed(name)}" in version
    for name in ("sympy", "latex2sympy2_extended", "pebble", "math-verify"):
        with monkeypatch.context() as patch:
            patch.setattr(
                importlib.metadata, "version",
                lambda package, other=name: "0" if package == other else installed(package),
            )  # fmt: skip
            assert verifier_version.__wrapped__() != version
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "read.py").write_text("a = 1\n")
    before = source_hash(tmp_path)
    (tmp_path / "part" / "read.py").write_text("a = 2\n")
    changed = source_hash(tmp_path)
    (tmp_path / "part" / "read.py").rename(tmp_path / "part" / "write.py")
    assert len({before, changed, source_hash(tmp_path)}) == 3


def test_records_are_judged_in_order_and_few_are_in_memory() -> None:
    taken = 0

    def records() -> Iterator[dict]:
        nonlocal taken
        for number in range(500):
            taken += 1
            yield {"id": number, "prompt": "", "gold": "1", "response": f"\\boxed{{{number % 2}}}"}

    for given, record in enumerate(judge_all(records(), {})):
        assert (record["id"], record["correct"]) == (given, given % 2 == 1)
        assert taken - given <= verdicts._AHEAD + 1
    assert taken == 500


@pytest.fixture
def long_records(tmp_path: Path) -> Path:
    """A folder with 20 MB of responses."""
    folder = Folder(tmp_path)
    entry = {"rows": 80, "repeats": 8, "checksum": "", "template": "", "temperature": 1.0}
    manifest = {
        "model": "m", "revision": None, "settings": Options(engine="endpoint").as_json(),
        "benchmarks": {"long": entry | {"source": "long.jsonl"}}, "versions": {},
        "created": "2026-01-01T00:00:00+0000",
    }  # fmt: skip
    folder.begin(manifest)
    text = "So we go on and on. " * 1500
    for problem in range(80):
        folder.generations("long").append(
            [
                {
                    "benchmark": "long", "id": str(problem), "repeat": repeat, "prompt_hash": "",
                    "prompt": "", "gold": "2", "response": f"{text}\\boxed{{{repeat}}}",
                    "tokens": 9, "extracted": str(repeat), "correct": False, "reason": "wrong",
                }
                for repeat in range(8)
            ]
        )  # fmt: skip
    folder.close()
    return tmp_path


def test_a_summary_and_a_rescoring_do_not_hold_the_responses(long_records: Path) -> None:
    size = (long_records / "long" / "generations.jsonl").stat().st_size
    assert size > 19_000_000
    folder = Folder(long_records, look=True)
    summarise_folder(folder)  # numpy and the rest, which take memory once
    tracemalloc.start()
    try:
        assert summarise_folder(folder)["average"] == 0.0
        summarising = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert rescore(long_records)["average"] == 0.125
        rescoring = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert summarising < size / 5
    assert rescoring < size / 2  # a few dozen records, each in a few forms
    lines = (long_records / "long" / "generations.jsonl").read_text().splitlines()
    assert [json.loads(line)["correct"] for line in lines] == [k == 2 for k in range(8)] * 80


def test_a_slim_record_is_one_without_its_texts() -> None:
    record = {"id": "a", "prompt": "1+1", "response": "2", "gold": "2", "extracted": "2"}
    assert list(slim([record])) == [{"id": "a", "extracted": "2"}]
