"""vLLM in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vespo_openrlhf.agents.episode import Sampled
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
    def tokenizer(self) -> Any:
        """Of transformers."""
        return self._tokenizer

    @property
    def max_length(self) -> int:
        """Tokens that the model takes, prompt and response together."""
        limit: int = self._llm.model_config.max_model_len
        return limit

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
        prompts = [{"prompt_token_ids": self._encode(request)} for request in requests]
        parameters = [
            self._sampling(request.temperature, request.seed, self._options.max_tokens)
            for request in requests
        ]
        return prompts, parameters

    def _sampling(self, temperature: float, seed: int, max_tokens: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=temperature,
            top_p=self._options.top_p,
            max_tokens=max_tokens,
            seed=seed,
            stop=list(self._options.stop) or None,
            **self._options.more_sampling,
            skip_special_tokens=False,
        )

    def add(self, requests: Mapping[int, Request]) -> None:
        """Queue requests by their index."""
        self._enqueue(list(requests), *self.inputs(list(requests.values())))

    def add_turn(
        self, number: int, tokens: list[int], max_tokens: int, seed: int, temperature: float
    ) -> None:
        """Queue a turn of an episode, after these tokens."""
        sampling = self._sampling(temperature, seed, max_tokens)
        self._enqueue([number], [{"prompt_token_ids": tokens}], [sampling])

    def _enqueue(self, indices: Sequence[int], prompts: list[Any], parameters: list[Any]) -> None:
        ids = self._llm.enqueue(prompts, parameters, use_tqdm=False)
        for index, internal in zip(indices, ids, strict=True):
            # vLLM appends a suffix to the id that its outputs carry.
            self._indices[internal.rpartition("-")[0] or internal] = index

    def step(self) -> list[Completion]:
        """One forward pass; what finished with it.

        Raises:
            EvaluationError: out of memory, or the engine's process is gone.
        """
        return [
            Completion(index, answer.text, len(answer.token_ids), answer.finish_reason or "")
            for index, answer in self._step()
        ]

    def step_turns(self) -> list[tuple[int, Sampled]]:
        """The same of turns, by their numbers."""
        return [
            (number, Sampled(list(answer.token_ids), None, answer.finish_reason or ""))
            for number, answer in self._step()
        ]

    def _step(self) -> list[tuple[int, Any]]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            outputs = self._llm.llm_engine.step()
        except (RuntimeError, EngineDeadError) as error:
            raise EvaluationError(f"vLLM gave way: {error}") from error
        return [
            (self._indices.pop(output.request_id), output.outputs[0])
            for output in outputs
            if output.finished
        ]

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
            if len(ids) >= self.max_length:
                raise ValueError(
                    f"{request.benchmark} {request.id}: the prompt has {len(ids)} tokens, and the "
                    f"model takes {self.max_length}, prompt and response together"
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
