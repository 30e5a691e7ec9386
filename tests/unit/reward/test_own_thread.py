"""What may be read in a caller's thread, and that it makes no difference to the verdict."""

import itertools

import pytest

from vespo_openrlhf.reward import verify
from vespo_openrlhf.reward.pool import own_thread, worker
from vespo_openrlhf.reward.reading.extract import extract
from vespo_openrlhf.reward.reading.formats import _SYMBOLS, _TURN_END, TURN_MARKS, _turn_end

PROSE = "We add the two sides, and simplify what is left over. " * 4_000
TURN_ENDS = [
    "<|im_end|>", "<|im_start|>", "<|user|>", "</s>", "<eos>", "<end_of_turn>", "<start_of_turn>",
    "[INST]", "[/INST]", "<｜end▁of▁sentence｜>", "<｜User｜>", "\nHuman:", "\n  User :",
    "\n**User**:", "\n### Instruction",
]  # fmt: skip


@pytest.mark.parametrize(
    ("response", "short"),
    [
        ("so \\boxed{5}", True),
        (f"<think>{PROSE}</think>so \\boxed{{5}}", True),
        (f"<think>{PROSE}</think>so \\boxed{{5}}<|im_end|>", True),
        (f"{PROSE}so \\boxed{{5}}", False),
        (f"<think>{PROSE}<|im_end|></think>so \\boxed{{5}}{'.' * 99}", False),
        (f"<think>{PROSE}\nUser: and?</think>so \\boxed{{5}}{'.' * 99}", False),
    ],
)
def test_what_is_short(response: str, short: bool) -> None:
    assert own_thread.is_short(response) is short


@pytest.mark.parametrize("mark", TURN_ENDS)
def test_the_plain_search_finds_what_the_expression_finds(mark: str) -> None:
    assert any(known in mark for known in TURN_MARKS)
    decoys = [*_SYMBOLS, "User", "Human", "\n", "<", "x"]
    for before in itertools.product(decoys, repeat=2):
        text = f"a{before[0]} b {before[1]}c{mark}d"
        expected = _TURN_END.search(text)
        assert expected is not None
        assert _turn_end(text) == expected.start()


@pytest.mark.parametrize("answer", ["5", "x^2-1", "4", "(x-1)(x+1)", "", "..."])
@pytest.mark.parametrize("frame", ["so \\boxed{{{}}}", "so \\boxed{{1}} then \\boxed{{{}}}", "{}"])
def test_long_responses_get_the_verdict_of_short_ones(frame: str, answer: str) -> None:
    for gold in ("5", "x^2-1", ""):
        short = verify(frame.format(answer), gold)
        assert verify(PROSE + frame.format(answer), gold) == short


def test_a_long_gold_is_left_to_the_workers_too() -> None:
    gold = "x+" * 20_000 + "1"
    assert verify(f"\\boxed{{{gold}}}", gold).reason == "truncated"  # beyond what a box may hold
    assert verify("\\boxed{5}", ["5", gold]).correct


def test_slow_work_is_interrupted_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> None:
        while True:
            try:
                pass
            except Exception:
                break

    import signal

    monkeypatch.setitem(worker.OPERATIONS, "endless", endless)
    monkeypatch.setitem(worker.OPERATIONS, "seven", lambda: 7)
    before = signal.signal(signal.SIGVTALRM, worker._slow)
    try:
        assert worker.quickly("endless", []) == []
        assert worker.quickly("seven", []) == [7]
    finally:
        signal.signal(signal.SIGVTALRM, before)


def test_spaces_before_an_assistant_header_are_bounded() -> None:
    assert extract("\n" * 100_000 + "\\boxed{5}").answers == ("5",)
    assert extract("\n\n<|im_start|>assistant\n\\boxed{5}").answers == ("5",)
