"""From a problem to what the model is sent: templates by name, and the model's chat template."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PLACE = "{problem}"


@dataclass(frozen=True)
class Template:
    r"""How a problem is put to the model.

    Attributes:
        text: the user's message, with ``{problem}`` in it.
        raw: it is sent as it is, without the model's chat template.
        require_box: the answer must stand in ``\boxed{}``; False also takes what follows
            "answer:", for a template that asks for that.
    """

    text: str
    raw: bool = False
    require_box: bool = True

    def __post_init__(self) -> None:
        if PLACE not in self.text:
            raise ValueError(f"a prompt template needs {PLACE} in it: {self.text!r}")


TEMPLATES: Mapping[str, Template] = {
    "plain": Template(PLACE),
    # Qwen2.5-Math, Qwen3 and DeepSeek-R1 recommend this sentence.
    "qwen": Template(
        PLACE + "\nPlease reason step by step, and put your final answer within \\boxed{}."
    ),
    # DeepSeek-R1-Zero (arXiv 2501.12948, table 1), for base models; the box is ours.
    "r1": Template(
        "A conversation between User and Assistant. The User asks a question, and the Assistant "
        "solves it. The Assistant first thinks about the reasoning process in the mind and then "
        "provides the User with the answer. The reasoning process is enclosed within <think> "
        "</think> tags, and the answer follows them, with the final result within \\boxed{}.\n"
        "User: " + PLACE + "\nAssistant: <think>",
        raw=True,
    ),
    # DAPO (arXiv 2503.14476), as its data has it.
    "dapo": Template(
        "Solve the following math problem step by step. The last line of your response should be "
        "of the form Answer: $Answer (without quotes) where $Answer is the answer to the problem."
        "\n\n" + PLACE + '\n\nRemember to put your answer on its own line after "Answer:".',
        require_box=False,
    ),
}


def find_template(name: str) -> Template:
    """A template by its name; a text with ``{problem}`` in it is a template itself.

    Raises:
        ValueError: it is neither; the nearest names are offered.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    if PLACE in name:
        return Template(name)
    near = difflib.get_close_matches(name, TEMPLATES, n=1)
    raise ValueError(
        f"unknown prompt template {name!r}"
        + (f", did you mean {near[0]}?" if near else ":")
        + f" Known are {', '.join(TEMPLATES)}; a text with {PLACE} in it is one too"
    )


@dataclass(frozen=True)
class Prompt:
    """What the model is sent.

    Attributes:
        text: the whole prompt as rendered; for a chat endpoint, which renders itself, the
            messages' contents with an empty line between them.
        messages: the chat, or None where the text is sent as it is.
    """

    text: str
    messages: tuple[Mapping[str, str], ...] | None


@dataclass
class Renderer:
    """Renders problems, with the tokenizer's chat template where there is a tokenizer.

    Args:
        tokenizer: of the model; None leaves the chat template to the endpoint.
        system: system prompt; empty is none.
        raw: send every template as it is.
        options: for the chat template, such as ``enable_thinking``.

    Raises:
        ValueError: (from `render`) the tokenizer has no chat template, or cannot apply it.
    """

    tokenizer: Any = None
    system: str = ""
    raw: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def render(self, template: Template, problem: str) -> Prompt:
        """The prompt of one problem."""
        text = template.text.replace(PLACE, problem)
        if self.raw or template.raw:
            return Prompt(f"{self.system}\n\n{text}" if self.system else text, None)
        messages: list[dict[str, str]] = [{"role": "user", "content": text}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        if self.tokenizer is None:
            return Prompt("\n\n".join(m["content"] for m in messages), tuple(messages))
        if not self.tokenizer.chat_template:
            raise ValueError(
                "the model has no chat template: send the prompts as they are with --raw, or add "
                "a chat template to its tokenizer"
            )
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.options
            )
        except Exception as error:  # the template is the model's own Jinja program
            raise ValueError(
                f"the model's chat template cannot render a prompt: {error}"
            ) from error
        return Prompt(rendered, tuple(messages))
