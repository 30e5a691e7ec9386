"""How model families mark turns and thinking, and what is left of a response without them.

| family | thinking | turns |
| --- | --- | --- |
| Qwen3, QwQ, MiniMax M2 | `<think>` | `<|im_start|>`, `<|im_end|>` |
| DeepSeek-R1, V3 | `<think>` | `<｜User｜>`, `<｜end▁of▁sentence｜>` |
| GLM-4.5 | `<think>` | `<|user|>`, `<|observation|>` |
| Phi-4, Phi-4-reasoning | `<think>` | `<|im_start|>`, `<|im_sep|>`, `<|end|>` |
| Kimi K2; K3; VL | `<think>`; `<|open|>think<|sep|>`; `◁think▷` | `<|im_user|>`, `<|im_middle|>` |
| Magistral | `[THINK]` | `[INST]`, `</s>` |
| Gemma 3; 4 | none; `<|channel>thought` | `<start_of_turn>`; `<|turn>`, `<turn|>` |
| Llama 3 | none | `<|start_header_id|>`, `<|eot_id|>` |
| gpt-oss | `<|channel|>analysis` | `<|start|>`, `<|end|>`, `<|return|>` |
| Seed-OSS, MiniMax M3, Command A | `<seed:think>`, `<mm:think>`, `<|START_THINKING|>` | |
| EXAONE Deep; MedGemma; OpenThinker | `<thought>`; `<unused94>`; `<|begin_of_thought|>` | |
| by a prompt of one's own | `<thinking>`, `<reasoning>` | |
"""

from __future__ import annotations

import re

#: What opens thinking, and what closes it.
THINKING = (
    ("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"), ("<|channel>", "<channel|>"),
    ("<seed:think>", "</seed:think>"), ("<mm:think>", "</mm:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"), ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"), ("<thought>", "</thought>"), ("<unused94>", "<unused95>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)  # fmt: skip
OPEN_THINKING = re.compile(
    "(?:" + "|".join(re.escape(opens) for opens, _ in THINKING)
    + r"|<\|channel>thought|<\|channel\|>analysis<\|message\|>)\s*\Z"
)  # fmt: skip
# gpt-oss writes messages, each with its channel; where special tokens are left out, the names stay.
_MESSAGE = re.compile(
    r"(?:<\|start\|>\s{0,4}(?P<role>\w*)[^<]{0,80})?<\|channel\|>\s{0,4}(?P<channel>\w+)[^<]{0,80}"
    r"(?:<\|constrain\|>[^<]{0,80})?<\|message\|>"
)
_USER = re.compile(r"<\|start\|>\s{0,4}(?:user|system|developer)")
_BARE_ANALYSIS = re.compile(r"\s{0,4}(?:assistant)?analysis(?=[A-Z\d\\$(])")
_BARE_FINAL = "assistantfinal"

END_TOKEN = (
    r"<\|(?:im_end|endoftext|eot_id|eom_id|end_of_text|end|return|eos|END_OF_TURN_TOKEN)\|>"
    r"|</s>|<eos>|<end_of_turn>|<｜end▁of▁sentence｜>|<seed:eos>|\[EOS\]|<turn\|>(?=\s*(?:<|\Z))"
)
_TURN_END = re.compile(
    END_TOKEN + r"|<\|[^<>|\s]{0,20}(?:im_start|start_header|user|system|human|assistant|turn)"
    r"[^<>|\s]{0,20}\|>"
    r"|<start_of_turn>|<\|turn>|<\|observation\|>|\[/?INST\]|<｜(?:User|Assistant)｜>"
    r"|\n[ \t]*(?:(?:#{1,4}[ \t]*|\*\*)?(?:Human|User|HUMAN|USER)(?:\*\*)?[ \t]*:"
    r"|#{2,4}[ \t]*(?:Instruction|(?:Human|User)[ \t]*\n)|(?:human|user)(?:[ \t]?:|[ \t]*\n))"
    r"|</?(?:user|human)>"
)
# What every one of these has in it: where none stands, which a plain search tells, none matches.
_BRACKETED = ("INST]", "[EOS]")
_SYMBOLS = (
    "<|", "</s>", "<eos>", "<end_of_turn>", "<start_of_turn>", "<｜", "user>", "human>",
    "<seed:eos>", "<turn|>", *_BRACKETED,
)  # fmt: skip
_NAMES = ("Human", "User", "HUMAN", "USER", "Instruction", "\nhuman", "\nuser", " user", "\tuser",
          " human", "\thuman")  # fmt: skip
TURN_MARKS = _SYMBOLS + _NAMES
_SPECIAL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk)>|<seed:[be]os>|\[[BE]OS\]"
)
_LEAD = re.compile(
    r"(?:\s{0,40}(?:(?:<\|(?:im_start|start_header_id|turn|im_assistant)\|?>|<start_of_turn>)"
    r"\s*(?:assistant|model)(?=\s|<)"
    r"|<\|(?:begin_of_text|end_header_id|assistant|im_middle|im_sep)\|>|<s>|<bos>"
    r"|<｜(?:begin▁of▁sentence|Assistant)｜>))+"
)


def final_text(response: str) -> str | None:
    """What the model says after its thinking, in its own turn; None if the thinking is open."""
    if "<|channel|>" in response or _BARE_ANALYSIS.match(response):
        final = _final_channel(response)
        if final is None:
            return None
        response = final
    lead = _LEAD.match(response)
    if lead:
        response = response[lead.end() :]
    end = _turn_end(response)
    if end is not None:
        response = response[:end]
    start = 0
    marked = "<" in response or "THINK]" in response or "▷" in response
    for opens, closes in THINKING if marked else ():
        close = response.rfind(closes)
        if response.rfind(opens) > close:
            return None
        start = max(start, close + len(closes) if close >= 0 else 0)
    return _SPECIAL.sub("", response[start:])


def _final_channel(response: str) -> str | None:
    """The model's first message of the final channel, before the user speaks; None without one."""
    if "<|channel|>" not in response:
        return response.partition(_BARE_FINAL)[2] or None
    user = _USER.search(response)
    for message in _MESSAGE.finditer(response[: user.start() if user else None]):
        if message["channel"] == "final" and message["role"] in (None, "assistant"):
            return response[message.end() :]
    return None


def _turn_end(text: str) -> int | None:
    """Where the first turn ends; the expression is tried from the first mark on."""
    symbols = _SYMBOLS if "<" in text else _BRACKETED
    starts = [at - 2 for mark in symbols if (at := text.find(mark)) >= 0]
    if "\n" in text:
        starts += [text.rfind("\n", 0, at) for mark in _NAMES if (at := text.find(mark)) >= 0]
    end = _TURN_END.search(text, max(min(starts), 0)) if starts else None
    return end.start() if end else None
