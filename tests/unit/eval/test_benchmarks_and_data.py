"""Names, files and rows: what is found, what is read, and what is refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vespo_openrlhf.data.sources import SOURCES, read
from vespo_openrlhf.embedded.arithmetic import task_problems
from vespo_openrlhf.embedded.options import BuildOptions
from vespo_openrlhf.eval.benchmarks import BENCHMARKS, Benchmark, parse
from vespo_openrlhf.eval.benchmarks.loading import find_files, load
from vespo_openrlhf.eval.results.folder import Folder

ROW = {"problem": "1+1", "answer": "2"}


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pandas

        pandas.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_papers_benchmarks_and_their_repeats_are_there() -> None:
    repeats = {name: benchmark.repeats for name, benchmark in BENCHMARKS.items()}
    assert repeats == {
        "aime24": 32, "aime25": 32, "amc23": 16, "math500": 4, "gsm8k": 4, "minerva": 4,
        "olympiadbench": 4, "beyondaime": 4, "gpqa_diamond": 4, "embedded": 4,
    }  # fmt: skip
    assert all(b.licence and b.rows for b in BENCHMARKS.values())


def test_names_are_forgiving_and_repeats_stand_after_a_colon() -> None:
    found = parse("AIME-2024:8, math_500,gpqa:2")
    assert [(s.benchmark.name, s.repeats) for s in found] == [
        ("aime24", 8), ("math500", None), ("gpqa_diamond", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mth500", "did you mean math500"),
        ("aime24:0", "a number of 1 or more"),
        ("aime24:many", "a number of 1 or more"),
        ("", "is empty"),
        ("aime24,aime2024:2", "asks for aime24 twice"),
        ("nowhere.jsonl:2", "there is no such file"),
        ("nowhere.yaml", "there is no such file"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    "name",
    [
        "math500.jsonl", "MATH-500.jsonl", "MATH-500/test.jsonl", "math500_test.parquet",
        "MATH-500/data/test-00000-of-00001.parquet", "sets/math_500/test.json",
    ],
)  # fmt: skip
def test_a_benchmark_is_found_by_the_usual_names(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, [ROW])
    write(tmp_path / "gsm8k" / "main" / "train.jsonl", [ROW])
    assert find_files(BENCHMARKS["math500"], tmp_path) == [tmp_path / name]


def test_the_shards_of_a_file_are_read_in_order_and_the_training_split_is_not(
    tmp_path: Path,
) -> None:
    for shard, ids in enumerate(([0, 1], [2])):
        rows = [{"question": f"{i}?", "answer": f"So\n#### {i}"} for i in ids]
        write(tmp_path / "gsm8k" / "main" / f"test-0000{shard}-of-00002.parquet", rows)
    write(tmp_path / "gsm8k" / "main" / "train-00000-of-00001.parquet", [ROW])
    loaded = load(replace(BENCHMARKS["gsm8k"], rows=3), tmp_path)
    assert [(p.id, p.gold) for p in loaded.problems] == [("0", "0"), ("1", "1"), ("2", "2")]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "math500.jsonl", [ROW])
    write(tmp_path / "MATH-500" / "test.jsonl", [ROW])
    with pytest.raises(ValueError, match="several files"):
        load(BENCHMARKS["math500"], tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW], "holds 1 rows, but the benchmark has 500"),
        ([], "is empty"),
    ],
)
def test_a_benchmark_with_other_rows_is_refused(
    rows: list[dict], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "math500.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        load(BENCHMARKS["math500"], tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"problem": "1+1"}], "no column answer or label or gold; it has problem"),
        ([{"text": "1+1", "answer": "2"}], "no column problem or question or prompt"),
        ([ROW, {"problem": "", "answer": "2"}], "row 1 .* has nothing in column problem"),
        ([ROW, {"problem": "1+2", "answer": None}], "row 1 .* has nothing in column answer"),
        ([{"id": 1, **ROW}, {"id": 1, **ROW}], "row 1 .* has no id of its own"),
    ],
)
def test_rows_that_cannot_be_asked_are_refused(
    rows: list[dict], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "mine.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        load(parse(str(path))[0].benchmark)


def test_a_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("not json\n")
    with pytest.raises(ValueError, match="cannot be read"):
        load(parse(str(path))[0].benchmark)


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        load(BENCHMARKS["aime24"], tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"call it aime24\.jsonl"):
        load(BENCHMARKS["aime24"], tmp_path)


def test_ids_are_the_datas_own_and_prompts_of_a_file_are_sent_as_they_are(tmp_path: Path) -> None:
    rows = [{"unique_id": "a/1", "id": 7, **ROW}, {"unique_id": "a/2", "id": 8, **ROW}]
    loaded = load(parse(str(write(tmp_path / "mine.jsonl", rows)))[0].benchmark)
    assert [p.id for p in loaded.problems] == ["a/1", "a/2"]
    assert loaded.benchmark.template == "qwen"
    path = write(tmp_path / "prompts.jsonl", [{"prompt": "1+1=", "label": 2}])
    loaded = load(parse(str(path))[0].benchmark)
    assert (loaded.benchmark.template, loaded.problems[0].gold) == ("plain", "2")


def gpqa(folder: Path) -> Path:
    """GPQA's columns, with questions made up here."""
    rows = [
        {
            "Question": f"Which? ({i})",
            "Correct Answer": f"right {i}",
            **{f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)},
        }
        for i in range(198)
    ]
    return write(folder / "gpqa_diamond.jsonl", rows)


def test_choices_stand_in_an_order_of_each_repeat_and_seed_and_the_gold_is_the_letter(
    tmp_path: Path,
) -> None:
    gpqa(tmp_path)
    loaded = load(BENCHMARKS["gpqa_diamond"], tmp_path)
    assert loaded == load(BENCHMARKS["gpqa_diamond"], tmp_path)
    asked = {
        (p.id, seed, repeat): loaded.ask(p, seed, repeat)
        for p in loaded.problems for seed in (0, 1) for repeat in range(4)
    }  # fmt: skip
    for (number, _, _), question in asked.items():
        letter = json.loads(question.gold)["answer"]
        assert f"({letter}) right {number}\n" in question.text
        assert question.order["ABCD".index(letter)] == 0
    letters = [json.loads(question.gold)["answer"] for question in asked.values()]
    assert all(330 < letters.count(letter) < 462 for letter in "ABCD")  # of 1,584
    for problem in loaded.problems[:20]:
        orders = {asked[problem.id, seed, repeat].order for seed in (0, 1) for repeat in range(4)}
        assert len(orders) > 2
        # More repeats leave the first ones' order as it was.
        assert loaded.ask(problem, 0, 2) == asked[problem.id, 0, 2]


def test_the_first_problems_of_a_benchmark_are_told_apart_from_all(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}+1", "answer": i + 1} for i in range(5)]
    loaded = load(parse(str(write(tmp_path / "mine.jsonl", rows)))[0].benchmark)
    few = loaded.first(2)
    assert [p.id for p in few.problems] == ["0", "1"]
    assert (few.whole, few.checksum != loaded.checksum) == (5, True)
    assert loaded.first(5) == loaded.first(None) == loaded


def test_a_problem_has_the_tolerance_of_its_row(tmp_path: Path) -> None:
    errors = ["1e-1", None, "", "1e-1,1e-2", "nan"]
    rows = [{"question": str(i), "final_answer": ["$2$"], "error": e} for i, e in enumerate(errors)]
    olympiad = replace(BENCHMARKS["olympiadbench"], rows=5)
    write(tmp_path / "olympiadbench.jsonl", rows)
    assert [p.tolerance for p in load(olympiad, tmp_path).problems] == [0.1, 0, 0, 0, 0]
    write(tmp_path / "olympiadbench.jsonl", [{k: r[k] for k in list(r)[:2]} for r in rows])
    with pytest.raises(ValueError, match="no column error"):
        load(olympiad, tmp_path)
    with pytest.raises(ValueError, match="tolerance is 0 or more"):
        Benchmark("mine", hub="a/b", tolerance=2)


def test_a_users_own_entry_in_yaml_and_in_python(tmp_path: Path) -> None:
    write(tmp_path / "data.jsonl", [{"q": "1+1", "a": "2"}])
    (tmp_path / "own.yaml").write_text("path: data.jsonl\nproblem: q\ngold: [a]\nrepeats: 2\n")
    (selection,) = parse(f"{tmp_path}/own.yaml:8")
    assert (selection.benchmark.name, selection.repeats) == ("own", 8)
    assert load(selection.benchmark).problems[0].text == "1+1"
    (tmp_path / "own.py").write_text(
        "from vespo_openrlhf.eval.benchmarks import Benchmark\n"
        "MINE = Benchmark('mine', hub='a/b', rows=3)\n"
    )
    (selection,) = parse(f"{tmp_path}/own.py:MINE")
    assert (selection.benchmark, selection.repeats) == (Benchmark("mine", hub="a/b", rows=3), None)
    assert parse(f"{tmp_path}/own.py:MINE:8")[0].repeats == 8
    with pytest.raises(ValueError, match="there is no 'YOURS' in it"):
        parse(f"{tmp_path}/own.py:YOURS")
    for entry, message in (
        ("path: data.jsonl\nrepeat: 2\n", "did you mean repeats"),
        ("path: data.jsonl\nrepeats: four\n", "own.yaml does not describe a benchmark"),
        ("path: data.jsonl\ngold: 3\n", "own.yaml does not describe a benchmark"),
    ):
        (tmp_path / "own.yaml").write_text(entry)
        with pytest.raises(ValueError, match=message):
            parse(f"{tmp_path}/own.yaml")
    (tmp_path / "own.yaml").write_text("path: own.py\n")
    with pytest.raises(ValueError, match=r"own\.py: expected one of \.jsonl"):
        load(parse(f"{tmp_path}/own.yaml")[0].benchmark)


def test_the_embedded_benchmark_needs_no_files() -> None:
    loaded = load(BENCHMARKS["embedded"])
    assert len(loaded.problems) == 256
    a, b = loaded.problems[0].text.removesuffix("=").split("+")
    assert loaded.problems[0].gold == str(int(a) + int(b))


def test_the_embedded_benchmark_is_what_the_embedded_task_holds_out() -> None:
    heldout, train, _ = task_problems(BuildOptions())
    asked = {problem.text for problem in load(BENCHMARKS["embedded"]).problems}
    assert asked == {problem.prompt for problem in heldout}
    given, _, _ = read(SOURCES["arithmetic"])
    assert [row.problem for row in given] == [problem.prompt for problem in train]


READ = """
import sys
from vespo_openrlhf.eval.benchmarks import Benchmark
from vespo_openrlhf.eval.benchmarks.loading import load
loaded = load(Benchmark("sums", hub="me/sums", revision=sys.argv[1] or None))
print(loaded.revision, len(loaded.problems))
"""


def test_the_commit_of_the_hubs_data_is_known_and_can_be_wanted(tmp_path: Path) -> None:
    """From the cache of `datasets`, laid out as it is after a download: no hub can be asked."""
    import datasets

    commit = "0123456789abcdef0123456789abcdef01234567"
    file = write(tmp_path / "test.parquet", [ROW])
    builder = datasets.load_dataset_builder(
        "parquet", data_files={"test": str(file)}, cache_dir=str(tmp_path / "made")
    )
    builder.download_and_prepare()
    cached = tmp_path / "home" / "datasets" / "me___sums" / "default" / "0.0.0" / commit
    cached.mkdir(parents=True)
    for path in Path(builder.cache_dir).iterdir():
        (cached / path.name.replace("parquet-", "sums-")).write_bytes(path.read_bytes())

    def read(revision: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
        for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
            environment.pop(name, None)
        return subprocess.run(
            [sys.executable, "-c", READ, revision], env=environment, capture_output=True, text=True
        )

    for revision in ("", commit):
        assert read(revision).stdout.split() == [commit, "1"]
    other = "f" * 40
    assert f"me/sums is wanted at {other}, but only {commit}" in read(other).stderr


def test_other_data_of_the_hub_does_not_mix_with_what_was_recorded(tmp_path: Path) -> None:
    def manifest(revision: str, checksum: str) -> dict:
        entry = {"rows": 1, "repeats": 1, "checksum": checksum, "revision": revision}
        entry |= {"template": "{problem}", "temperature": 1.0, "also_greedy": False}
        return {"model": "m", "settings": {}, "created": "", "benchmarks": {"sums": entry}}

    folder = Folder(tmp_path)
    folder.begin(manifest("aaa", "1"))
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "generations.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="its data on the hub was revision aaa, and is bbb"):
        folder.check(manifest("bbb", "2"))
    folder.check(manifest("bbb", "1"))  # a new card, and the same rows
    folder.close()
