"""OpenRLHF's rollout engine actor, with a version on every token. Runs in Ray, one per engine.

Groups come in by `stream_group` and go out sample by sample, as each is generated and again as it
is scored, so that nothing waits for the slowest. The version of a token is told by counting: when
new weights come, generation is paused, and what each unfinished response has so far was sampled
with the old ones. That costs nothing between updates, where reading every token from the stream
costs the square of the length once log-probs are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Coroutine, Hashable, Sequence
from typing import Any

import psutil
import torch
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray import vllm_engine
from openrlhf.utils.agent import SingleTurnAgentExecutor
from openrlhf.utils.vlm_utils import dedup_media_tokens
from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.logprobs import Logprob
from vllm.sampling_params import RequestOutputKind
from vllm.utils import random_uuid

from vespo_openrlhf.bridge import collector, vllm_plugin
from vespo_openrlhf.bridge.events import (
    Generated,
    RefusedWeightsError,
    RolloutSettings,
    Scored,
)
from vespo_openrlhf.bridge.seams import plain_class
from vespo_openrlhf.bridge.weight_check import SAMPLED_TOKENS, Trial
from vespo_openrlhf.bridge.wire import Rollout
from vespo_openrlhf.scheduling.lag import Spans, TokenVersions

# vLLM hands its outputs to waiting requests within a few turns of the event loop; as many looks
# without a change, this many seconds apart, mean that all have arrived.
_QUIET_LOOKS = 3
_LOOK_SECONDS = 0.005
_GATHER_SECONDS = 0.02

# A name: vLLM's workers import it, and nothing of the engine actor's with it.
_RECEIVER = "vespo_openrlhf.bridge.weight_receiver.WeightReceiver"

logger = logging.getLogger(__name__)


class VersionedRollout(plain_class(vllm_engine.RolloutRayActor)):  # type: ignore[misc]
    """`RolloutRayActor` that streams groups and knows which weights sampled what."""

    # Asynchronous, as upstream's is: Ray awaits it.
    async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc]
        os.environ[vllm_plugin.VARIABLE] = "1"
        kwargs["worker_extension_cls"] = _RECEIVER
        await super().__init__(*args, **kwargs)
        self._versions = TokenVersions(0)
        self._groups: dict[int, list[asyncio.Task[None]]] = {}
        self._generating = 0
        self._paused = False
        self._settings: RolloutSettings | None = None
        self._recomputed: list[tuple[int, float]] = []
        self._recomputing: asyncio.Task[None] | None = None
        collector.settle()

    def configure(self, settings: RolloutSettings) -> None:
        """Take what all groups have in common; before the first, and by an engine that joins again:
        what it had before is nobody's any more."""
        for ticket in list(self._groups):
            self.abort_group(ticket)
        if type(self.executor) is SingleTurnAgentExecutor:  # it makes its text from the tokens
            settings.sampling.detokenize = False
            if not hasattr(settings.tokenizer, "image_processor"):
                settings = dataclasses.replace(settings, tokenizer=_Remembering(settings.tokenizer))
        self._settings = settings

    def is_alive(self) -> None:
        """Answers where the engine can go on. Raises RuntimeError where its core has died, or where
        Ray has restarted the actor while nobody was waiting for it: it then has the weights of the
        start and is in no process group."""
        if self.llm.errored:
            raise RuntimeError("vLLM's engine core is gone")
        if self._settings is None:
            raise RuntimeError("the engine was restarted while it had nothing to do")

    def progress(self) -> Hashable:
        """What changes while the engine works; None where nothing is asked of it, or it stands
        still for an update. Raises as `is_alive` does."""
        self.is_alive()
        return self._progress() if self._generating and not self._paused else None

    def give_up(self) -> None:
        """Kill the engine core, which hangs: it would outlive this actor, with its memory. Then
        end this actor, before it answers any other call."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        os._exit(1)

    async def stream_group(
        self, ticket: int, prompt: str, label: str, images: Any, samples: int
    ) -> AsyncIterator[list[Generated | Scored]]:
        """Generate and score `samples` responses to a prompt, each reported as it gets there, with
        whatever else happens within `_GATHER_SECONDS`: each item of a stream costs Ray as much as
        a dozen samples cost us."""
        assert self._settings is not None, "configure comes first"
        events: asyncio.Queue[Generated | Scored | BaseException | None] = asyncio.Queue()
        tasks = [
            asyncio.ensure_future(self._sample(index, prompt, label, images, events))
            for index in range(samples)
        ]
        self._groups[ticket] = tasks
        end = asyncio.gather(*tasks, return_exceptions=True)
        end.add_done_callback(lambda _: events.put_nowait(None))
        try:
            ended = False
            while not ended:
                news = [await events.get()]
                await asyncio.sleep(_GATHER_SECONDS)
                while not events.empty():
                    news.append(events.get_nowait())
                ended = news[-1] is None
                failed = next((event for event in news if isinstance(event, BaseException)), None)
                if told := [event for event in news if isinstance(event, Generated | Scored)]:
                    yield told
                if failed is not None:
                    raise failed
        finally:
            self.abort_group(ticket)

    def abort_group(self, ticket: int) -> None:
        """Stop what is left of a group; a request that is cancelled leaves vLLM at once."""
        for task in self._groups.pop(ticket, []):
            task.cancel()

    async def _sample(
        self, index: int, prompt: str, label: str, images: Any, events: asyncio.Queue[Any]
    ) -> None:
        settings = self._settings
        assert settings is not None
        request = _SampleEngine(self)
        # With several turns, only the end of the last tells that all is generated.
        if isinstance(self.executor, SingleTurnAgentExecutor):
            request.on_generated = lambda spans: events.put_nowait(Generated(index, spans))
        try:
            response = await request.bounded(
                self.executor.execute(
                    prompt=prompt,
                    label=label,
                    sampling_params=settings.sampling.clone(),
                    max_length=settings.max_length,
                    hf_tokenizer=settings.tokenizer,
                    llm_engine=request,
                    images=images,
                ),
                settings.reward_timeout,
            )
            experience = SamplesGenerator._process_response_into_experience(
                self, response, max_len=settings.max_length
            )
        except Exception as error:
            if self.llm.errored:  # the engine is gone, and every other request with it
                events.put_nowait(error)
                return
            # A prompt that is too long, an agent that fails: this sample's own trouble.
            logger.exception("a sample failed on %r", prompt[:200])
            if not request.reported:
                events.put_nowait(Generated(index, request.spans))
            events.put_nowait(Scored(index, None, None))
            return
        if not request.reported:
            events.put_nowait(Generated(index, request.spans))
        rollout = Rollout(experience, tuple(request.request_ids))
        events.put_nowait(Scored(index, _reward(experience, self.executor), rollout))

    async def generate(
        self, prompt_token_ids: Any, sampling_params: Any, multi_modal_data: Any = None
    ) -> Any:
        """One response, whole at once; its `token_versions` say which weights sampled what."""
        sampling_params.output_kind = RequestOutputKind.FINAL_ONLY
        prompt = self._prompt(prompt_token_ids, multi_modal_data)
        self._generating += 1
        try:
            # One alone, the last.
            stream = self.llm.generate(prompt, sampling_params, random_uuid())
            (output,) = [output async for output in stream]
        finally:
            self._generating -= 1
        completion = output.outputs[0]
        output.token_versions = self._versions.finish(output.request_id, len(completion.token_ids))
        mark_missing_log_probs(completion)
        return output

    def _prompt(self, tokens: list[int], media: Any) -> TokensPrompt:
        if media and self._mm_pad_token_ids:
            # vLLM expands each placeholder itself; OpenRLHF's tokens are expanded already.
            tokens = dedup_media_tokens(tokens, self._mm_pad_token_ids)
        prompt = TokensPrompt(prompt_token_ids=tokens)
        if media:
            prompt["multi_modal_data"] = media
        if self._keeps_kv:
            # Else a prompt would find what any older version has made of it in the prefix cache.
            prompt["cache_salt"] = str(self._versions.version)
        return prompt

    @property
    def _keeps_kv(self) -> bool:
        return self._settings is not None and self._settings.keep_kv

    async def generate_responses(
        self,
        prompt: str,
        label: str,
        sampling_params: SamplingParams,
        max_length: int,
        hf_tokenizer: Any,
        num_samples: int = 1,
        images: Any = None,
    ) -> list[Any]:
        """Upstream's, for an evaluation.

        Raises:
            TimeoutError: a reward or an environment hangs; see `_SampleEngine.bounded`.
        """
        assert self._settings is not None, "configure comes first"
        requests = [_SampleEngine(self) for _ in range(num_samples)]
        work = [
            request.bounded(
                self.executor.execute(
                    prompt=prompt,
                    label=label,
                    sampling_params=sampling_params.clone(),
                    max_length=max_length,
                    hf_tokenizer=hf_tokenizer,
                    llm_engine=request,
                    images=images,
                ),
                self._settings.reward_timeout,
            )
            for request in requests
        ]
        return await asyncio.gather(*work)

    async def begin_update(self) -> list[tuple[int, float]]:
        """Stand still, with every request kept, until `end_update`. Raises as `is_alive` does.

        Returns:
            For each update before, as far as it was measured: tokens of unfinished responses, and
            the seconds until all of these went on, their KV cache computed again.
        """
        self.is_alive()
        self._paused = True
        if self._recomputing is not None:
            self._recomputing.cancel()  # what is not done by now is not measured
        await self.llm.pause_generation(mode="keep", clear_cache=not self._keeps_kv)
        quiet, before = 0, self._progress()
        while quiet < _QUIET_LOOKS:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._progress()
            quiet = quiet + 1 if now == before and self.llm.engine_core.outputs_queue.empty() else 0
            before = now
        measured, self._recomputed = self._recomputed, []
        return measured

    async def receive_weights(
        self, dtype: torch.dtype, shapes: Sequence[tuple[str, tuple[int, ...]]]
    ) -> None:
        """Have all workers take a bucket; see `WeightReceiver`.

        Raises:
            RefusedWeightsError: a worker has it and cannot load it.
        """
        await self._workers("receive_weights", dtype, shapes)

    async def finish_weights(self) -> None:
        """Have all workers put in place what they kept of it. Raises as `receive_weights`."""
        await self._workers("finish_weights")

    async def _workers(self, method: str, *args: Any) -> None:
        for refusal in await self.llm.collective_rpc(method, args=args):
            if refusal:
                raise RefusedWeightsError(refusal)

    async def end_update(self, version: int) -> None:
        """Go on with the weights of `version`, which have arrived."""
        counts = self._token_counts()
        self._versions.update(version, counts)
        await self.resume_generation()
        self._paused = False
        if not self._keeps_kv and any(counts.values()):
            self._recomputing = asyncio.ensure_future(self._measure(counts))

    async def _measure(self, counts: dict[Hashable, int]) -> None:
        """How long until every unfinished response has a new token, after all of its own."""
        started = time.monotonic()
        waiting = {response: count for response, count in counts.items() if count}
        while waiting:
            await asyncio.sleep(_GATHER_SECONDS)
            now = self._token_counts()
            waiting = {r: count for r, count in waiting.items() if now.get(r) == count}
        self._recomputed.append((sum(counts.values()), time.monotonic() - started))

    async def try_out(self, prompts: Sequence[list[int]]) -> list[Trial]:
        """Sample a few tokens after each prompt, apart from all groups and their accounts.

        With a seed of its own each, so that nobody else's samples change. At temperature 1 and
        without filters, raw and processed log-probs are the same.
        """
        sampling = SamplingParams(
            temperature=1.0,
            seed=0,
            max_tokens=SAMPLED_TOKENS,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return await asyncio.gather(*(self._try(prompt, sampling) for prompt in prompts))

    async def _try(self, prompt: list[int], sampling: SamplingParams) -> Trial:
        inputs = TokensPrompt(prompt_token_ids=prompt)
        async for output in self.llm.generate(inputs, sampling.clone(), random_uuid()):
            completion = output.outputs[0]
        log_probs = zip(completion.token_ids, completion.logprobs, strict=True)
        return Trial(
            [*prompt, *completion.token_ids],
            [candidates[token].logprob for token, candidates in log_probs],
        )

    def _token_counts(self) -> dict[Hashable, int]:
        states = self.llm.output_processor.request_states.values()
        return {state.external_req_id: state.detokenizer.num_output_tokens() for state in states}

    def _progress(self) -> tuple[int, int, int]:
        counts = self._token_counts()
        return self._generating, len(counts), sum(counts.values())


class _Remembering:
    """A tokenizer that knows what it last made of a text: OpenRLHF's executor has the prompt of a
    group tokenised for each of its samples. What it returns is shared, and not to be changed.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._asked: dict[str, Any] | None = None
        self._answer: Any = None

    def __call__(self, **asked: Any) -> Any:
        if asked != self._asked:
            self._asked, self._answer = asked, self._tokenizer(**asked)
        return self._answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


class _SampleEngine:
    """The engine as one sample's executor sees it: the same, and it remembers the versions."""

    def __init__(self, engine: VersionedRollout) -> None:
        self._engine = engine
        self.spans: Spans = ((engine._versions.version, 0),)
        self.request_ids: list[str] = []
        self.on_generated: Any = None
        self.reported = False
        self._turns = 0  # under way on the engine
        self._away_since = time.monotonic()

    async def generate(
        self, prompt_token_ids: Any, sampling_params: Any, multi_modal_data: Any = None
    ) -> Any:
        self._turns += 1
        try:
            output = await self._engine.generate(
                prompt_token_ids, sampling_params, multi_modal_data
            )
        finally:
            self._turns -= 1
            self._away_since = time.monotonic()
        self.spans = join_spans(self.spans, output.token_versions)
        self.request_ids.append(output.request_id)
        if self.on_generated is not None:
            self.reported = True
            self.on_generated(self.spans)
        return output

    async def bounded(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """The result of `work`, which uses this engine.

        Raises:
            TimeoutError: it has been away from the engine for as many seconds at a stretch. Time
                on the engine is for the driver to bound.
        """
        task = asyncio.ensure_future(work)
        try:
            while True:
                away = 0.0 if self._turns else time.monotonic() - self._away_since
                if away >= seconds:
                    raise TimeoutError(f"no word from its reward or environment for {seconds:g} s")
                done, _ = await asyncio.wait({task}, timeout=seconds - away)
                if done:
                    return task.result()
        finally:
            task.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def join_spans(first: Spans, second: Spans) -> Spans:
    """The spans of one turn and of the next, as those of one response."""
    joined = [span for span in first if span[1]]
    for version, tokens in second:
        if joined and joined[-1][0] == version:
            joined[-1] = (version, joined[-1][1] + tokens)
        else:
            joined.append((version, tokens))
    return tuple(joined)


def mark_missing_log_probs(completion: Any) -> None:
    """A sampled token without a log-prob gets NaN: OpenRLHF's executor would write 0, certainty,
    for it, where the loss drops a sample that has one that is not finite."""
    if completion.logprobs is None:
        return
    for token, log_probs in zip(completion.token_ids, completion.logprobs, strict=True):
        if token not in log_probs:
            log_probs[token] = Logprob(logprob=math.nan)


def _reward(experience: Any, executor: Any) -> float | None:
    if experience.rewards is not None:
        return float(experience.rewards[0])
    # A reward model scores later, in the trainer.
    scores_here = bool(getattr(executor, "reward_endpoints", True))
    return None if scores_here else 0.0
