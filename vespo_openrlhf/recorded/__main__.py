"""`python -m vespo_openrlhf.recorded`: rollouts of other trainers, and what is in recorded ones."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vespo_openrlhf.options import fields
from vespo_openrlhf.recorded.importing.formats import importer, importers

_PROG = "python -m vespo_openrlhf.recorded"
_EPILOG = """\
`vespo train --offline.data FOLDER` trains from recorded rollouts. A run keeps its own with
--run.record; `import` makes them of what other trainers have left, and `show` tells what is there.

  vespo recorded import --help                what can be read, with examples
  vespo recorded import --from verl --help    which files of verl, and what is assumed of them
  vespo recorded show runs/mine               what a run has recorded
"""
_IMPORT_EPILOG = """\
{importers}

examples:
  vespo recorded import --from verl rollouts/ --model Qwen/Qwen3-8B --out data/rollouts \\
      --max-response-tokens 8192
  vespo recorded import --from trl outputs/grpo --model Qwen/Qwen3-0.6B --out data/rollouts \\
      --rewards accuracy_reward=1,format_reward=0.5
  vespo recorded import --from chat episodes.jsonl --model meta-llama/Llama-3.2-3B-Instruct \\
      --out data/episodes
  vespo recorded import --from table scored.csv --model Qwen/Qwen3-8B-Base --out data/scored \\
      --prompt-column question --reward-column correct --apply-chat-template

What cannot be used of the source is counted by reason. A folder of shards is written whole or not
at all. `--from NAME --help` has the files, the assumptions and the flags of one importer.
"""
_SHOW_EPILOG = """\
examples:
  vespo recorded show data/rollouts
  vespo recorded show runs/mine --model Qwen/Qwen3-8B --max-len 9216 --samples 16

Exits with 0; with 1 where some samples cannot be trained on; with 2 for what you can mend.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0; 1 where `show` finds samples that cannot be trained on; 2 for what the user can mend.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(_named(words)).parse_args(words)
    try:
        return _show(arguments) if arguments.command == "show" else _import(arguments)
    except (ValueError, OSError) as error:
        print(f"{_PROG}: error: {error}", file=sys.stderr)
        return 2


def _import(arguments: argparse.Namespace) -> int:
    from vespo_openrlhf.models import load_tokenizer
    from vespo_openrlhf.recorded.importing.convert import Options, convert
    from vespo_openrlhf.recorded.importing.encoding import NOTES

    kind = importer(arguments.importer)
    settings = kind.Settings(
        **{each.name: getattr(arguments, each.name) for each in dataclasses.fields(kind.Settings)}
    )
    options = Options(
        out=arguments.out,
        source=arguments.importer,
        model=arguments.model,
        temperature=arguments.temperature,
        apply_chat_template=arguments.apply_chat_template,
        max_response_tokens=arguments.max_response_tokens,
        keep_unscored=arguments.keep_unscored,
    )
    reader = kind(arguments.sources, settings)
    report = convert(reader, load_tokenizer(arguments.model, None), options)
    print(f"{report.read:>9,} rows read by --from {arguments.importer}")
    if report.left_out:
        print(f"{report.left_out.total():>9,} left out:\n{report.account()}")
    print(f"{report.written:>9,} samples of {report.prompts:,} prompts in {arguments.out}")
    for name, meaning in NOTES.items():
        if report.noted[name]:
            print(f"{report.noted[name]:>9,} of them {meaning}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from vespo_openrlhf.recorded.summary import summarise, table

    limits: dict[str, int] = {}
    digest = ""
    if arguments.max_len is not None:
        limits["max_length"] = arguments.max_len
    if arguments.model:
        limits["vocabulary"], digest = _model(arguments.model)
    found = summarise(arguments.path, **limits)
    print(table(found, arguments.samples, digest))
    foreign = digest and any(origin.tokenizer not in ("", digest) for origin in found.origins)
    return int(bool(found.wrong) or bool(foreign))


def _model(name: str) -> tuple[int, str]:
    """Tokens of a model's embedding, and the digest of its tokenizer."""
    from transformers import AutoConfig

    from vespo_openrlhf.models import load_tokenizer
    from vespo_openrlhf.recorded.schema import tokenizer_digest

    tokenizer = load_tokenizer(name, None)
    try:
        config = AutoConfig.from_pretrained(name).get_text_config()
    except (OSError, ValueError):  # a folder with a tokenizer alone
        return len(tokenizer), tokenizer_digest(tokenizer)
    return config.vocab_size, tokenizer_digest(tokenizer)


def _named(words: Sequence[str]) -> str:
    """The importer that is named, if it is one: its flags are the parser's."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--from", dest="importer", default="")
    name: str = finder.parse_known_args(words)[0].importer
    return name if name in importers() else ""


def _parser(name: str) -> argparse.ArgumentParser:
    """Args: name: of the importer whose flags are among them; "": none's."""
    parser = argparse.ArgumentParser(
        prog=_PROG,
        description="Rollouts on disk: make them of what other trainers have left, and look at "
        "them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_import(commands, name)
    _add_show(commands)
    return parser


def _add_import(commands: Any, name: str) -> None:
    command = commands.add_parser(
        "import",
        help="make recorded rollouts of what another trainer has left",
        description=_about(name)
        if name
        else "Make recorded rollouts of what another trainer has "
        "left: prompts and responses as tokens of a model, with rewards, in groups.",
        epilog=None if name else _IMPORT_EPILOG.format(importers=_importers()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument(
        "--from",
        dest="importer",
        required=True,
        choices=importers(),
        help="what the source is",
    )
    command.add_argument("sources", nargs="+", metavar="SOURCE", help="files or folders of it")
    command.add_argument(
        "--model",
        required=True,
        help="whose tokenizer and chat template make the tokens: the model that sampled the "
        "responses, or that is to be trained, which must have the same; a folder, or its name on "
        "the hub",
    )
    command.add_argument("--out", required=True, type=Path, help="folder for the shards")
    command.add_argument(
        "--apply-chat-template",
        action="store_true",
        help="take a prompt of text as the message of a user (default: as the text that the policy "
        "was given; messages are always put through the chat template)",
    )
    command.add_argument(
        "--max-response-tokens",
        type=_count,
        metavar="N",
        help="where the source does not say whether a response ended, one of at least N tokens was "
        "cut off (default: all have ended). One that ended is given the model's eos token",
    )
    command.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="that the source's log-probs are of (default: %(default)s, as servers tell them)",
    )
    command.add_argument(
        "--keep-unscored",
        action="store_true",
        help="keep responses without a reward, for a reward model in training (default: leave them "
        "out)",
    )
    if name:
        group = command.add_argument_group(f"flags of --from {name}")
        for each, kind, choices in fields(importer(name).Settings):
            given: dict[str, Any] = {"default": each.default, "help": each.metadata["help"]}
            if kind is bool:
                given["action"] = "store_true"
            else:
                given |= {"type": kind, "choices": choices or None}
                if each.default != "":
                    given["help"] += " (default: %(default)s)"
            group.add_argument(f"--{each.name.replace('_', '-')}", **given)


def _add_show(commands: Any) -> None:
    command = commands.add_parser(
        "show",
        help="what recorded rollouts hold",
        description="Read all of them once, and tell what they hold and what cannot be trained on.",
        epilog=_SHOW_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "path", type=Path, metavar="PATH", help="a run folder, a folder of shards, or a shard"
    )
    command.add_argument("--model", help="that is to be trained: tokens must be in its vocabulary")
    command.add_argument(
        "--max-len", type=_count, metavar="N", help="--data.max_len of the training"
    )
    command.add_argument(
        "--samples",
        type=_count,
        metavar="N",
        help="--rollout.n_samples_per_prompt of the training: how many groups it will have",
    )


def _about(name: str) -> str:
    """What an importer says of itself."""
    return (_module(name).__doc__ or "").strip()


def _importers() -> str:
    """The first sentence of each."""
    lines = [f"  {name:<8}{_about(name).splitlines()[0]}" for name in importers()]
    return "\n".join(["--from:", *lines])


def _module(name: str) -> Any:
    return importlib.import_module(importer(name).__module__)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
