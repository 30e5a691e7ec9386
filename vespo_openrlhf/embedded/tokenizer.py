"""A character-level tokenizer with a chat template, in Hugging Face files.

One token per printable ASCII character, one for each of a few words that would only lengthen
the sequences (`\\boxed{` and the names of the chat roles), and four special tokens. A character
outside of this vocabulary becomes one `<unk>`. Decoding joins the tokens as they are, so text
in the vocabulary comes back unchanged, special tokens included.
"""

from __future__ import annotations

import re
import string

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

UNK = "<unk>"
PAD = "<|pad|>"
START = "<|im_start|>"
END = "<|im_end|>"
SPECIAL_TOKENS = (PAD, UNK, START, END)

# Longest first where one begins another: a pre-tokenizer's alternation takes the first match.
WORDS = ("\\boxed{", "assistant", "system", "user")

# `message['content']` is text; OpenRLHF hands an image prompt over as a list, which this
# model cannot read, and the template says so instead of rendering the list's repr.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['content'] is not string -%}"
    "{{- raise_exception('this model reads text only') -}}"
    "{%- endif -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- endif -%}"
)


def vocabulary() -> dict[str, int]:
    """Token -> id, in a fixed order: special tokens, words, newline, printable ASCII."""
    characters = "\n" + "".join(
        c for c in map(chr, range(128)) if c in string.printable and c.isprintable()
    )
    return {token: i for i, token in enumerate([*SPECIAL_TOKENS, *WORDS, *characters])}


def build_tokenizer(model_max_length: int = 256) -> PreTrainedTokenizerFast:
    """The tokenizer, ready for `save_pretrained`.

    Args:
        model_max_length: tokens the model can take, prompt and response together.

    Returns:
        A fast tokenizer with `<|im_end|>` as end of sequence, a pad token of its own, left
        padding, and no token added at either end by `encode`.
    """
    backend = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNK))
    # Every match is isolated, and everything matches: `[\s\S]` takes any one character left.
    pieces = "|".join([*(re.escape(word) for word in WORDS), r"[\s\S]"])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), behavior="isolated")
    # Without it, WordLevel decodes with a space between two tokens.
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNK,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length,
        padding_side="left",
    )


def chat_text(tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """`prompt` as the user's turn, followed by the opening of the assistant's turn."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    return text
