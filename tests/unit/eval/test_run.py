"""`vespo eval run` and `score` around a stand-in server: records, resuming, and what fails."""

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.eval.__main__ import main

Command = Callable[..., list[str]]
ReadLines = Callable[[Path], list[str]]


@pytest.fixture
def done(command: Command, tmp_path: Path) -> Path:
    """The folder of an uninterrupted run."""
    assert main(command(tmp_path / "done")) == 0
    return tmp_path / "done"


def test_a_run_leaves_records_a_manifest_and_a_summary(done: Path, lines: ReadLines) -> None:
    records = [json.loads(line) for line in lines(done / "sums")]
    assert {(r["id"], r["repeat"]) for r in records} == {
        (f"sum-{i}", k) for i in range(40) for k in range(4)
    }
    assert len({record["seed"] for record in records}) == 160
    record = records[0]
    assert list(record) == [
        "benchmark", "id", "repeat", "seed", "prompt_hash", "prompt", "gold", "response", "tokens",
        "finish_reason", "extracted", "correct", "reason", "verifier",
    ]  # fmt: skip
    assert record["tokens"] == len(record["response"])
    summary = json.loads((done / "summary.json").read_text())
    numbers = summary["benchmarks"]["sums"]
    share = sum(record["correct"] for record in records) / 160
    assert numbers["avg@k"] == pytest.approx(share)
    assert 0.3 < share < 0.7
    assert (numbers["problems"], numbers["repeats"]) == (40, 4)
    assert numbers["tokens_per_second"] > 0
    assert summary["average"] == numbers["avg@k"]
    manifest = json.loads((done / "manifest.json").read_text())
    assert manifest["settings"]["temperature"] == 1.0
    assert manifest["benchmarks"]["sums"]["rows"] == 40
    assert manifest["versions"]["python"]


def test_the_same_command_again_generates_nothing(
    done: Path, command: Command, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = len(server.requests)
    before = (done / "sums" / "generations.jsonl").read_bytes()
    assert main(command(done)) == 0
    assert "avg@4" in capsys.readouterr().out
    assert len(server.requests) == asked
    assert (done / "sums" / "generations.jsonl").read_bytes() == before


def test_killed_at_random_and_resumed_the_records_are_those_of_an_uninterrupted_run(
    done: Path, command: Command, server: Any, lines: ReadLines, tmp_path: Path
) -> None:
    server.delay_s = 0.3
    out = tmp_path / "killed"
    process = [sys.executable, "-m", "vespo_openrlhf.eval", *command(out, "--concurrency", "8")]
    chance = random.Random(0)
    records = out / "sums" / "generations.jsonl"
    for _ in range(3):
        size = records.stat().st_size if records.exists() else 0
        running = subprocess.Popen(process, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (records.exists() and records.stat().st_size > size):
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.02)
        time.sleep(chance.random())
        running.kill()
        running.wait()
    with open(records, "ab") as file:
        file.write(b'{"benchmark": "sums", "id": "su')  # as a kill within a write leaves it
    partial = len(records.read_bytes().splitlines()) - 1
    assert 0 < partial < 160
    server.delay_s, server.requests = 0.0, []
    assert main(command(out)) == 0
    assert len(server.requests) == 160 - partial
    assert lines(out / "sums") == lines(done / "sums")
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (out, done))
    for summary in (ours, theirs):
        summary["benchmarks"]["sums"].pop("tokens_per_second")
    assert ours == theirs


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_a_run_keeps_what_came_back(
    signum: int, command: Command, server: Any, tmp_path: Path
) -> None:
    server.delay_s = 0.2
    out = tmp_path / "out"
    arguments = command(out, "--concurrency", "4")
    running = subprocess.Popen(
        [sys.executable, "-m", "vespo_openrlhf.eval", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets its background jobs ignore interrupts, and this test's process may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(server.requests) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signum)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 128 + signum
    assert "interrupted" in errors
    assert len((out / "sums" / "generations.jsonl").read_text().splitlines()) >= 4


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--temperature", "0.6"], "temperature 1.0 there, 0.6 now"),
        (["--system", "Add."], "system '' there, 'Add.' now"),
        (["--template", "dapo"], "template"),
        (["--max-tokens", "9"], "max_tokens 8192 there, 9 now"),
    ],
)
def test_other_settings_do_not_mix_with_old_records(
    more: list[str], named: str, done: Path, command: Command, lines: ReadLines,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = lines(done / "sums")
    assert main(command(done, *more)) == 2
    error = capsys.readouterr().err
    assert named in error
    assert "--fresh" in error
    assert lines(done / "sums") == before
    assert main(command(done, *more, "--fresh")) == 0
    assert len(lines(done / "sums")) == 160


def test_other_data_or_fewer_repeats_do_not_mix_and_more_repeats_are_added(
    done: Path, command: Command, problems: Path, server: Any, lines: ReadLines,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = lines(done / "sums")
    fewer, more = ([*command(done)[:-1], f"{problems}:{k}"] for k in (2, 6))
    assert main(fewer) == 2
    assert "has 4 repeats there, 2 now" in capsys.readouterr().err
    server.requests = []
    assert main(more) == 0
    assert len(server.requests) == 80
    assert set(before) < set(lines(done / "sums"))
    problems.write_text(problems.read_text().replace('"answer": 1}', '"answer": 2}'))
    assert main(more) == 2
    assert "checksum" in capsys.readouterr().err


def test_also_greedy_is_a_benchmark_of_its_own(
    command: Command, tmp_path: Path, lines: ReadLines
) -> None:
    out = tmp_path / "out"
    assert main(command(out, "--also-greedy")) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["benchmarks"]["sums-greedy"]["avg@k"] == 1.0
    assert summary["average"] == summary["benchmarks"]["sums"]["avg@k"] < 1
    assert len(lines(out / "sums-greedy")) == 40


def test_a_dry_run_says_how_much_and_touches_nothing(
    command: Command, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(command(out, "--dry-run", "--max-tokens", "100")) == 0
    text = capsys.readouterr().out
    assert "160 of 160 responses are to be generated: at most 16,000 tokens" in text
    assert "put your final answer within \\boxed{}" in text
    assert not server.requests
    assert not out.exists()
    assert main(command(out)) == 0
    assert main(command(out, "--dry-run")) == 0
    assert "0 of 160 responses" in capsys.readouterr().out


def test_a_users_benchmark_may_be_called_greedy(
    command: Command, problems: Path, tmp_path: Path, lines: ReadLines,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    named = problems.with_name("sums-greedy.jsonl")
    named.write_text('{"problem": "1+1", "answer": "never"}\n' * 10)
    out = tmp_path / "out"
    arguments = command(out)
    place = arguments.index("--benchmarks") + 1
    arguments[place] = f"{problems}:4,{named}:4"
    assert main(arguments) == 0
    summary = json.loads((out / "summary.json").read_text())
    accuracies = [numbers["avg@k"] for numbers in summary["benchmarks"].values()]
    assert accuracies[0] > accuracies[1] == 0.0
    assert summary["average"] == pytest.approx(accuracies[0] / 2)
    for selection in (arguments[place], f"{problems}:4"):  # there it would share the folder
        arguments[place] = selection
        capsys.readouterr()
        assert main([*arguments, "--also-greedy"]) == 2
        assert "sums-greedy" in capsys.readouterr().err
    assert len(lines(out / "sums-greedy")) == 40


def test_a_dry_run_leaves_a_torn_line_as_it_is(
    done: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    records = done / "sums" / "generations.jsonl"
    whole = records.read_bytes()
    records.write_bytes(whole[:-10])
    paths = [done, *done.rglob("*")]
    before = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
    capsys.readouterr()
    assert main(command(done, "--dry-run")) == 0
    assert "1 of 160 responses are to be generated" in capsys.readouterr().out
    after = [done, *done.rglob("*")]
    assert before == [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in after]
    assert main(command(done)) == 0
    assert sorted(records.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize("line", ["[]", "{}", "3"])
def test_a_record_that_is_none_is_named_by_its_line(
    line: str, done: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(done / "sums" / "generations.jsonl", "a") as file:
        file.write(f"{line}\n")
    for arguments in (command(done), command(done, "--dry-run"), ["score", str(done)]):
        capsys.readouterr()
        assert main(arguments) == 2
        assert "generations.jsonl, line 161, " in capsys.readouterr().err


def test_raw_prompts_stop_strings_and_sampling_reach_the_endpoint(
    command: Command, server: Any, tmp_path: Path
) -> None:
    more = ["--raw", "--stop", "END", "--top-p", "0.9", "--max-tokens", "7", "--template", "plain"]
    assert main(command(tmp_path / "out", *more)) == 0
    request = server.requests[0]
    assert request["prompt"].replace("+", "").isdigit()
    assert {name: request[name] for name in ("stop", "top_p", "max_tokens", "temperature")} == {
        "stop": ["END"], "top_p": 0.9, "max_tokens": 7, "temperature": 1.0,
    }  # fmt: skip


def test_more_sampling_options_are_sent_where_they_are_set(
    command: Command, server: Any, tmp_path: Path
) -> None:
    names = {"top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"}
    assert main(command(tmp_path / "plain")) == 0
    assert not names & server.requests[-1].keys()
    assert server.requests[-1]["max_tokens"] == 8192
    more = ["--top-k", "20", "--min-p", "0.1", "--repetition-penalty", "1.1"]
    more += ["--presence-penalty", "0.5", "--frequency-penalty", "-0.5"]
    more += ["--chat-template-options", '{"enable_thinking": false}', "--max-completion-tokens"]
    out = tmp_path / "more"
    assert main(command(out, *more)) == 0
    sent = server.requests[-1]
    assert {name: sent[name] for name in names} == {
        "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }  # fmt: skip
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert sent["max_completion_tokens"] == 8192
    assert "max_tokens" not in sent
    assert json.loads((out / "manifest.json").read_text())["settings"]["top_k"] == 20
    assert main(command(out, *more[2:])) == 2  # they decide the responses: no mixing


def test_a_limited_run_says_so_everywhere_and_mixes_with_no_whole_one(
    command: Command, server: Any, tmp_path: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "limited"
    assert main(command(out, "--limit", "5", "--dry-run")) == 0
    assert "first 5 of 40" in capsys.readouterr().out
    server.requests = []
    assert main(command(out, "--limit", "5")) == 0
    assert len(server.requests) == 20
    assert "first 5 of 40" in capsys.readouterr().out
    numbers = json.loads((out / "summary.json").read_text())["benchmarks"]["sums"]
    assert (numbers["problems"], numbers["of"]) == (5, 40)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["settings"]["limit"], manifest["benchmarks"]["sums"]["of"]) == (5, 40)
    assert main(["report", str(out), "--markdown"]) == 0
    assert "| sums | first 5 of 40 |" in capsys.readouterr().out
    assert main(["report", str(out)]) == 0
    assert "limited to the first 5 of 40 problems" in (out / "report.html").read_text()
    capsys.readouterr()
    for folder, more in ((out, []), (out, ["--limit", "6"]), (done, ["--limit", "5"])):
        assert main(command(folder, *more)) == 2
        assert "limit" in capsys.readouterr().err
    # More than there are is all of them, and no mark.
    assert main(command(tmp_path / "all", "--limit", "99")) == 0
    assert "first" not in capsys.readouterr().out


def test_examples_stand_before_every_problem(
    command: Command, server: Any, problems: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(command(out, "--few-shot", "2", "--few-shot-from", str(problems))) == 0
    for request in server.requests:
        *examples, own = request["messages"]
        assert [m["role"] for m in examples] == ["user", "assistant"] * 2
        assert own["content"] not in {m["content"] for m in examples}
    entry = json.loads((out / "manifest.json").read_text())["benchmarks"]["sums"]
    assert entry["few_shot"]["source"] == str(problems)
    before = (out / "sums" / "generations.jsonl").read_bytes()
    assert main(command(out, "--few-shot", "2", "--few-shot-from", str(problems))) == 0
    assert main(["score", str(out)]) == 0
    assert (out / "sums" / "generations.jsonl").read_bytes() == before
    assert main(command(out)) == 2


def test_choices_are_shown_and_judged_in_the_order_of_their_repeat(
    command: Command, tmp_path: Path, lines: ReadLines
) -> None:
    path = tmp_path / "which.jsonl"
    path.write_text(
        "".join(json.dumps({"q": f"{i}+0?", "r": f"{i}", "w": f"{i + 9}"}) + "\n" for i in range(9))
    )
    (tmp_path / "which.yaml").write_text(
        "path: which.jsonl\nproblem: q\ngold: r\nwrong_choices: w\ntype: choice\nrepeats: 4\n"
    )
    out = tmp_path / "out"
    assert main(command(out, "--benchmarks", str(tmp_path / "which.yaml"))) == 0
    records = [json.loads(line) for line in lines(out / "which")]
    assert len({(r["id"], r["prompt"]) for r in records}) > 12  # of two choices, both orders
    for record in records:
        gold = json.loads(record["gold"])["answer"]
        assert f"({gold}) {record['id']}\n" in record["prompt"]
        assert record["choice_order"]["AB".index(gold)] == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["benchmarks"]["which"]["choice_order"] == "by seed and repeat"


def test_failing_requests_are_retried_and_few_are_in_flight(
    command: Command, server: Any, tmp_path: Path, done: Path, lines: ReadLines
) -> None:
    server.failures = [503, 429, 500]
    server.most_at_once = 0
    server.delay_s = 0.01
    assert main(command(tmp_path / "out", "--concurrency", "3")) == 0
    assert server.most_at_once <= 3
    assert lines(tmp_path / "out" / "sums") == lines(done / "sums")


def test_requests_keep_to_the_rate(command: Command, server: Any, tmp_path: Path) -> None:
    started = time.monotonic()
    assert main(command(tmp_path / "out", "--requests-per-minute", "6000")) == 0
    assert time.monotonic() - started >= 159 * 0.01


def test_an_endpoint_that_goes_down_loses_nothing(
    command: Command, server: Any, tmp_path: Path, done: Path, lines: ReadLines,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    server.failures = [200] * 50 + [500] * 1000
    assert main(command(out, "--retries", "0", "--concurrency", "1")) == 1
    error = capsys.readouterr().err
    assert "status 500" in error
    assert "the same command goes on from there" in error
    assert len(lines(out / "sums")) == 50
    server.failures = []
    assert main(command(out)) == 0
    assert lines(out / "sums") == lines(done / "sums")


def test_an_endpoint_that_is_not_there_or_has_another_model_is_named(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(tmp_path / "out")
    assert main([*arguments, "--model", "adders"]) == 1
    assert "serves adder, not adders" in capsys.readouterr().err
    assert main([*arguments, "--endpoint", "http://127.0.0.1:9", "--retries", "0"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert main([*arguments, "--endpoint", "localhost"]) == 2
    assert "give a URL" in capsys.readouterr().err


def test_a_full_disk_stops_the_run_and_loses_nothing(
    command: Command, tmp_path: Path, done: Path, lines: ReadLines,
    subprocess_run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:  # fmt: skip
    """A file-size limit stands for the full disk: the kernel refuses the write either way."""
    out = tmp_path / "out"
    arguments = command(out, "--concurrency", "1")
    limited = subprocess_run(
        arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    )
    assert limited.returncode == 1, limited.stderr
    assert "generations.jsonl cannot be written" in limited.stderr
    assert "Traceback" not in limited.stderr
    kept = lines(out / "sums")
    assert set(kept) <= set(lines(done / "sums"))
    assert main(arguments) == 0
    assert lines(out / "sums") == lines(done / "sums")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/nowhere/model", "there is no such folder"),
        ("./empty", "holds no config.json"),
        ("./adapter", "holds an adapter (adapter_config.json), not a model"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    model: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    arguments = ["run", "--model", model, "--benchmarks", "embedded", "--out", str(tmp_path / "o")]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_a_chat_template_is_told_of_raw_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vespo_openrlhf.embedded.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    arguments = ["run", "--model", str(tmp_path / "model"), "--benchmarks", "embedded"]
    arguments += ["--out", str(tmp_path / "out"), "--dry-run"]
    assert main(arguments) == 2
    assert "no chat template: send the prompts as they are with --raw" in capsys.readouterr().err
    assert main([*arguments, "--raw"]) == 0


def test_scoring_again_mends_verdicts_and_generates_nothing(
    done: Path, server: Any, lines: ReadLines, capsys: pytest.CaptureFixture[str]
) -> None:
    right = lines(done / "sums")
    summary = (done / "summary.json").read_text()
    path = done / "sums" / "generations.jsonl"
    path.write_text(path.read_text().replace('"correct": true', '"correct": false'))
    asked = len(server.requests)
    capsys.readouterr()
    assert main(["score", str(done), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(summary)
    assert lines(done / "sums") == right
    assert len(server.requests) == asked


def test_scoring_again_passes_over_a_benchmark_that_was_not_begun(done: Path) -> None:
    manifest = json.loads((done / "manifest.json").read_text())
    manifest["benchmarks"]["later"] = manifest["benchmarks"]["sums"]
    (done / "manifest.json").write_text(json.dumps(manifest))
    assert main(["score", str(done)]) == 0
    assert not (done / "later").exists()


@pytest.mark.parametrize("more", [["--benchmark", "b"], ["--responses", "r"]])
def test_a_folder_and_responses_are_not_scored_together(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (more, ["folder", *more], []):
        assert main(["score", *arguments]) == 2
        assert "give the folder of a run, or --benchmark and --resp" in capsys.readouterr().err


def test_what_another_system_generated_is_scored(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    responses = tmp_path / "responses.jsonl"
    rows = [
        {"id": f"sum-{i}", "response": f"\\boxed{{{2 * i + 1 + wrong}}}"}
        for wrong in (0, 1) for i in range(40)
    ]  # fmt: skip

    def score(rows: list[dict]) -> tuple[int, str, str]:
        responses.write_text("".join(json.dumps(row) + "\n" for row in rows))
        status = main(
            ["score", "--benchmark", str(problems), "--responses", str(responses), "--json"]
        )
        return status, *capsys.readouterr()

    status, output, _ = score(rows)
    summary = json.loads(output)
    assert status == 0
    assert (summary["avg@k"], summary["repeats"], summary["pass@k"]["2"]) == (0.5, 2, 1.0)
    assert summary["missing"] == 0
    status, output, errors = score(rows[:10])
    assert (status, json.loads(output)["missing"]) == (0, 30)
    assert "answers 10 of the 40 problems" in errors
    for bad, message in (
        ([{"id": "sum-99", "response": ""}], "has no problem 'sum-99'"),
        ([{"response": ""}], "id and response"),
        ([{"id": "sum-1", "response": None}], "must be a text"),
        ([], "holds no responses"),
        ([*rows, rows[0]], "samples"),
    ):
        status, _, errors = score(bad)
        assert status == 2
        assert message in errors


def test_without_ids_a_response_names_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = tmp_path / "gsm.jsonl"
    problems.write_text('{"question": "1+1", "answer": 2}\n{"question": "1+2", "answer": 3}\n')
    responses = tmp_path / "responses.jsonl"
    responses.write_text('{"id": 1, "response": "\\\\boxed{3}"}\n{"id": 0, "response": "?"}\n')
    arguments = ["--benchmark", str(problems), "--responses", str(responses), "--json"]
    assert main(["score", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["avg@k"] == 0.5


def test_help_is_quick_and_light(
    subprocess_run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    for arguments in ([], ["run"], ["score"], ["watch"], ["bench"]):
        assert subprocess_run([*arguments, "--help"]).returncode == 0
    code = (
        "import sys, eval.__main__, eval.options\n"
        "heavy = {'torch', 'vllm', 'ray', 'transformers', 'datasets', 'openai', 'numpy'}\n"
        "print(*(heavy & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (loaded.stdout.strip(), loaded.returncode) == ("", 0)
