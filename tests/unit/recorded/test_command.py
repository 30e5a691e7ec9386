"""`vespo recorded import` and `vespo recorded show`."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from vespo_openrlhf.recorded.__main__ import main
from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.importing.formats import importer, importers
from vespo_openrlhf.recorded.reading import Recording
from vespo_openrlhf.recorded.schema import Origin, RecordedSample, tokenizer_digest
from vespo_openrlhf.recorded.summary import summarise
from vespo_openrlhf.recorded.writing import write_shard

CHATS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}], "reward": r}
    for q, a, r in [("1+1=", "2", 1.0), ("2+2=", "4", 1.0), ("1+1=", "3", 0.0)]
]


def shown(text: str) -> list[str]:
    """Lines, with one space between words."""
    return [" ".join(line.split()) for line in text.splitlines()]


def sample(ticket: int, number: int, **changes: object) -> RecordedSample:
    known = {
        "tokens": numpy.arange(10, 16, dtype=numpy.int32),
        "action_mask": numpy.array([0, 0, 1, 1, 1, 1], bool),
        "log_probs": numpy.full(6, -1, numpy.float32),
        "reward": 1.0,
        "token_versions": ((3, 4),),
    }
    return RecordedSample(ticket, number, 2, f"p{ticket}", **(known | changes))


def test_import_then_show(
    tmp_path: Path, model: Path, write, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "chats.jsonl", [*CHATS, "nothing"])
    out = tmp_path / "out"
    flags = ["--from", "chat", str(source), "--model", str(model), "--out", str(out)]
    assert main(["import", *flags]) == 0
    assert shown(capsys.readouterr().out) == [
        "4 rows read by --from chat",
        "1 left out:",
        f"1 not_json: a line that is no JSON object (first: {source}:4)",
        f"3 samples of 2 prompts in {out}",
        "3 of them taken as ended, as their source does not say (see --max-response-tokens)",
    ]
    assert main(["show", str(out), "--model", str(model), "--samples", "2"]) == 0
    text = shown(capsys.readouterr().out)
    assert text == [
        "shards 1",
        "samples 3",
        f"from chat of {model}, temperature 1",
        "groups 2: 1 of 2, 1 of 1",
        "in groups of 2 2, 0 samples of others left out",
        "rewards mean 0.6667, without one 0 (0.0%)",
        "prompt tokens mean 12.0, max 12",
        "response tokens mean 2.0, max 2",
        "versions known 0 (0.0%)",
        "log-probs known 0 (0.0%)",
        "none: train with --offline.behaviour initial or uniform",
        "",
        "0 of 3 samples cannot be trained on",
    ]


def test_settings_of_an_importer_are_flags(
    tmp_path: Path, model: Path, write, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "rows.jsonl", [{"q": "1", "response": "2", "reward": 1.0}])
    flags = ["import", "--from=table", str(source), "--model", str(model), "--out", "unused"]
    assert main([*flags, "--prompt-column", "q", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*flags, "--turns", "last"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --turns" in capsys.readouterr().err


def test_what_the_user_can_mend(
    tmp_path: Path, model: Path, write, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write(tmp_path / "chats.jsonl", CHATS), str(tmp_path / "out")

    def error(*words: str) -> str:
        assert main(words) == 2
        return capsys.readouterr().err

    flags = ["import", "--from", "chat", str(source), "--model"]
    assert "tokenizer cannot be loaded" in error(*flags, str(tmp_path), "--out", out)
    missing = ["import", "--from", "verl", "nowhere", "--model", str(model), "--out", out]
    assert "no such file or folder" in error(*missing)
    assert main([*flags, str(model), "--out", out]) == 0
    assert "holds recorded rollouts already" in error(*flags, str(model), "--out", out)
    assert "holds no recorded rollouts" in error("show", str(tmp_path / "model"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert "cannot be read" in error("show", str(tmp_path / "broken.parquet"))


def test_show_counts_what_cannot_be_trained_on(
    tmp_path: Path, model: Path, tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Origin("run", "mine", tokenizer_digest(tokenizer))
    samples = [
        sample(0, 0),
        sample(0, 1, reward=float("inf")),
        sample(1, 0, log_probs=None),
        sample(1, 1, tokens=numpy.array([10, 11, 12, 13, 14, 1000], numpy.int32)),
        sample(2, 0, reward=None, failure="reward_model"),
        sample(2, 1, reward=None, failure="timeout", token_versions=()),
    ]
    write_shard(tmp_path / "recorded" / "0.parquet", samples, mine)
    assert main(["show", str(tmp_path), "--model", str(model), "--samples", "2"]) == 1
    text = shown(capsys.readouterr().out)
    for line in (
        "groups 3: 3 of 2",
        "in groups of 2 1, 0 samples of others left out",
        "rewards mean 1, without one 2 (33.3%)",
        "prompt tokens mean 2.0, max 2",
        "response tokens mean 4.0, max 4",
        "versions known 5 (83.3%)",
        "log-probs known 5 (83.3%)",
        "for a reward model 1 (16.7%)",
        "5 of 6 samples cannot be trained on:",
        "1 vocabulary: a token is outside the model's vocabulary",
        "1 no_log_probs: the log-probs of the policy that sampled it are not known",
        "2 no_reward: it has no reward, and the run has no reward model",
    ):
        assert line in text
    assert any(line.startswith("1 not_finite") for line in text)
    recording = Recording([tmp_path], 2, Limits(len(tokenizer), 100))  # as training reads it
    assert (len(recording), recording.left_out) == (1, 0)
    assert recording.problems == summarise(tmp_path, len(tokenizer), 100).wrong
    assert main(["show", str(tmp_path), "--max-len", "5"]) == 1
    assert "6 too_long: it has more tokens than --data.max_len" in shown(capsys.readouterr().out)


def test_show_tells_another_tokenizer(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "in" / "0.parquet", [sample(0, 0)], Origin("chat", "other", "0" * 16))
    assert main(["show", str(tmp_path / "in")]) == 0
    assert main(["show", str(tmp_path / "in"), "--model", str(model)]) == 1
    assert "MADE WITH ANOTHER TOKENIZER than that of --model" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["import", "--help"], ["show", "--help"]])
def test_help_has_examples(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    assert "vespo recorded show " in capsys.readouterr().out or words == ["import", "--help"]


@pytest.mark.parametrize("name", importers())
def test_help_of_an_importer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["import", "--from", name, "--help"])
    assert stopped.value.code == 0
    assert "Read are " in capsys.readouterr().out


def test_importers_are_found_by_their_files() -> None:
    assert importers() == ["chat", "table", "trl", "verl"]
    with pytest.raises(ValueError, match=r"no importer 'vrl' \(did you mean verl\?\)"):
        importer("vrl")
