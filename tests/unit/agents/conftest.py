"""Small chat templates of the shapes that are in use, and a policy that reads off a script."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vespo_openrlhf.agents.episode import Sampled

#: As Qwen2.5's: a system message of its own where there is none.
CHATML = """\
{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nhelp<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

#: As Qwen3's: thinking is shown of what follows the last question alone; tools answer as the user.
QWEN3 = """\
{%- set last = namespace(user=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set said = m.content.split('</think>')[-1].lstrip('\\n') %}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n')
    if '</think>' in m.content else '' %}
{%- if loop.index0 > last.user and (loop.last or thought) %}
{{- '<|im_start|>assistant\\n<think>\\n' + thought + '\\n</think>\\n\\n' + said }}
{%- else %}{{- '<|im_start|>assistant\\n' + said }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}
{%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

#: As Llama 3's: a beginning of text, contents stripped.
LLAMA3 = """\
{{- '<|begin_of_text|>' }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

#: As Mistral's: the system message stands in the last user message, and roles alternate.
MISTRAL = """\
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if system else messages %}
{{- '<s>' }}
{%- for m in turns %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles alternate') }}
{%- endif %}
{%- if m.role == 'user' %}
{{- '[INST] ' + (system + '\\n\\n' if system and loop.last else '') + m.content + '[/INST]' }}
{%- else %}{{- ' ' + m.content + '</s>' }}{% endif %}
{%- endfor %}"""

#: As Llama 2's and Phi 3's at once: a space before the end, and one more end behind all.
SPACED = """\
{%- for m in messages %}
{%- if m.role == 'user' %}{{- '<s>[INST] ' + m.content + ' [/INST]' }}
{%- elif m.role == 'assistant' %}{{- ' ' + m.content + ' </s>' }}{% endif %}
{%- endfor %}{% if not add_generation_prompt %}{{- '<|eot_id|>' }}{% endif %}"""

#: As GLM 4's: a turn ends where the next one's role begins, and the policy samples that.
GLM4 = """\
{%- for m in messages %}{{- '<|' + m.role + '|>\\n' + m.content }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{% endif %}"""

#: Of a base model: nothing special ends a turn, but something special stands elsewhere.
PLAIN = """\
{%- for m in messages %}{{- m.role + ':<s> ' + m.content + '\\n\\n' }}{% endfor %}
{{- 'assistant:<s>' if add_generation_prompt else '</s>' }}"""

#: As ChatGLM2's: rounds are numbered.
ROUNDS = """\
{%- for m in messages %}
{%- if m.role == 'user' %}{{- '[Round ' ~ (loop.index0 // 2 + 1) ~ ']\\n' + m.content + '\\n' }}
{%- else %}{{- m.content + '\\n' }}{% endif %}
{%- endfor %}"""

SPECIAL = (
    "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<s>", "</s>",
    "<|user|>", "<|assistant|>",
)  # fmt: skip


def build(template: str | None, end: str, name: str = "test/model") -> PreTrainedTokenizerFast:
    """A token for each character, and one for "42": so one text is many lists of tokens."""
    words = [*SPECIAL, "42", "\n", *map(chr, range(32, 127))]
    vocabulary = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"42|[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token=end, chat_template=template
    )
    tokenizer.name_or_path = name
    return tokenizer


class Script:
    """A policy that says what stands in its script, and keeps what it was asked.

    Args:
        turns: of each the text, and how it ended; without that the end of turn was sampled.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, *turns: str | tuple[list[int], str]
    ) -> None:
        self.tokenizer, self.turns = tokenizer, list(turns)
        self.asked: list[tuple[list[int], int]] = []
        self.said: list[list[int]] = []

    async def __call__(self, tokens: list[int], room: int) -> Sampled:
        turn = self.turns[len(self.asked)]
        self.asked.append((tokens, room))
        ids, reason = (self.ids(turn), "stop") if isinstance(turn, str) else turn
        if len(ids) > room:
            ids, reason = ids[:room], "length"
        self.said.append(ids)
        return Sampled(ids, [-float(i + 1) for i in range(len(ids))], reason)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def user(*contents: str) -> Sequence[dict[str, str]]:
    return [{"role": "user", "content": content} for content in contents]


@pytest.fixture(scope="session")
def chatml() -> PreTrainedTokenizerFast:
    return build(CHATML, "<|im_end|>")
