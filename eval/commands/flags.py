"""The command-line options that say what is run; `run`, `watch` and `bench` share them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval.benchmarks import BENCHMARKS
from vespo_openrlhf.eval.benchmarks.templates import TEMPLATES
from vespo_openrlhf.eval.commands.presets import PRESETS
from vespo_openrlhf.eval.engines.endpoint import KEY_VARIABLE, Endpoint
from vespo_openrlhf.eval.engines.episodes import Play
from vespo_openrlhf.eval.options import Options
from vespo_openrlhf.eval.running.plan import Run

DEFAULT_BENCHMARKS = "aime24,aime25,amc23,math500"


def add_run_options(parser: argparse.ArgumentParser, *, model: bool = True) -> None:
    """Every option of `run_of`, with its default; to be parsed by `presets.parse_with_preset`."""
    defaults = Options()
    _add_what(parser.add_argument_group("what"), model=model)
    _add_prompts(parser.add_argument_group("prompts"), defaults)
    _add_sampling(parser.add_argument_group("sampling"), defaults)
    _add_engine(parser.add_argument_group("engine"))
    _add_endpoint(parser.add_argument_group("endpoint, instead of an engine"))
    _add_agent(parser.add_argument_group("agent"))


def _add_what(what: argparse._ArgumentGroup, *, model: bool) -> None:
    what.add_argument(
        "--preset",
        choices=PRESETS,
        help="benchmarks, prompts and sampling of a published evaluation, as defaults: "
        + "; ".join(f"{name}: {preset.source}" for name, preset in PRESETS.items()),
    )
    if model:
        what.add_argument(
            "--model", required=True, help="model folder or hub id; its name at an endpoint"
        )
        what.add_argument("--revision", help="of a hub id: branch, tag or commit")
    what.add_argument(
        "--benchmarks",
        default=DEFAULT_BENCHMARKS,
        metavar="NAME[:K],...",
        help="names, with responses to each problem after the colon: "
        + ", ".join(f"{b.name}:{b.repeats}" for b in BENCHMARKS.values())
        + "; your own as my.jsonl:8 (columns problem, question or prompt, and answer or label), "
        f"my.yaml:8 or my.py:NAME:8 (default {DEFAULT_BENCHMARKS})",
    )
    what.add_argument(
        "--data-dir", type=Path, help="folder with the benchmarks' files; without, the hub"
    )
    what.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="the first N problems of each benchmark, for a try; every table says so, and the "
        "folder takes no whole run later",
    )
    what.add_argument(
        "--also-greedy",
        action="store_true",
        help="every benchmark once more at temperature 0, as NAME-greedy",
    )


def _add_prompts(prompt: argparse._ArgumentGroup, defaults: Options) -> None:
    prompt.add_argument(
        "--template",
        default=defaults.template,
        help=f"{', '.join(TEMPLATES)}, or a text with {{problem}} in it (default: each "
        "benchmark's own, qwen for most; plain for a file with a column prompt)",
    )
    prompt.add_argument("--system", default=defaults.system, help="system prompt (default none)")
    prompt.add_argument(
        "--raw", action="store_true", help="send prompts as they are, without the chat template"
    )
    prompt.add_argument(
        "--chat-template-options",
        type=json_object,
        default={},
        metavar="JSON",
        help="for the model's chat template, such as '{\"enable_thinking\": false}'",
    )
    prompt.add_argument(
        "--few-shot",
        type=int,
        metavar="K",
        help="worked examples before each problem, drawn with the seed, the same for all, and "
        "never the problem itself (default none; gsm8k has its own, others need --few-shot-from)",
    )
    prompt.add_argument(
        "--few-shot-from",
        metavar="FILE",
        help="of the examples: columns as the benchmark's, and solution if there is one",
    )
    prompt.add_argument(
        "--few-shot-text",
        action="store_true",
        help="examples in the one message, before the problem, not as turns of the chat; with "
        "--raw they are always text, and --stop should end the response where a next one begins",
    )


def _add_sampling(sampling: argparse._ArgumentGroup, defaults: Options) -> None:
    for name, text in (
        ("temperature", "0 is greedy"),
        ("top_p", "nucleus sampling"),
        ("max_tokens", "longest response"),
        ("seed", "every response gets its own from it, whatever the order"),
    ):
        value = getattr(defaults, name)
        sampling.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(value),
            default=value,
            help=f"{text} (default {value})",
        )
    for name, kind, text in (
        ("top_k", int, "only the K likeliest tokens (Qwen3 asks for 20)"),
        ("min_p", float, "only tokens at least this likely, as a share of the likeliest's"),
        ("repetition_penalty", float, "above 1, against tokens of prompt and response"),
        ("presence_penalty", float, "above 0, against tokens that the response has"),
        ("frequency_penalty", float, "above 0, the same by how often"),
    ):
        sampling.add_argument(
            f"--{name.replace('_', '-')}", type=kind, help=f"{text} (default: not sent)"
        )
    sampling.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends a response; repeatable"
    )


def _add_engine(engine: argparse._ArgumentGroup) -> None:
    engine.add_argument(
        "--engines",
        type=int,
        default=1,
        help="vLLM engines; more than one run on Ray: the cluster of RAY_ADDRESS, or this machine "
        "(default 1)",
    )
    engine.add_argument(
        "--engine-options",
        type=json_object,
        default={},
        metavar="JSON",
        help='for vllm.LLM, such as \'{"max_model_len": 32768, "tensor_parallel_size": 2}\'',
    )


def _add_endpoint(endpoint: argparse._ArgumentGroup) -> None:
    endpoint.add_argument(
        "--endpoint",
        metavar="URL",
        help=f"OpenAI-compatible server; its key, if any, in {KEY_VARIABLE}. A folder of results "
        "is bound to its server",
    )
    endpoint.add_argument(
        "--key-over-http",
        action="store_true",
        help=f"send {KEY_VARIABLE} over plain http to another machine too, where anyone on the way "
        "can read it (default: over https, or to this machine)",
    )
    for name, text in (
        ("concurrency", "requests in flight"),
        ("requests_per_minute", "0 is no limit"),
        ("retries", "of a request, with exponential backoff"),
    ):
        value = Endpoint.__dataclass_fields__[name].default
        endpoint.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(value),
            default=value,
            help=f"{text} (default {value:g})",
        )
    endpoint.add_argument(
        "--max-completion-tokens",
        action="store_true",
        help="send --max-tokens under this name, which OpenAI's reasoning models ask for",
    )


def _add_agent(agent: argparse._ArgumentGroup) -> None:
    agent.add_argument(
        "--agent",
        metavar="FILE.py[:NAME]",
        help="play an episode of this agent for each response; it is told the rendered prompt and "
        "the gold. The benchmark's verdict is on the last turn; the agent's own reward and score "
        "stand beside it. --max-tokens is of a turn; an episode ends at the model's context. "
        "A folder of results is bound to the file's content. No endpoint",
    )
    default = Play.__dataclass_fields__["timeout_s"].default
    agent.add_argument(
        "--agent-timeout",
        type=float,
        default=default,
        metavar="S",
        help="seconds that an episode's environment may take in all, sampling not counted; beyond "
        "it, or where the agent raises, the episode is recorded as a failed request "
        f"(default {default:g})",
    )


def json_object(text: str) -> dict[str, Any]:
    """An option's value that is a JSON object."""
    try:
        loaded = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise argparse.ArgumentTypeError("expected a JSON object, such as '{\"name\": 1}'")
    return loaded


def run_of(arguments: argparse.Namespace, **changes: Any) -> Run:
    """The run that parsed options ask for.

    Args:
        arguments: parsed; of `add_run_options`.
        changes: options to take instead, such as another `model`.

    Raises:
        ValueError: a value that means nothing, or options that exclude one another.
    """
    values: Mapping[str, Any] = {**vars(arguments), **changes}
    endpoint = None
    if values["endpoint"]:
        names = ["concurrency", "requests_per_minute", "retries"]
        names += ["max_completion_tokens", "key_over_http"]
        endpoint = Endpoint(values["endpoint"], **{name: values[name] for name in names})
    chosen = {field.name: values[field.name] for field in fields(Options) if field.name in values}
    chosen |= {
        "engine": "endpoint" if endpoint else "vllm",
        "stop": tuple(values["stop"]),
        "few_shot_text": values["few_shot_text"] or None,
    }
    names = ["model", "benchmarks", "revision", "data_dir", "also_greedy", "engines"]
    play = Play(values["agent"], values["agent_timeout"]) if values["agent"] else None
    return Run(
        options=Options(**chosen),
        templates=PRESETS[values["preset"]].templates if values["preset"] else {},
        endpoint=endpoint,
        agent=play,
        **{name: values[name] for name in names},
    )
