"""What an endpoint may do to a run: refuse, break, lie about its replies, think, or be another."""

import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.eval.__main__ import main
from vespo_openrlhf.eval.benchmarks.templates import Prompt
from vespo_openrlhf.eval.engines import Completion, Request
from vespo_openrlhf.eval.engines.endpoint import KEY_VARIABLE, Endpoint, EndpointEngine
from vespo_openrlhf.eval.judging.verdicts import judge
from vespo_openrlhf.eval.options import Options

Command = Callable[..., list[str]]
ReadLines = Callable[[Path], list[str]]


def chat(message: Any, finish: str = "stop", **more: Any) -> bytes:
    """A reply of the chat protocol."""
    choice = {"index": 0, "finish_reason": finish, "message": message, **more}
    return json.dumps({"id": "x", "object": "x", "model": "adder", "choices": [choice]}).encode()


def asks_for(body: dict, problem: str) -> bool:
    return problem in str(body.get("messages") or body["prompt"])


# What a server may reply to one request, with its content type, and what the record says of it.
FAILURES: list[tuple[Any, str, str]] = [
    ((400, b'{"error": {"message": "too long"}}'), "application/json", "400: too long"),
    ((422, b'{"detail": "no such field"}'), "application/json", "no such field"),
    ((500, b"<html>oops</html>"), "text/html", "oops"),
    ((404, b""), "text/plain", "404"),
    (b'{"choices": null}', "application/json", "no completion"),
    (b'{"choices": []}', "application/json", "no completion"),
    (b'{"choices": [null]}', "application/json", "no completion"),
    (b'{"choices": {}}', "application/json", "no completion"),
    (b'{"choices": [3]}', "application/json", "no completion"),
    (b'{"error": {"message": "no room"}}', "application/json", "no room"),
    (b"{}", "application/json", "no completion"),
    (b"[]", "application/json", "no completion"),
    (b"null", "application/json", "no completion"),
    (b"<html>wait</html>", "text/html", "no completion"),
    (b"<html>wait</html>", "application/json", "failed: "),
    (b'"\xff"', "application/json", "failed: "),
    (b"", "application/json", "failed: "),
    (chat(None), "application/json", "no completion"),
    (chat("seven"), "application/json", "no completion"),
    (chat({"role": "assistant", "content": [{"text": "7"}]}), "application/json", "its text"),
    (chat({"content": "7", "reasoning": {"a": 1}}), "application/json", "its message"),
    (chat({"content": ""}, "error", error="out of memory"), "application/json", "out of mem"),
    (b'{"choices": [{"index": 0, "finish_reason": "stop"}]}', "application/json", "no completion"),
]


def ask(server: Any, problems: Sequence[str], **options: Any) -> list[Completion]:
    """What the engine makes of the server's replies, one request at a time."""
    requests = [
        Request("sums", text, 0, 1, Prompt(text, ({"role": "user", "content": text},)), 0.0)
        for text in problems
    ]
    engine = EndpointEngine(Endpoint(server.url, concurrency=1, **options), "adder", Options())
    return sorted(engine.generate(requests), key=lambda completion: completion.index)


def test_whatever_a_server_replies_is_a_completion_or_a_failure(server: Any) -> None:
    failures = iter(FAILURES)

    def instead(body: dict) -> Any:
        content, server.content_type, _ = next(failures)
        return content

    server.instead = instead
    found = ask(server, [f"{n}+1" for n in range(len(FAILURES))], retries=0)
    for completion, (content, _, message) in zip(found, FAILURES, strict=True):
        assert (completion.finish_reason, completion.text) == ("error", ""), content
        assert message in completion.error, content
        assert completion.server_fault == (isinstance(content, tuple) and content[0] == 500)
        assert len(completion.error) < 500


def test_a_request_that_fails_is_a_record_and_the_rest_goes_on(
    command: Command, server: Any, tmp_path: Path, lines: ReadLines,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    server.instead = lambda body: (400, b"too long") if asks_for(body, "7+8") else None
    assert main(command(out)) == 1
    printed = capsys.readouterr()
    assert "2.5 % of the requests failed and count as wrong" in printed.out
    assert "4 requests failed" in printed.err
    assert "--retry-errors" in printed.err
    assert f"sums sum-7, repeat 0 failed: the endpoint {server.url}" in printed.err
    records = [json.loads(line) for line in lines(out / "sums")]
    assert len(records) == 160
    failed = [record for record in records if record["finish_reason"] == "error"]
    assert [(r["id"], r["repeat"]) for r in failed] == [("sum-7", k) for k in range(4)]
    assert {(r["response"], r["extracted"], r["correct"], r["reason"]) for r in failed} == {
        ("", None, False, "error")
    }
    assert "too long" in failed[0]["error"]
    numbers = json.loads((out / "summary.json").read_text())["benchmarks"]["sums"]
    assert numbers["error_rate"] == 4 / 160
    assert numbers["avg@k"] == sum(record["correct"] for record in records) / 160

    # The same command asks nothing again, and says so again; nor is there anything to judge.
    server.requests = []
    assert main(command(out)) == 1
    assert main(["score", str(out)]) == 0
    assert lines(out / "sums") == [json.dumps(r, ensure_ascii=False) for r in records]
    assert not server.requests
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0
    assert "requests failed and count as wrong" in (tmp_path / "report.html").read_text()

    # Once the server has come to its senses, just these.
    server.instead = lambda body: None
    capsys.readouterr()
    assert main(command(out, "--retry-errors", "--dry-run")) == 0
    assert "4 of 160 responses are to be generated" in capsys.readouterr().out
    assert main(command(out, "--retry-errors")) == 0
    assert len(server.requests) == 4
    assert main(command(tmp_path / "whole")) == 0
    assert lines(out / "sums") == lines(tmp_path / "whole" / "sums")


def test_a_connection_that_breaks_on_one_request_is_that_requests_failure(
    command: Command, server: Any, tmp_path: Path, lines: ReadLines
) -> None:
    broken = []

    def instead(body: dict) -> bytes | None:
        if not asks_for(body, "7+8"):
            return None
        broken.append(body)
        raise ConnectionAbortedError  # the stand-in then closes the connection without a reply

    server.instead = instead
    server.handle_error = lambda *_: None
    assert main(command(tmp_path / "out", "--retries", "1", "--concurrency", "4")) == 1
    assert len(broken) == 4 * 2  # each was tried again
    records = [json.loads(line) for line in lines(tmp_path / "out" / "sums")]
    assert len(records) == 160
    assert {r["id"] for r in records if r["finish_reason"] == "error"} == {"sum-7"}


def test_where_nothing_is_answered_nothing_is_recorded(
    command: Command, server: Any, problems: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Else a wrong option would bind the folder to itself, under an accuracy of 0."""
    out = tmp_path / "out"
    server.failures = [400] * 1000
    problems.write_text("".join(problems.read_text().splitlines(keepends=True)[:3]))
    assert main(command(out, "--max-tokens", "99")) == 1
    error = capsys.readouterr().err
    assert "the last 12 requests all failed" in error
    assert "status 400" in error
    assert not list(out.glob("*/generations.jsonl"))
    server.failures = []
    assert main(command(out)) == 0  # other settings, and no --fresh


def test_a_server_that_refuses_everything_from_some_point_on_is_not_asked_to_the_end(
    command: Command, server: Any, problems: Path, tmp_path: Path, lines: ReadLines,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = [{"id": str(i), "problem": f"{i}+1", "answer": i + 1} for i in range(400)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.failures = [200] * 50 + [403] * 10_000
    out = tmp_path / "out"
    arguments = [*command(out, "--concurrency", "1")]
    arguments[arguments.index("--benchmarks") + 1] = f"{problems}:1"
    assert main(arguments) == 1
    assert len(server.requests) <= 50 + 110
    assert "the last 100 requests all failed" in capsys.readouterr().err
    assert len(lines(out / "sums")) == 50


def test_another_server_does_not_mix_with_the_records_of_one(
    command: Command, server: Any, problems: Path, tmp_path: Path, lines: ReadLines,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert main(command(out)) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["endpoint"] == server.url
    other = server.url.replace("127.0.0.1", "localhost")  # the same to the stand-in, not to us
    before = lines(out / "sums")
    arguments = [*command(out), "--endpoint", other, "--benchmarks", f"{problems}:8"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"endpoint '{server.url}' there, '{other}' now" in error
    assert "--fresh" in error
    assert lines(out / "sums") == before
    assert main([*arguments, "--fresh"]) == 0


SECRET = "hunter2-hunter2"


def test_credentials_are_sent_and_neither_printed_nor_written(
    command: Command, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    url = server.url.replace("//", f"//user:{SECRET}@")
    server.instead = lambda body: (400, SECRET.encode()) if asks_for(body, "7+8") else None
    assert main([*command(out), "--endpoint", url]) == 1
    assert all(header.startswith("Basic ") for header in server.authorization)
    other = tmp_path / "other"
    assert main([*command(other), "--endpoint", url, "--model", "subtracter"]) == 1
    assert main([*command(out), "--endpoint", url.replace("http", "ftp")]) == 2
    assert main([*command(out), "--endpoint", f"{url}?key={SECRET}"]) == 2
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://user:{SECRET}@127.0.0.1:{probe.getsockname()[1]}/v1"
    assert main([*command(out), "--fresh", "--endpoint", nobody]) == 1
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    assert main([*command(out), "--fresh"]) == 1
    assert f"Bearer {SECRET}" in server.authorization
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    for path in out.rglob("*.json*"):
        assert SECRET not in path.read_text()


def test_a_key_goes_over_plain_http_only_to_this_machine_unless_asked(
    command: Command, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """`_is_here` is bent: there is no other machine to send anything to."""
    from vespo_openrlhf.eval.engines import endpoint

    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setattr(endpoint, "_is_here", lambda host: False)
    assert main(command(tmp_path / "out")) == 0
    assert server.authorization == {"Bearer none"}
    assert f"{KEY_VARIABLE} is not sent to {server.url}" in capsys.readouterr().err
    assert main(command(tmp_path / "asked", "--key-over-http")) == 0
    assert f"Bearer {SECRET}" in server.authorization
    assert "is not sent" not in capsys.readouterr().err
    with_password = server.url.replace("//", f"//user:{SECRET}@")
    assert main([*command(tmp_path / "out"), "--endpoint", with_password]) == 2
    error = capsys.readouterr().err
    assert "could read the password" in error
    assert SECRET not in error


@pytest.mark.parametrize(
    ("url", "is_open"),
    [
        ("http://127.0.0.1:8000/v1", False),
        ("http://127.1.2.3", False),
        ("http://localhost:1", False),
        ("http://[::1]:8000", False),
        ("https://example.org", False),
        ("http://example.org", True),
        ("http://localhost.example.org", True),
        ("http://10.0.0.5:8000", True),
    ],
)
def test_which_servers_a_key_may_go_to(url: str, is_open: bool) -> None:
    assert Endpoint(url).is_open == is_open
    assert not Endpoint(url, key_over_http=True).is_open


THOUGHT = "Perhaps \\boxed{3}. No, wait"


CUT: tuple[dict, str] = ({"content": THOUGHT}, "length")


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        # vLLM says that the template opens the thinking, which the reply does not.
        ([CUT], ["<|im_start|>", "assistant", "Ċ", "<think>", "Ċ"]),
        # Another server does not, but another reply tells, be it earlier or later.
        ([({"content": f"{THOUGHT}</think>\\boxed{{5}}"}, "stop"), CUT], None),
        ([CUT, ({"content": f"{THOUGHT}</think>\\boxed{{5}}"}, "stop")], None),
        ([CUT, ({"content": "\\boxed{5}", "reasoning_content": THOUGHT}, "stop")], None),
        # The thinking comes apart, and the answer is missing in one of several ways.
        ([({"reasoning_content": THOUGHT}, "length")], None),
        ([({"content": None, "reasoning": THOUGHT}, "length")], None),
        ([({"content": "", "reasoning_content": THOUGHT}, "length")], None),
        ([({"content": "\n", "reasoning_content": THOUGHT}, "length")], None),
    ],
)
def test_thinking_that_was_cut_off_is_judged_as_it_is_offline(
    replies: list[tuple[dict, str]], told: list[str] | None, server: Any
) -> None:
    offline = judge(THOUGHT, "3", prompt="<|im_start|>assistant\n<think>\n")
    assert offline["reason"] == "truncated"
    server.token_strs = told
    order = iter(replies)
    server.instead = lambda body: chat(*next(order))
    found = ask(server, ["1+2"] * len(replies))
    assert len(found) == len(replies)
    cut = [completion for completion in found if completion.finish_reason == "length"]
    assert [judge(c.text, "3", prompt="1+2") for c in cut] == [offline]


@pytest.mark.parametrize("told", [None, ["<think>", "Ċ", "</think>", "Ċ"]])
@pytest.mark.parametrize("finishes", [("length", "stop", "length"), ("length", "length")])
def test_an_answer_that_was_cut_off_keeps_its_box(
    told: list[str] | None, finishes: tuple[str, ...], server: Any
) -> None:
    """Where no reply hints at thinking there is none."""
    server.token_strs = told
    order = iter(finishes)
    server.instead = lambda body: chat({"content": "\\boxed{3} and so on"}, next(order))
    found = ask(server, ["1+2"] * len(finishes))
    assert [c.text for c in found] == ["\\boxed{3} and so on"] * len(finishes)
