"""Records on disk: whole lines, whatever happens to the process or the disk."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.results.folder import Folder
from vespo_openrlhf.eval.results.lines import Lines
from vespo_openrlhf.eval.results.recorder import Recorder, rates


@pytest.mark.parametrize("torn", ["", '{"a": 3', '{"a": 3}', "x" * 200_000, "\x00" * 10])
def test_a_torn_last_line_is_passed_over_and_then_cut_off(torn: str, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n' + torn)
    lines = Lines(path)
    assert list(lines.read()) == [{"a": 1}, {"a": 2}]
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n' + torn  # reading is no more than that
    lines.append([{"a": 4}])
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 4}\n'


def test_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "lines.jsonl")
    lines.append([{"response": "\ud83d é"}])
    assert list(lines.read()) == [{"response": "\ud83d é"}]


def test_a_file_of_nothing_but_a_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a":')
    assert list(Lines(path).read()) == []
    Lines(path).append([{"a": 1}])
    assert path.read_text() == '{"a": 1}\n'


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("broken", "is not JSON"),
        ("[]", "is no JSON object"),
        ("null", "is no JSON object"),
        ("{}", "lacks a"),
        ("\xff", "is not JSON"),
    ],
)
def test_a_broken_line_in_the_middle_is_named(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=f"line 2, {problem}"):
        list(Lines(path, ["a"]).read())


def test_where_the_disk_is_full_the_file_ends_where_it_did(tmp_path: Path) -> None:
    """A file-size limit fails writes as a full disk does: partly, then wholly."""
    import resource

    lines = Lines(tmp_path / "lines.jsonl")
    lines.append([{"a": 1}])
    before = lines.path.read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(EvaluationError, match="cannot be written"):
            lines.append([{"a": "x" * 1000}])
        assert lines.path.read_text() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lines.append([{"a": 2}])
    assert [line["a"] for line in lines.read()] == [1, 2]


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with pytest.raises(ValueError, match="another process"):
        Folder(tmp_path)
    folder.close()
    Folder(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        Folder(tmp_path / "file" / "out")


def test_the_recorder_writes_what_it_was_given_and_times_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    verdict = {"repeat": 0, "prompt_hash": "", "prompt": "", "gold": "", "correct": True}
    rows = [
        {"benchmark": "ab"[i % 2], "id": str(i), "tokens": 3, "response": "", **verdict}
        for i in range(500)
    ]
    with Recorder(folder) as recorder:
        for row in rows:
            recorder.put(row)
    assert list(folder.generations("a").read()) == rows[::2]
    assert list(folder.generations("b").read()) == rows[1::2]
    assert sum(sum(line["tokens"].values()) for line in folder.timings.read()) == 1500
    assert rates(folder.timings).keys() == {"a", "b"}
    folder.close()


def test_replacing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "lines.jsonl")
    lines.append([{"a": 1}])
    lines.replace([{"a": 2}, {"a": 3}])
    assert [json.loads(line)["a"] for line in lines.path.read_text().splitlines()] == [2, 3]
    assert os.listdir(tmp_path) == ["lines.jsonl"]


def test_replacing_takes_a_block_at_a_time(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "lines.jsonl")
    lines.append([{"a": n} for n in range(1000)])
    taken = 0

    def rows() -> Iterator[dict[str, int]]:
        nonlocal taken
        for row in lines.read():
            taken += 1
            written = (tmp_path / ".lines.jsonl.tmp").read_bytes().count(b"\n")
            assert taken - written <= 64
            yield row

    lines.replace(rows())
    assert [line["a"] for line in lines.read()] == list(range(1000))


def test_looking_into_a_folder_leaves_it_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    looked = Folder(folder, look=True)
    assert looked.manifest() is None
    assert not folder.exists()
    held = Folder(folder)
    Folder(folder, look=True).close()  # also while another writes
    held.close()


@pytest.mark.parametrize(("before", "now"), [({}, {"tolerance": 0.1}), ({"tolerance": 0.1}, {})])
def test_verdicts_with_a_tolerance_do_not_mix_with_those_without(
    before: dict[str, float], now: dict[str, float], tmp_path: Path
) -> None:
    def manifest(more: dict[str, float]) -> dict:
        entry = {"rows": 1, "repeats": 1, "checksum": "", "template": "", "temperature": 1.0}
        return {"model": "m", "settings": {}, "created": "", "benchmarks": {"sums": entry | more}}

    folder = Folder(tmp_path)
    folder.begin(manifest(before))
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "generations.jsonl").write_text("{}\n")
    folder.check(manifest(before | {"also_greedy": False}))  # older entries do not say it
    with pytest.raises(ValueError, match="sums's tolerance"):
        folder.check(manifest(now))
    folder.close()
