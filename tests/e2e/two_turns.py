"""An agent in OpenRLHF's interface that does what is hard to keep account of.

Each sample has two turns, with an environment between them that takes its time. All turns go
through the engine that the first sample was given, the second ones from the thread of a server of
the executor's own. Where the variable is set, the first sample of a few prompts does not end well,
each in its own way.
"""

import asyncio
import contextvars
import os
import random
import threading

from openrlhf.utils.agent import AgentExecutorBase

TURN_TOKENS = 12
FEEDBACK = "<|im_end|>\n<|im_start|>user\nAgain.<|im_end|>\n<|im_start|>assistant\n"
# Of which prompts, in the order in which they come.
HANGS, MUTE, ENDLESS, FAILS = 3, 5, 20, 37
UNANSWERED = {"unanswered": True}


def leave_unanswered(llm):
    """Requests that are marked are lost in vLLM: no token comes of them, and no word."""
    answer = llm.generate

    async def generate(prompt, sampling_params, request_id):
        while sampling_params.extra_args == UNANSWERED:
            await asyncio.sleep(60)
        async for output in answer(prompt, sampling_params, request_id):
            yield output

    llm.generate = generate


class AgentExecutor(AgentExecutorBase):
    def __init__(self):
        self.engine = None
        self.samples = {}  # by prompt
        self.server = asyncio.new_event_loop()
        threading.Thread(target=self.server.run_forever, daemon=True).start()

    async def execute(
        self, prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine, images=None
    ):
        if self.engine is None:
            self.engine = llm_engine
            leave_unanswered(llm_engine.llm)
        self.samples[prompt] = self.samples.get(prompt, 0) + 1
        hard = "VESPO_TEST_HARD_AGENT" in os.environ and self.samples[prompt] == 1
        mine = list(self.samples).index(prompt) if hard else None
        tokens = hf_tokenizer(text=prompt, add_special_tokens=False)["input_ids"]
        log_probs, ranges = [0.0] * len(tokens), []
        turns = 99 if mine == ENDLESS else 2
        for turn in range(turns):
            params = sampling_params.clone()
            params.max_tokens = TURN_TOKENS if mine != ENDLESS else 1
            params.extra_args = UNANSWERED if mine == MUTE and turn == 0 else None
            asked = self.engine.generate(tokens, params)
            if turn == 1:
                # As a request over HTTP would come: of nobody's task.
                submit = contextvars.Context().run
                served = submit(asyncio.run_coroutine_threadsafe, asked, self.server)
                asked = asyncio.wrap_future(served)
            (completion,) = (await asked).outputs
            sampled = list(completion.token_ids)
            ranges.append((len(tokens), len(tokens) + len(sampled)))
            pairs = zip(sampled, completion.logprobs, strict=True)
            log_probs += [by_token[token].logprob for token, by_token in pairs]
            tokens += sampled
            if mine == HANGS:
                await asyncio.sleep(600)
            if mine == FAILS:
                raise RuntimeError("the environment is broken")
            await asyncio.sleep(random.uniform(0, 0.3))
            if turn + 1 < turns:
                feedback = hf_tokenizer(text=FEEDBACK, add_special_tokens=False)["input_ids"]
                tokens += feedback
                log_probs += [0.0] * len(feedback)
        text = hf_tokenizer.decode(tokens[ranges[0][0] :])
        digits = [int(c) for c in text if c.isdigit()]
        reward = sum(digit % 2 == 0 for digit in digits) / max(len(digits), 1)
        return {
            "prompt": prompt,
            "label": label,
            "images": images,
            "observation_tokens": tokens,
            "action_ranges": ranges,
            "rollout_log_probs": log_probs,
            "reward": reward,
            "scores": reward,
            "truncated": False,
            "extra_logs": {"digits": len(digits)},
        }
