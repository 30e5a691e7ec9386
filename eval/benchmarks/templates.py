"""From a problem to what the model is sent: templates by name, and the model's chat template."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
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
    # The same behind a space, and the sentence of verl's data: of VESPO's published prompts.
    "qwen_space": Template(
        PLACE + " Please reason step by step, and put your final answer within \\boxed{}."
    ),
    "verl": Template(
        PLACE + " Let's think step by step and output the final answer within \\boxed{}."
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
        own_at: where in the text the problem's own part begins, after the examples; 0 without.
    """

    text: str
    messages: tuple[Mapping[str, str], ...] | None
    own_at: int = 0


@dataclass
class Renderer:
    """Renders problems, with the tokenizer's chat template where there is a tokenizer.

    Args:
        tokenizer: of the model; None leaves the chat template to the endpoint.
        system: system prompt; empty is none.
        raw: send every template as it is.
        options: for the chat template, such as ``enable_thinking``.
        examples_as_text: examples stand in the text before the problem, not as turns of their own.

    Raises:
        ValueError: (from `render`) the tokenizer has no chat template, or cannot apply it, or the
            prompt opens the thinking that examples do not have.
    """

    tokenizer: Any = None
    system: str = ""
    raw: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    examples_as_text: bool = False

    def render(
        self, template: Template, problem: str, examples: Sequence[tuple[str, str]] = ()
    ) -> Prompt:
        """The prompt of one problem, after examples of question and answer."""
        own = text = template.text.replace(PLACE, problem)
        turns = [(template.text.replace(PLACE, asked), answer) for asked, answer in examples]
        raw = self.raw or template.raw
        if turns and own.endswith("<think>"):
            raise ValueError(
                "--few-shot: this prompt template begins the response with <think>, and examples "
                "have no thinking: take another --template"
            )
        if raw or self.examples_as_text:
            text = "\n\n".join([*(f"{asked}\n{answer}" for asked, answer in turns), own])
            turns = []
        if raw:
            whole = f"{self.system}\n\n{text}" if self.system else text
            return Prompt(whole, None, len(whole) - len(own) if examples else 0)
        messages: list[dict[str, str]] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for asked, answer in turns:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": text})
        rendered = self._apply(messages)
        # Some chat templates strip what they are given.
        own_at = max(0, rendered.rfind(own.strip())) if examples else 0
        return Prompt(rendered, tuple(messages), own_at)

    def _apply(self, messages: list[dict[str, str]]) -> str:
        if self.tokenizer is None:
            return "\n\n".join(message["content"] for message in messages)
        if not self.tokenizer.chat_template:
            raise ValueError(
                "the model has no chat template: send the prompts as they are with --raw, or add "
                "a chat template to its tokenizer"
            )
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.options
            )
        except Exception as error:  # the template is the model's own Jinja program
            raise ValueError(
                f"the model's chat template cannot render a prompt: {error}"
            ) from error
        return rendered
