"""The agent of docs/agents.md, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "agents.md").read_text(encoding="utf-8")


def block(mark: str) -> str:
    (text,) = re.findall(rf"^```python {mark}\n(.*?)^```$", PAGE, re.M | re.S)
    return text


def test_an_agent_in_twenty_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    agent = block("file=my_agent.py")
    assert sum(bool(line.strip()) for line in agent.splitlines()) <= 20
    Path("my_agent.py").write_text(agent)
    exec(compile(block("run"), "agents.md", "exec"), {})
    assert capsys.readouterr().out == (
        "<|im_start|>user\nGuess a number below 100.<|im_end|>\n<|im_start|>assistant\n"
        "50<|im_end|>\n<|im_start|>user\nlower<|im_end|>\n<|im_start|>assistant\n"
        "I say 40<|im_end|>\n<|im_start|>user\nhigher<|im_end|>\n<|im_start|>assistant\n"
        "42<|im_end|>\n1.0 3 turns {'found': 1.0, 'turns': 3.0}\n"
    )
