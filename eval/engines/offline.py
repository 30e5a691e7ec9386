"""vLLM in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vespo_openrlhf.eval.engines import Completion, Request
from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.options import Options


def import_vllm() -> None:
    """What an engine imports, which takes some seconds; it keeps standard output clean."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    import vllm.v1.engine.llm_engine  # noqa: F401


class OfflineEngine:
    """A vLLM engine on one model, in float32 where there is no GPU.

    Args:
        model: a model folder or a hub id.
        revision: of a hub id; None is the newest.
        options: sampling; `engine_options` go to ``vllm.LLM``.

    Raises:
        ValueError: vLLM refuses the model or an option.
    """

    def __init__(self, model: str, revision: str | None, options: Options) -> None:
        arguments = {"model": model, "revision": revision, "seed": 0, **_platform_options()}
        arguments |= options.engine_options
        import_vllm()
        import vllm

        try:
            self._llm = vllm.LLM(**arguments)
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"vLLM cannot load {model}: {error}") from error
        self._options = options
        self._tokenizer = self._llm.get_tokenizer()
        self._tokens: dict[str, list[int]] = {}
        self._indices: dict[str, int] = {}

    @property
    def llm(self) -> Any:
        """The ``vllm.LLM``."""
        return self._llm

    @property
    def capacity(self) -> int:
        """How many responses it generates at a time."""
        limit: int = self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
        return limit

    def inputs(self, requests: Sequence[Request]) -> tuple[list[dict[str, Any]], list[Any]]:
        """The requests as ``vllm.LLM.generate`` takes them: prompts, and sampling parameters.

        Raises:
            ValueError: a prompt that leaves no room for a response.
        """
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": self._encode(request)} for request in requests]
        parameters = [
            SamplingParams(
                temperature=request.temperature,
                top_p=self._options.top_p,
                max_tokens=self._options.max_tokens,
                seed=request.seed,
                stop=list(self._options.stop) or None,
                **self._options.more_sampling,
                skip_special_tokens=False,
            )
            for request in requests
        ]
        return prompts, parameters

    def add(self, requests: Mapping[int, Request]) -> None:
        """Queue requests by their index."""
        ids = self._llm.enqueue(*self.inputs(list(requests.values())), use_tqdm=False)
        for index, internal in zip(requests, ids, strict=True):
            # vLLM appends a suffix to the id that its outputs carry.
            self._indices[internal.rpartition("-")[0] or internal] = index

    def step(self) -> list[Completion]:
        """One forward pass; what finished with it.

        Raises:
            EvaluationError: out of memory, or the engine's process is gone.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            outputs = self._llm.llm_engine.step()
        except (RuntimeError, EngineDeadError) as error:
            raise EvaluationError(f"vLLM gave way: {error}") from error
        finished = []
        for output in outputs:
            if output.finished:
                answer = output.outputs[0]
                finished.append(
                    Completion(
                        self._indices.pop(output.request_id),
                        answer.text,
                        len(answer.token_ids),
                        answer.finish_reason or "",
                    )
                )
        return finished

    @property
    def busy(self) -> bool:
        """Whether anything is queued or running."""
        return bool(self._indices)

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Completions as they finish; every request is queued at once, so the batch stays full."""
        self.add(dict(enumerate(requests)))
        while self.busy:
            yield from self.step()

    def close(self) -> None:
        """Nothing to do: the engine ends with the process."""

    def _encode(self, request: Request) -> list[int]:
        prompt = request.prompt
        if prompt.text not in self._tokens:
            # A chat template writes the special tokens itself.
            encoded = self._tokenizer(prompt.text, add_special_tokens=prompt.messages is None)
            ids: list[int] = encoded["input_ids"]
            limit = self._llm.model_config.max_model_len
            if len(ids) >= limit:
                raise ValueError(
                    f"{request.benchmark} {request.id}: the prompt has {len(ids)} tokens, and the "
                    f"model takes {limit}, prompt and response together"
                )
            self._tokens[prompt.text] = ids
        return self._tokens[prompt.text]


def _platform_options() -> dict[str, Any]:
    from vespo_openrlhf import cpu

    if not cpu.is_active():
        return {}
    import torch

    # One core is left to those who judge and write: an engine whose threads wait for one another
    # at every operation stands still when any of them has to give way.
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) - 1))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    os.environ.update(cpu.environment())
    return {"dtype": "float32", "enforce_eager": True}
