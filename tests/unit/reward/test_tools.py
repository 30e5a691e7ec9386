"""The command line: check, audit; the HTTP application; the remote verifier of the examples."""

import asyncio
import base64
import importlib.util
import json
import math
import threading
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from vespo_openrlhf import reward
from vespo_openrlhf.reward.__main__ import main
from vespo_openrlhf.reward.batch import batched
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.pool import client
from vespo_openrlhf.reward.scoring import scorer
from vespo_openrlhf.reward.tools import http_server
from vespo_openrlhf.reward.tools.audit import audit, read_rows
from vespo_openrlhf.reward.tools.http_server import application


def test_check_says_what_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--gold", "5", "--response", r"so \boxed{x = 5}"]) == 0
    shown = capsys.readouterr().out
    assert "right: correct" in shown
    assert "'x = 5' read as 'x = 5' (named)" in shown
    assert main(["check", "--gold", r"\frac{", "--response", "none"]) == 1
    shown = capsys.readouterr().out
    assert "no_answer" in shown
    assert "not parsable" in shown


ROWS = [
    {"prompt": "a", "label": "5"},
    {"prompt": "a", "label": "5"},
    {"prompt": "a", "label": "6"},
    {"prompt": "b", "label": ""},
    {"prompt": "c", "label": r"\frac{1}{"},
    {"prompt": "d", "label": "Bob"},
]


def test_audit_finds_what_is_wrong() -> None:
    report = audit(ROWS)
    assert report["rows"] == 6
    assert report["empty"] == [3]
    assert list(report["unusable"]) == [4]
    assert report["not_itself"] == []
    assert report["duplicate"] == [1]
    assert report["conflict"] == [2]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_audit_reads(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif suffix == ".csv":
        lines = [f"{row['prompt']},{row['label']}" for row in ROWS]
        path.write_text("prompt,label\n" + "\n".join(lines))
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)))
    assert main(["audit", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "row 4:" in shown
    assert "golds in 'label'" in shown


def test_a_line_ends_at_a_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"label": "a\u2028b"}\n\n{"label": "c"}\n', encoding="utf-8")
    assert [row["label"] for row in read_rows(str(path))] == ["a\u2028b", "c"]


def test_audit_names_a_user_s_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"x": 1}\n')
    assert main(["audit", str(path)]) == 2
    assert main(["audit", str(path), "--label-key", "y"]) == 2
    assert main(["audit", str(tmp_path / "none.jsonl")]) == 2
    assert "there are ['x']" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected"):
        read_rows("data.xlsx")


JSON = {"Content-Type": "application/json"}


def app_of(**settings: Any) -> web.Application:
    options = RewardOptions()
    limits = {"max_body": 10_000, "max_requests": 4, **settings}
    return application(batched(scorer(options), options), **limits)


def http(
    requests: list[tuple[str, Any]], headers: dict[str, str] | None = None, **settings: Any
) -> list[tuple[int, Any]]:
    """POST bodies to the application, in turn; raw bytes go as they are."""

    async def run() -> list[tuple[int, Any]]:
        replies: list[tuple[int, Any]] = []
        async with TestClient(TestServer(app_of(**settings))) as http_client:
            for path, body in requests:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                reply = await http_client.post(path, data=data, headers={**JSON, **(headers or {})})
                text = await reply.text()
                replies.append((reply.status, json.loads(text) if text.startswith("{") else text))
        return replies

    return asyncio.run(run())


def test_serve_answers_openrlhf() -> None:
    body = {"query": ["p\\boxed{4}", "p4"], "prompts": ["p", "p"], "labels": ["4", "4"]}
    for status, reply in http([("/get_reward", body), ("/", body)]):
        assert status == 200
        assert reply["rewards"] == reply["scores"] == [1.0, 0.0]
        assert reply["extra_logs"]["correct"] == 0.5


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        ([], 400),
        ({"query": ["a"]}, 400),
        ({"query": ["a"], "prompts": [], "labels": []}, 400),
        ({"query": "a", "prompts": "b", "labels": "c"}, 400),
        ({"query": [1], "prompts": [""], "labels": [""]}, 400),
        ({"query": [], "prompts": [], "labels": []}, 400),
        (b"x" * 20_000, 413),
    ],
)
def test_serve_refuses(body: Any, status: int) -> None:
    assert http([("/get_reward", body)])[0][0] == status


def test_serve_has_a_limit_of_requests() -> None:
    body = {"query": ["a"], "prompts": [""], "labels": ["4"]}
    assert http([("/get_reward", body)], max_requests=0)[0][0] == 503


ONE = {"query": ["p\\boxed{4}"], "prompts": ["p"], "labels": ["4"]}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json; charset=nonsense"}, 400),
        ({"Content-Type": "application/json; charset=utf-16"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:5000"}, 403),
        ({"Host": "::::"}, 403),
        ({"Host": "localhost:5000"}, 200),
        ({"Host": "[::1]:5000"}, 200),
    ],
)
def test_serve_answers_no_web_page(headers: dict[str, str], status: int) -> None:
    assert http([("/get_reward", ONE)], headers)[0][0] == status


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/get_reward", {}, 401),
        ("/get_reward?token=wrong", {}, 401),
        ("/get_reward", {"Authorization": "Bearer wrong"}, 401),
        ("/get_reward", {"Authorization": "Basic %%%"}, 401),
        ("/get_reward?token=s%C3%A9cret", {}, 200),
        (
            "/get_reward",
            {"Authorization": "Basic " + base64.b64encode(":sécret".encode()).decode()},
            200,
        ),
        ("/get_reward", {"Authorization": "Bearer sécret", "Host": "node7:5000"}, 200),
        ("/get_reward?token=s%C3%A9cret", {"Origin": "http://evil.example"}, 403),
    ],
)
def test_serve_asks_for_the_token(path: str, headers: dict[str, str], status: int) -> None:
    assert http([(path, ONE)], headers, token="sécret")[0][0] == status


@pytest.mark.parametrize("address", ["http://:secret@{}/get_reward", "http://{}/?token=secret"])
def test_openrlhf_s_client_can_send_the_token(address: str) -> None:
    agent = pytest.importorskip("openrlhf.utils.agent")

    async def run() -> list[Any]:
        async with TestServer(app_of(token="secret")) as server:
            url = address.format(f"{server.host}:{server.port}")
            executor = agent.SingleTurnAgentExecutor([url])
            return await executor._fetch_rewards_via_http(["p\\boxed{4}"], ["p"], ["4"])

    assert asyncio.run(run())[0]["rewards"] == [1.0]


def test_serve_without_a_token_is_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[str] = []
    monkeypatch.setattr(web, "run_app", lambda *_, host, **__: served.append(host))
    monkeypatch.delenv("REWARD_TOKEN", raising=False)
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "REWARD_TOKEN" in capsys.readouterr().err
    assert main(["serve", "--host", "127.0.0.1"]) == 0
    assert main(["serve", "--host", "::1"]) == 0
    monkeypatch.setenv("REWARD_TOKEN", "secret")
    assert main(["serve", "--host", "0.0.0.0"]) == 0
    assert served == ["127.0.0.1", "::1", "0.0.0.0"]


def test_bodies_that_do_not_come_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps(ONE).encode()
    head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    async def run() -> tuple[int, list[bytes]]:
        async with TestClient(TestServer(app_of(max_requests=2))) as http_client:
            slow = []
            for _ in range(8):
                pipe = await asyncio.open_connection(http_client.host, http_client.port)
                pipe[1].write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:1])
                await pipe[1].drain()
                slow.append(pipe)
            await asyncio.sleep(0.2)  # they have all been taken up
            status = (await http_client.post("/", data=body, headers=JSON)).status
            monkeypatch.setattr(http_server, "BODY_S", 0.1)
            late = await asyncio.open_connection(http_client.host, http_client.port)
            late[1].write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:1])
            answers = [await late[0].readline()]
            for _, writer in slow:
                writer.write(body[1:])
            answers += [await reader.readline() for reader, _ in slow]
            for _, writer in (*slow, late):
                writer.close()
            return status, answers

    status, answers = asyncio.run(run())
    assert status == 200
    assert b"408" in answers[0]
    assert all(b"200" in answer or b"503" in answer for answer in answers[1:])
    assert any(b"200" in answer for answer in answers[1:])


def test_what_is_buffered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies that have come but for their last byte; an answer frees what was held for it."""
    bodies: list[Any] = []

    class Seen(http_server._Bodies):
        def __init__(self, longest: int) -> None:
            super().__init__(longest)
            bodies.append(self)

    monkeypatch.setattr(http_server, "_Bodies", Seen)
    body = json.dumps({**ONE, "query": ["p\\boxed{4}" + " " * 900]}).encode()

    async def run() -> list[int]:
        async def post(upto: asyncio.Event) -> int:
            async def parts() -> AsyncIterator[bytes]:
                yield body[:-1]
                await upto.wait()
                yield body[-1:]

            return (await http_client.post("/", data=parts(), headers=JSON)).status

        async with TestClient(TestServer(app_of(max_body=len(body)))) as http_client:
            first, second = asyncio.Event(), asyncio.Event()
            held = [asyncio.create_task(post(first)) for _ in range(4)]
            while not bodies or bodies[0].held < 4 * (len(body) - 1):
                await asyncio.sleep(0.01)
            second.set()
            refused = await post(second)
            first.set()
            return [refused, *await asyncio.gather(*held), await post(second)]

    assert asyncio.run(run()) == [503, 200, 200, 200, 200, 200]


def test_a_sample_that_is_not_judged_is_answered_as_not_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The verifier is replaced by one that is gone."""

    def gone(*_: Any, **__: Any) -> Any:
        raise client.FailedError("unavailable")

    monkeypatch.setattr(client, "call", gone)
    body = {**ONE, "query": ["p\\boxed{x^2-1}"], "labels": ["(x-1)(x+1)"]}
    status, reply = http([("/", body)])[0]
    assert status == 200
    assert math.isnan(reply["rewards"][0])
    assert reply["extra_logs"]["unavailable"] == 1.0


def test_a_remote_verifier_is_retried_then_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    failing = 2

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if len(asked) <= failing or failing > 99 else 200)
            self.end_headers()
            self.wfile.write(b'{"score": 0.5}')

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("VERIFIER_URL", f"http://127.0.0.1:{server.server_port}/")
    path = Path(reward.__file__).parent / "examples" / "http_verifier.py"
    spec = importlib.util.spec_from_file_location("http_verifier", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    try:
        result = module.reward_func(["pr"], ["p"], ["4"])
        assert result["rewards"].tolist() == [0.5]
        assert len(asked) == 3
        assert asked[0] == {"response": "r", "label": "4", "prompt": "p"}
        failing = 100
        for _ in range(4):
            result = module.reward_func(["pr"], ["p"], ["4"])
            assert result["extra_logs"]["error"] == 1.0
            assert result["rewards"].isnan().all()  # it says nothing about the response
        assert len(asked) == 3 + module.FAILURES
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
