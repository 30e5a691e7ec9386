"""A teacher: where its log-probs come from, and whose samples they are of."""

from __future__ import annotations

from vespo_openrlhf import config
from vespo_openrlhf.bridge.loss import distillation, uses_our_loss
from vespo_openrlhf.bridge.roles import Flags, teacher_model
from vespo_openrlhf.losses.distillation import RECORDED, DistillOptions
from vespo_openrlhf.recorded.schema import tokenizer_digest

#: Losses of the form -phi A log pi, with one phi for a sequence.
WEIGHTED_LOSSES = ("vespo", "reinforce", "topr")


def check_distillation(flags: Flags) -> None:
    """There is one teacher, and nothing else in its place."""
    options = distillation(flags)
    if options is None:
        asked = vars(config.read(DistillOptions, flags))
        given = [name for name, value in asked.items() if value != getattr(DistillOptions, name)]
        if given:
            raise ValueError(
                f"--distill.{given[0]} has no effect without --distill.teacher: name the teacher, "
                "or leave the flag out"
            )
        return
    teacher = f"--distill.teacher {options.teacher}"
    if not uses_our_loss(flags):
        raise ValueError(
            f"{teacher}: OpenRLHF's own loss, which --vespo.anchor old asks for, hears no teacher: "
            "leave the anchor out"
        )
    if options.teacher == RECORDED:
        if not flags["offline.data"] or flags["offline.behaviour"] != "recorded":
            raise ValueError(
                f"{teacher}: the policy that sampled recorded data is the teacher; set "
                "--offline.data to samples with its log-probs, or name a model"
            )
    elif flags["algo.kl.init_coef"] > 0:
        raise ValueError(
            f"{teacher}: the teacher stands in the reference model's place, and "
            f"--algo.kl.init_coef {flags['algo.kl.init_coef']:g} asks for that: set it to 0"
        )
    if options.estimator == "full":
        _check_full(flags, options, teacher)
    if options.direction == "forward" and options.teacher != RECORDED:
        raise ValueError(
            f"{teacher} --distill.direction forward: that is for samples of the teacher, and asks "
            "no model: set --distill.teacher recorded and --offline.data to what the teacher has "
            "sampled, or leave the direction out"
        )
    if options.coef == 1 and flags["algo.dynamic_filtering_enable"]:
        raise ValueError(
            f"{teacher} --distill.coef 1 with --algo.dynamic_filtering_enable: no reward is "
            "trained on, and groups would be left out by it; leave the filter out"
        )


def _check_full(flags: Flags, options: DistillOptions, teacher: str) -> None:
    """The whole distribution is there, and a weight for it."""
    full = f"{teacher} --distill.estimator full"
    if options.teacher == RECORDED:
        raise ValueError(
            f"{full}: a recording has the log-probs of the sampled tokens alone; name the model of "
            "the teacher, or leave the estimator out"
        )
    if options.direction == "forward":
        raise ValueError(
            f"{full} is the reverse KL: leave --distill.direction forward out, or the estimator"
        )
    if not config.chunked_log_probs(flags):
        raise ValueError(
            f"{full} is computed by the chunked head: leave out --actor.log_prob_head full, ring "
            "attention, tensor parallelism and deepcompile, or the estimator"
        )
    if flags["agent.weight"] == "turn":
        raise ValueError(
            f"{full}: KLs are weighed by episodes; leave --agent.weight turn out, or the estimator"
        )
    loss = flags["actor.policy_loss_type"]
    if loss not in WEIGHTED_LOSSES and ":" not in loss:
        raise ValueError(
            f"{full} is weighed by phi(W), and --actor.policy_loss_type {loss} has none: take one "
            f"of {', '.join(WEIGHTED_LOSSES)}"
        )


def check_teacher(flags: Flags) -> None:
    """The teacher reads the student's tokens."""
    teacher, student = teacher_model(flags), flags["actor.model_name_or_path"]
    if teacher is None:
        return
    from transformers import AutoTokenizer

    digests = []
    for flag, model in (("distill.teacher", teacher), ("actor.model_name_or_path", student)):
        try:
            digests.append(tokenizer_digest(AutoTokenizer.from_pretrained(model)))
        except (OSError, ValueError) as error:
            raise ValueError(f"--{flag} {model} has no tokenizer that loads: {error}") from error
    if digests[0] != digests[1]:
        raise ValueError(
            f"--distill.teacher {teacher} has another tokenizer than the student, {student}: its "
            "log-probs would be of other tokens; take a teacher of the student's family"
        )
