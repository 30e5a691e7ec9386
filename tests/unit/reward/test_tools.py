"""The command line: check, audit; the HTTP application; the remote verifier of the examples."""

import asyncio
import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from vespo_openrlhf import reward
from vespo_openrlhf.reward.__main__ import main
from vespo_openrlhf.reward.audit import audit, read_rows
from vespo_openrlhf.reward.batch import batched
from vespo_openrlhf.reward.http_server import application
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.scoring import scorer


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


def http(requests: list[tuple[str, Any]], **limits: int) -> list[tuple[int, Any]]:
    """POST bodies to the application, in turn; raw bytes go as they are."""

    async def run() -> list[tuple[int, Any]]:
        settings = {"max_body": 10_000, "max_requests": 4, **limits}
        options = RewardOptions()
        app = application(batched(scorer(options), options), **settings)
        replies: list[tuple[int, Any]] = []
        async with TestClient(TestServer(app)) as http_client:
            for path, body in requests:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                reply = await http_client.post(path, data=data)
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
            assert module.reward_func(["pr"], ["p"], ["4"])["extra_logs"]["error"] == 1.0
        assert len(asked) == 3 + module.FAILURES
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
