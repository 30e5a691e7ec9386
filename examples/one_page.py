"""Asynchronous off-policy RL on one page: sampling, lag, VESPO and the update, in plain torch.

A tiny model learns to carry in sums of three digits. It is there twice: the policy, which trains,
and the engine's copy, which samples with the weights of the last sync. The scheduler says what is
sampled, what trains next and when the engine gets weights, and keeps every token within the lag
bound. What lies between the two, the loss makes up for by W, the importance weight.
"""

import copy
import time
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from vespo_openrlhf.embedded.arithmetic import boxed_answer, split_problems
from vespo_openrlhf.embedded.build import build
from vespo_openrlhf.embedded.options import MAX_RESPONSE_TOKENS, BuildOptions
from vespo_openrlhf.embedded.tokenizer import chat_text
from vespo_openrlhf.losses import LossInputs, get_policy_loss
from vespo_openrlhf.losses.advantages import group_advantages
from vespo_openrlhf.scheduling import PromptLedger, Scheduler, SchedulerConfig

PROMPTS, SAMPLES, UPDATES = 32, 8, 4  # prompts of a batch, samples of a prompt, updates of a batch


def token_log_probs(model, ids, start):
    """(B, A) log-probs of the tokens of ids (B, T) from `start` on."""
    logits = model(ids[:, :-1]).logits[:, start - 1 :]
    return torch.log_softmax(logits, -1).gather(-1, ids[:, start:, None])[..., 0]


class Engine:
    """Samples, with its own copy of the policy."""

    def __init__(self, policy, tokenizer, problems):
        self.model, self.tokenizer, self.problems = copy.deepcopy(policy), tokenizer, problems
        self.version, self.requests = 0, []

    def generate(self, request):
        self.requests.append(request)

    @torch.no_grad()
    def work(self, scheduler):
        requests, self.requests = self.requests, []
        rows = [(request, sample) for request in requests for sample in range(request.samples)]
        problems = [self.problems[request.prompt.row] for request, _ in rows]
        texts = [chat_text(self.tokenizer, problem.prompt) for problem in problems]
        prompts = self.tokenizer(texts, return_tensors="pt")["input_ids"]
        start = prompts.shape[1]  # the same for all: three digits and three
        ids = self.model.generate(prompts, top_k=0, max_new_tokens=MAX_RESPONSE_TOKENS)
        log_probs = token_log_probs(self.model, ids, start)
        ends = ids[:, start:] == self.tokenizer.eos_token_id
        mask = ends.cumsum(-1) - ends.long() == 0  # up to the first end, which is an action, too
        for row, (request, sample) in enumerate(rows):
            payload = ids[row], mask[row], log_probs[row], start
            spans = [(self.version, int(mask[row].sum()))]  # which weights sampled its tokens
            scheduler.on_generated(request.ticket, sample, spans, payload)
            right = boxed_answer(self.tokenizer.decode(ids[row])) == problems[row].label
            scheduler.on_scored(request.ticket, sample, float(right))


class Trainer:
    """Trains the policy, and gives the engine its weights."""

    def __init__(self, policy, engine):
        self.policy, self.engine, self.todo = policy, engine, []
        self.loss = get_policy_loss("vespo")
        self.optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)

    def train(self, step):
        self.todo.append(lambda scheduler: scheduler.on_trained(self.update(step)))

    def publish(self, version, engines):
        self.engine.model.load_state_dict(self.policy.state_dict())
        self.engine.version = version
        self.todo.append(lambda scheduler: scheduler.on_engine_updated("engine", version))

    def update(self, step):
        for groups in step.batch.mini_batches[step.first : step.last]:
            rewards = torch.tensor([group.rewards for group in groups])
            ids, mask, mu, (start, *_) = zip(*(s for g in groups for s in g.payloads), strict=True)
            inputs = LossInputs(
                log_probs=token_log_probs(self.policy, pad_sequence(ids, True), start),
                rollout_log_probs=pad_sequence(mu, True),
                advantages=group_advantages(rewards, rewards.isfinite(), "group_norm").flatten(),
                action_mask=pad_sequence(mask, True),
            )
            loss, _metrics = self.loss(inputs)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        right = sum(sum(group.rewards) for group in step.batch.groups) / PROMPTS / SAMPLES
        print(f"batch {step.batch.index:2}: {right:4.0%} right, lag up to {step.batch.max_lag}")


def main(batches=12, folder=Path("runs/embedded"), settings=None):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    build(folder, settings or BuildOptions())  # unless it is there
    policy = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    (problems,) = split_problems(0, [PROMPTS * batches])
    engine = Engine(policy, tokenizer, problems)
    trainer = Trainer(policy, engine)
    config = SchedulerConfig(PROMPTS, SAMPLES, UPDATES, in_flight_per_engine=PROMPTS * SAMPLES)
    ledger = PromptLedger([problem.prompt for problem in problems])
    scheduler = Scheduler(config, ledger, trainer, clock=time.monotonic)
    scheduler.start({"engine": engine})
    while not scheduler.finished:  # in turn here, side by side in a large run
        if engine.requests:
            engine.work(scheduler)
        while trainer.todo:
            trainer.todo.pop()(scheduler)


if __name__ == "__main__":
    main()
