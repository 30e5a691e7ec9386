"""`python -m vespo_openrlhf.data prepare` on data written here, with the real verifier.

The hub is switched off: of the benchmarks, those are there whose files the tests write.
"""

import fcntl
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vespo_openrlhf.data.__main__ import main
from vespo_openrlhf.data.checks import check_prompts
from vespo_openrlhf.data.prepare import Options, prepare
from vespo_openrlhf.data.sources import SOURCES, read
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.eval.benchmarks.templates import find_template
from vespo_openrlhf.reward import verify
from vespo_openrlhf.reward.labels import parse_label

GSM8K_ROWS = 1_319


def write(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def question(number: int) -> str:
    return (
        f"A farmer keeps {number} hens, and each of the hens lays three eggs on every day but "
        f"Sunday. The farmer's neighbour number {number} buys half of them. How many are left?"
    )


def read_parquet(path: Path) -> list[dict[str, str]]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GSM8K of the right size, whose problems are 10,000 to 11,318."""
    folder = tmp_path_factory.mktemp("benchmarks")
    rows = [{"question": question(10_000 + i), "answer": f"#### {i}"} for i in range(GSM8K_ROWS)]
    write(folder / "gsm8k_test.jsonl", rows)
    return folder


def test_each_reason_is_found_and_counted(tmp_path: Path, benchmarks: Path) -> None:
    good = [{"problem": f"What is {i} plus {i}?", "answer": str(2 * i)} for i in range(300)]
    changed = question(10_005).replace("hens", "geese", 1)
    bad = [
        {"problem": "", "answer": "1"},
        {"problem": "No gold?", "answer": ""},
        {"problem": "What is 7 plus 7?", "answer": "14"},  # as written
        {"problem": "what is $8$ plus $8$", "answer": "16.0"},  # in another spelling
        {"problem": "Which of two?", "answer": "1"},
        {"problem": "Which of two?!", "answer": "2"},
        {"problem": question(10_003), "answer": "3"},
        {"problem": changed, "answer": "5"},
        {"problem": "An unreadable gold?", "answer": r"\frac{1}{"},
    ]
    source = write(tmp_path / "mine.jsonl", good + bad)
    out = tmp_path / "out"
    report = prepare(Options("custom", out, (source,), benchmarks, validation=0.1))
    assert report.read == len(good) + len(bad)
    assert report.dropped == {
        "no_problem": 1,
        "no_gold": 1,
        "duplicate": 2,
        "conflict": 2,
        "contaminated_exact": 1,
        "contaminated_overlap": 1,
        "gold_unusable": 1,
        "gold_not_itself": 0,
        "overlong": 0,
    }
    assert report.contaminated == {"gsm8k": {"exact": 1, "overlap": 1}}
    assert sum(report.splits.values()) == len(good)
    assert report.read == sum(report.splits.values()) + sum(report.dropped.values())

    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert Counter(line["reason"] for line in dropped) == Counter(
        {name: count for name, count in report.dropped.items() if count and name != "duplicate"}
    )
    overlap = next(line for line in dropped if line["reason"] == "contaminated_overlap")
    assert (overlap["benchmark"], overlap["id"]) == ("gsm8k", "5")
    assert json.loads((out / "manifest.json").read_text())["dropped"] == report.dropped


def test_training_can_read_what_was_written(tmp_path: Path) -> None:
    rows = [
        {"problem": "What is a half?", "answer": {"answer": "1/2", "alternatives": ["0.5"]}},
        {"problem": "Which letter?", "answer": {"answer": "B", "type": "choice"}},
    ]
    out = tmp_path / "out"
    prepare(Options("custom", out, (write(tmp_path / "rows.jsonl", rows),), validation=0))
    check_prompts(str(out / "train.parquet"), input_key="prompt", label_key="label", split="train")
    half, letter = read_parquet(out / "train.parquet")
    assert set(half) == {"prompt", "label", "source"}
    assert half["prompt"].startswith("What is a half?\nPlease reason step by step")
    assert half["source"] == "custom"
    label = parse_label(half["label"])
    assert label.golds == ("1/2", "0.5")
    assert label.source == "custom"
    assert parse_label(letter["label"]).type == "choice"
    assert not (out / "validation.parquet").exists()  # a split without rows


def test_a_problem_stays_in_its_split(tmp_path: Path) -> None:
    rows = [{"problem": f"What is {i} squared?", "answer": str(i * i)} for i in range(400)]
    splits = []
    for name, part in (("all", rows), ("half", rows[::2])):
        out = tmp_path / name
        file = write(tmp_path / f"{name}.jsonl", part)
        prepare(Options("custom", out, (file,), validation=0.2, template="plain"))
        splits.append({row["prompt"] for row in read_parquet(out / "validation.parquet")})
    assert 50 < len(splits[0]) < 110
    assert splits[1] == splits[0] & {row["problem"] for row in rows[::2]}


def test_the_same_command_gives_the_same_files(tmp_path: Path) -> None:
    rows = [{"problem": f"What is {i}?", "answer": str(i)} for i in range(50)]
    options = Options("custom", tmp_path / "out", (write(tmp_path / "rows.jsonl", rows),))
    files = []
    for _ in range(2):
        prepare(options)
        files.append({path.name: path.read_bytes() for path in options.out.iterdir()})
    assert files[0] == files[1]


def test_what_was_prepared_stays_where_it_cannot_be_prepared_again(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"problem": "What is 1?", "answer": "1"}])
    options = Options("custom", tmp_path / "out", (file,))
    prepare(options)
    before = {path.name: path.read_bytes() for path in options.out.iterdir()}
    file.unlink()
    with pytest.raises(ValueError, match="there is no such file"):
        prepare(options)
    assert {path.name: path.read_bytes() for path in options.out.iterdir()} == before


def test_the_card_says_loudly_what_was_not_checked(
    tmp_path: Path, benchmarks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"What is {i}?", "answer": f"It is.\n#### {i}"} for i in range(20)]
    file = write(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out"
    command = ["prepare", "gsm8k", "--from", str(file), "--out", str(out), "--validation", "0"]
    assert main([*command, "--benchmark-data", str(benchmarks)]) == 0
    printed = capsys.readouterr()
    assert "20 rows in" in printed.out
    assert "checked against the benchmarks: gsm8k, embedded" in printed.out
    assert "WARNING: NOT CHECKED for contamination, 8 benchmarks" in printed.err
    assert "math500: no file of it" in printed.err
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert "**Warning:** not checked for contamination" in card
    assert "| gsm8k | 1,319 | 0 | 0 |" in card
    assert "| **math500** | | | | **not checked** |" in card


def test_data_that_nothing_was_there_to_check_against_do_not_exit_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The built-in sums are always there, and say nothing of these problems."""
    file = write(tmp_path / "rows.jsonl", [{"problem": question(7), "answer": "7"}])
    own = write(tmp_path / "exam.jsonl", [{"problem": "What is 1?", "answer": "1"}])
    command = ["prepare", "custom", "--from", str(file), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "NO benchmark was there to check against" in capsys.readouterr().err
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert main([*command, "--against", str(own)]) == 0
    assert main(["prepare", "arithmetic", "--out", str(tmp_path / "sums")]) == 0


def test_problems_of_the_users_own_are_kept_out(tmp_path: Path) -> None:
    rows = [{"problem": f"What is {i}?", "answer": str(i)} for i in range(20)]
    exam = write(tmp_path / "exam.jsonl", [rows[3], {"problem": "Another?", "answer": "1"}])
    file = write(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out"
    report = prepare(Options("custom", out, (file,), against=(exam,), validation=0))
    assert report.contaminated["exam"]["exact"] == 1
    assert report.checked["exam"]["problems"] == 2
    prompts = [row["prompt"] for row in read_parquet(out / "train.parquet")]
    assert len(prompts) == 19
    assert not any("What is 3?" in prompt for prompt in prompts)
    assert "| exam | 2 | 1 |" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.jsonl", "there is no such file"), ("gsm8k.jsonl", "a benchmark gsm8k already")],
)
def test_own_problems_that_cannot_be_had_are_an_error(
    tmp_path: Path, name: str, message: str
) -> None:
    file = write(tmp_path / "rows.jsonl", [{"problem": "What is 1?", "answer": "1"}])
    write(tmp_path / "gsm8k.jsonl", [{"problem": "What is 2?", "answer": "2"}])
    with pytest.raises(ValueError, match=message):
        prepare(Options("custom", tmp_path / "out", (file,), against=(tmp_path / name,)))
    assert not (tmp_path / "out").exists()


def test_data_stay_whole_where_the_new_ones_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle of it, say."""
    rows = [{"problem": f"What is {i}?", "answer": str(i)} for i in range(20)]
    options = Options("custom", tmp_path / "out", (write(tmp_path / "rows.jsonl", rows),))
    prepare(options)
    before = {path.name: path.read_bytes() for path in options.out.iterdir()}
    write(tmp_path / "rows.jsonl", rows[:10])

    def full(*args: object) -> str:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("vespo_openrlhf.data.publish.card", full)
        with pytest.raises(OSError, match="no space"):
            prepare(options)
    assert {path.name: path.read_bytes() for path in options.out.iterdir()} == before


def test_two_at_once_write_one_after_the_other(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"problem": "What is 1?", "answer": "1"}])
    out = tmp_path / "out"
    out.mkdir()
    with ThreadPoolExecutor() as pool:
        folder = os.open(out, os.O_RDONLY)  # as another process holds it that is writing
        fcntl.flock(folder, fcntl.LOCK_EX)
        waiting = pool.submit(prepare, Options("custom", out, (file,)))
        with pytest.raises(TimeoutError):
            waiting.result(timeout=2)
        assert list(out.iterdir()) == []
        os.close(folder)
        assert waiting.result(timeout=60).read == 1
    assert (out / "manifest.json").is_file()


def test_arithmetic_shares_nothing_with_its_benchmark(tmp_path: Path) -> None:
    report = prepare(Options("arithmetic", tmp_path / "out"))
    assert report.read == sum(report.splits.values()) == 4_096
    assert report.checked["embedded"]["problems"] == 256
    first = read_parquet(tmp_path / "out" / "train.parquet")[0]
    assert first["prompt"].endswith("=")  # plain: the tiny model knows no instruction


def rows_of(name: str, file: Path) -> list[tuple[str, str]]:
    return [(row.problem, row.gold) for row in read(SOURCES[name], (file,))[0]]


def test_dapo_rows_lose_their_instruction(tmp_path: Path) -> None:
    prompt = (
        "Solve the following math problem step by step. The last line of your response should be "
        "of the form Answer: $Answer (without quotes) where $Answer is the answer to the problem."
        '\n\nWhat is $1+1$?\n\nRemember to put your answer on its own line after "Answer:".'
    )
    row = {
        "data_source": "math_dapo",
        "prompt": [{"content": prompt, "role": "user"}],
        "reward_model": {"ground_truth": "2", "style": "rule"},
    }
    assert (
        rows_of("dapo-math-17k", write(tmp_path / "a.jsonl", [row] * 3))
        == [("What is $1+1$?", "2")] * 3
    )
    edition = {"prompt": "What is $1+1$?", "solution": "2"}
    assert rows_of("dapo-math-17k", write(tmp_path / "b.jsonl", [edition])) == [
        ("What is $1+1$?", "2")
    ]


@pytest.mark.parametrize("name", ["custom", "deepscaler", "dapo-math-17k"])
@pytest.mark.parametrize("template", ["verl", "qwen_space"])
def test_what_vespos_published_code_prepared_is_read(
    name: str, template: str, tmp_path: Path
) -> None:
    """Its own Parquet: prompts as messages, golds nested, one answer a list of one."""
    import pyarrow
    import pyarrow.parquet

    text = find_template(template).text
    problems = [f"What is {number}?" for number in range(3)]
    rows = [
        {
            "id": f"deepscaler_{number}",
            "data_source": "agentica-org/DeepScaleR-Preview-Dataset",
            "prompt": [
                {"role": "user", "content": text.replace("{problem}", f"What is {number}?")}
            ],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(number)},
            "extra_info": {"split": "train", "index": number, "has_solution": True},
        }
        for number, problem in enumerate(problems)
    ]
    file = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    assert rows_of(name, file) == list(zip(problems, ["0", "1", "2"], strict=True))
    # With its own template the prompt is what it was.
    prepare(Options(name, tmp_path / "out", (file,), validation=0, template=template))
    prompts = [row["prompt"] for row in read_parquet(tmp_path / "out" / "train.parquet")]
    assert prompts == [row["prompt"][0]["content"] for row in rows]


def test_a_list_of_answers_is_one_gold_of_several_parts(tmp_path: Path) -> None:
    rows = [
        {"problem": "One?", "answer": ["7"]},
        {"problem": "Both roots?", "answer": ["-2", "3"]},
        {"problem": "None?", "answer": []},
        {"problem": "Half?", "answer": ["-2", None]},
        {"problem": "Float?", "answer": [33.0]},
    ]
    file = write(tmp_path / "lists.jsonl", rows)
    golds = {"One?": "7", "Both roots?": "-2, 3", "None?": "", "Half?": "", "Float?": "33"}
    assert rows_of("custom", file) == list(golds.items())
    report = prepare(Options("custom", tmp_path / "out", (file,), validation=0))
    assert (report.splits, report.dropped["no_gold"]) == ({"train": 3}, 2)
    label = parse_label(read_parquet(tmp_path / "out" / "train.parquet")[1]["label"])
    assert verify(r"\boxed{3, -2}", label.golds).correct
    assert not verify(r"\boxed{3}", label.golds).correct


def test_prompts_are_dropped_above_a_length_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"problem": "1" * length + "=", "answer": "1"} for length in (3, 20, 21, 60)]
    file = write(tmp_path / "rows.jsonl", rows)

    def tokens(problem: str) -> int:
        chat = [{"role": "user", "content": problem}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    limit = tokens(rows[1]["problem"])
    assert tokens(rows[2]["problem"]) > limit
    out = tmp_path / "out"
    words = ["prepare", "custom", "--from", str(file), "--out", str(out), "--template", "plain"]
    words += ["--validation", "0", "--max-prompt-tokens", str(limit)]
    assert main([*words, "--tokenizer", str(tmp_path / "model")]) == 1  # no benchmark is here
    prompts = [row["prompt"] for row in read_parquet(out / "train.parquet")]
    assert prompts == [row["problem"] for row in rows[:2]]
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in dropped] == ["overlong"] * 2
    assert dropped[1]["tokens"] == tokens(rows[3]["problem"])
    assert f"at most {limit} tokens" in (out / "README.md").read_text()
    assert "the prompt has more tokens than asked for" in capsys.readouterr().out


def test_golds_are_taken_out_of_solutions(tmp_path: Path) -> None:
    math = [
        {"problem": "x?", "solution": r"First \boxed{1} is wrong. So $x = \boxed{\frac{1}{2}}$."},
        {"problem": "y?", "solution": "No box."},
    ]
    assert rows_of("math", write(tmp_path / "math.jsonl", math)) == [
        ("x?", r"\frac{1}{2}"),
        ("y?", ""),
    ]
    gsm8k = [
        {"question": "x?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"},
        {"question": "y?", "answer": "No marker."},
    ]
    assert rows_of("gsm8k", write(tmp_path / "gsm8k.jsonl", gsm8k)) == [("x?", "2"), ("y?", "")]


def test_what_was_prepared_can_be_prepared_again(tmp_path: Path) -> None:
    rows = [{"problem": f"What is {i}?", "answer": str(i)} for i in range(10)]
    file = write(tmp_path / "rows.jsonl", rows)
    prepare(Options("custom", tmp_path / "once", (file,), validation=0))
    again = Options("custom", tmp_path / "twice", (tmp_path / "once/train.parquet",), validation=0)
    prepare(again)
    once, twice = (read_parquet(tmp_path / d / "train.parquet") for d in ("once", "twice"))
    assert once == twice


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["custom"], "name its files with --from"),
        (["custom", "--from", "gone.jsonl"], "there is no such file"),
        (["custom", "--from", "rows.jsonl", "rows.csv"], "must be of one kind"),
        (["custom", "--from", "rows.txt"], "expected one of .jsonl"),
        (["custom", "--from", "empty.jsonl"], "is empty"),
        (["gsm8k", "--from", "rows.jsonl"], "has no column answer or label or gold; it has"),
        (["dapo-math-17k", "--from", "flat.jsonl"], "has no column reward_model.ground_truth or"),
        (["custom", "--from", "blank.jsonl"], "none is left: 1 no gold answer in it"),
        (["gsm8k"], "cannot be read from the hub"),
        (["arithmetic", "--template", "qwne"], "did you mean qwen"),
        (["arithmetic", "--validation", "1"], "--validation 1.0"),
        (["arithmetic", "--max-prompt-tokens", "9"], "--tokenizer go together"),
        (["arithmetic", "--tokenizer", "x"], "--tokenizer go together"),
        (["arithmetic", "--max-prompt-tokens", "0", "--tokenizer", "x"], "tokens 0: 1 or more"),
        (["arithmetic", "--benchmark-data", "gone"], "--benchmark-data gone"),
        (["arithmetic", "--overlap", "0"], "--overlap 0.0"),
        (["arithmetic", "--out", "other"], "holds another dataset"),
        (["arithmetic", "--out", "foreign"], "holds Parquet files and no manifest.json"),
    ],
)
def test_mistakes_exit_with_2_and_say_what_to_change(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", [{"question": "x?", "wrong": "1"}])
    write(tmp_path / "blank.jsonl", [{"question": "x?", "answer": ""}])
    write(tmp_path / "flat.jsonl", [{"prompt": "x?", "reward_model": "1"}])
    (tmp_path / "rows.csv").write_text("question,answer\nx?,1\n")
    (tmp_path / "rows.txt").write_text("x")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"source": "math"}')
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "train.parquet").write_text("")
    assert main(["prepare", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "foreign" / "train.parquet").exists()
