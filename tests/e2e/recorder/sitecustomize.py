"""Writes down what the engine core and the trainer themselves do, apart from our own accounts.

Every Python process of a run finds this file through PYTHONPATH and loads it first. With
VESPO_TEST_RECORD set to a folder, vLLM's engine core writes one line per step (tokens sampled, by
request) and one per weight update; OpenRLHF's trainer one per micro-batch (the responses it
trains), per optimizer step and per broadcast. One file per process, in the order of events.
"""

import functools
import json
import os

FOLDER = os.environ.get("VESPO_TEST_RECORD")


def write(kind, **event):
    with open(f"{FOLDER}/{kind}-{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def record_sampled_tokens(module):
    upstream = module.Scheduler.update_from_output

    def update_from_output(self, scheduler_output, model_runner_output):
        ids, sampled = model_runner_output.req_ids, model_runner_output.sampled_token_ids
        tokens = {i: [int(t) for t in new] for i, new in zip(ids, sampled, strict=True) if len(new)}
        write("engine", tokens=tokens)
        return upstream(self, scheduler_output, model_runner_output)

    module.Scheduler.update_from_output = update_from_output


def record_weights_received(module):
    upstream = module.EngineCore.collective_rpc

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        result = upstream(self, method, timeout, args, kwargs)
        if method == "receive_weights":  # a model this small goes in one bucket
            write("engine", weights=True)
        return result

    module.EngineCore.collective_rpc = collective_rpc


def record_training(module):
    trainer = module.ActorPPOTrainer
    train = trainer.training_step

    @functools.wraps(train)  # the seams are checked in the source that this leads to
    def training_step(self, experience, *args, **kwargs):
        rows = zip(experience.sequences.tolist(), experience.action_mask.tolist(), strict=True)
        responses = [
            [token for token, is_action in zip(row[1:], mask, strict=True) if is_action]
            for row, mask in rows
        ]
        write("trainer", responses=responses)
        return train(self, experience, *args, **kwargs)

    trainer.training_step = training_step


def record_broadcasts(module):
    upstream = module.WeightPublisher.publish

    def publish(self, *args):
        write("trainer", broadcast=True)
        return upstream(self, *args)

    module.WeightPublisher.publish = publish


def record_optimizer_steps(module):
    upstream = module.DeepSpeedEngine._take_model_step

    def take_model_step(self, *args, **kwargs):
        write("trainer", step=True)
        return upstream(self, *args, **kwargs)

    module.DeepSpeedEngine._take_model_step = take_model_step


if FOLDER:
    import wrapt

    for name, hook in {
        "vllm.v1.core.sched.scheduler": record_sampled_tokens,
        "vllm.v1.engine.core": record_weights_received,
        "openrlhf.trainer.ray.ppo_actor": record_training,
        "vespo_openrlhf.bridge.weights.sender": record_broadcasts,
        "deepspeed.runtime.engine": record_optimizer_steps,
    }.items():
        wrapt.register_post_import_hook(hook, name)
