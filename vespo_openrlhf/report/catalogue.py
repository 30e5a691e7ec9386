"""The metrics a run report draws: what they are called, what they mean, how they are shown."""

from __future__ import annotations

from dataclasses import dataclass

from .derive import ENVIRONMENT_SHARE, TOKENS_PER_SECOND


@dataclass(frozen=True)
class Chart:
    """One metric over rollout batches or updates, a line per run.

    Attributes:
        title: the quantity and its unit.
        names: the metric's names; a run's first is drawn.
        caption: what it is, and what to look for.
        share: whether it is a share, drawn in percent from 0.
        whole: whether the axis of a share goes up to 100 % whatever the values.
        from_zero: whether the axis starts at 0.
        hint: what to do to have it logged.
    """

    title: str
    names: tuple[str, ...]
    caption: str
    share: bool = False
    whole: bool = False
    from_zero: bool = False
    hint: str = ""


LEARNING = (
    Chart(
        "Reward",
        ("rollout/reward_mean",),
        "Mean over the responses of the batch, with whatever shaping the reward has.",
    ),
    Chart(
        "Training accuracy",
        ("correct", "accuracy", "right_last"),
        "Share of the batch's responses that the verifier finds right; shaping does not enter.",
        share=True,
        whole=True,
        hint="a reward that returns `correct`, as `reward/math_reward.py` does, logs it",
    ),
    Chart(
        "Response length (tokens)",
        ("rollout/response_length_mean",),
        "Mean over the responses of the batch.",
        from_zero=True,
    ),
    Chart(
        "Responses cut off",
        ("rollout/truncated_rate",),
        "Share that ran into the longest length allowed.",
        share=True,
    ),
    Chart(
        "Entropy (nats per token)",
        ("entropy_loss",),
        "Of the policy being trained, mean over tokens. A fast fall to 0 ends exploration.",
        from_zero=True,
        hint="`--actor.entropy_coef 0` logs it without changing the loss",
    ),
    Chart(
        "Reward spread within groups",
        ("group_reward_std",),
        "Mean standard deviation among the responses to one prompt; where it is 0, nothing is "
        "learned from.",
        from_zero=True,
    ),
    Chart("Policy loss", ("policy_loss",), "As the optimizer saw it."),
    Chart(
        "Gradient norm",
        ("grad_norm", "grad_norm_mean", "actor_grad_norm"),
        "Before clipping.",
        from_zero=True,
    ),
    Chart(
        "KL to the rollout policy (nats per token)",
        ("rollout_kl",),
        "KL(μ‖π) of what sampled, μ, to the policy being trained: mean of log μ - log π over the "
        "sampled tokens. Lag, engine mismatch and the batch's own updates together.",
    ),
    Chart(
        "Log-perplexity of the rollout (nats per token)",
        ("rollout_log_ppl",),
        "Mean of -log μ over a response's tokens, then over responses: how sure the engine was of "
        "what it sampled.",
        from_zero=True,
    ),
)

_TITLED = {chart.title: chart for chart in LEARNING}
#: With two benchmarks the panel of training dynamics, the paper's 2 x 4.
DYNAMICS = tuple(
    _TITLED[title]
    for title in (
        "Reward",
        "Response length (tokens)",
        "Entropy (nats per token)",
        "KL to the rollout policy (nats per token)",
        "Log-perplexity of the rollout (nats per token)",
        "Gradient norm",
    )
)
#: In the place of benchmarks that no run has.
DYNAMICS_ELSE = _TITLED["Training accuracy"], _TITLED["Policy loss"]

OFF_POLICY = (
    Chart(
        "Effective sample size",
        ("ess_ratio",),
        "(ΣW)² / ΣW² over the number of responses: how many of them plain importance sampling "
        "would leave to speak. 100 % is on-policy.",
        share=True,
        whole=True,
    ),
    Chart(
        "Effective sample size of φ|A|",
        ("phi_ess_ratio",),
        "The same of the weights that the gradient has, over the responses with A ≠ 0. On-policy "
        "it is that of |A|.",
        share=True,
        whole=True,
    ),
    Chart(
        "Balance of φ|A| between signs",
        ("phi_balance",),
        "Σ φA where A > 0 over Σ φ|A| where A < 0; 1 on-policy.",
        from_zero=True,
    ),
    Chart(
        "log of the mean W (nats)",
        ("log_mean_w",),
        "0, up to chance, where the engine reports the probabilities it samples from; below 0 "
        "also where the large W that the mean rests on were not sampled.",
    ),
    Chart(
        "log(1 + χ²) of W (nats)",
        ("log1p_chi_square",),
        "Log of the mean of W²: how far the weights spread.",
    ),
    Chart(
        "Tokens clipped",
        ("clip_ratio",),
        "Share of the action tokens, or of responses, whose gradient or weight the loss cuts.",
        share=True,
    ),
    Chart(
        "|log W| before the batch's own updates (nats)",
        ("log_w_abs_mean_before",),
        "Mean in the batch's first update: lag, and what engine and trainer disagree on.",
        from_zero=True,
    ),
    Chart(
        "|log W| over all updates (nats)",
        ("log_w_abs_mean",),
        "Mean over the batch's responses, each in its own update.",
        from_zero=True,
    ),
    Chart(
        "φ where the advantage is positive",
        ("phi_mean_positive",),
        "Mean weight that the loss gives to a response to be reinforced.",
        from_zero=True,
    ),
    Chart(
        "φ where the advantage is negative",
        ("phi_mean_negative",),
        "Mean weight that the loss gives to a response to be discouraged.",
        from_zero=True,
    ),
    Chart(
        "Responses with φ < 0.01",
        ("phi_small_share",),
        "Share that has practically no say in the gradient.",
        share=True,
    ),
    Chart(
        "Experts that the trainer would choose otherwise",
        ("experts_differ",),
        "Share of the layers of action tokens whose router would have taken other experts than the "
        "engine's, which are replayed. At lag 0 it is rounding alone.",
        share=True,
        hint="`--moe.routing_replay engine` logs it",
    ),
)

LAG = (
    Chart(
        "Greatest lag (updates)",
        ("lag/max",),
        "Of the oldest token that was trained on. The bound holds if it is never crossed.",
        from_zero=True,
    ),
    Chart("Mean lag (updates)", ("lag/mean",), "Over the tokens of the batch.", from_zero=True),
    Chart(
        "Working lag (updates)",
        ("lag/working",),
        "What admission goes by; it moves where a target effective sample size steers it.",
        from_zero=True,
    ),
)

#: Title, metric and caption of what is drawn against the age of samples.
BY_LAG = (
    (
        "Effective sample size by lag",
        "ess_ratio",
        "Share of the responses of an age that the importance weights leave to speak.",
    ),
    (
        "|log W| by lag (nats)",
        "log_w_abs_mean",
        "Mean over the responses of an age; at lag 0 it is the mismatch of engine and trainer.",
    ),
    ("φ by lag", "phi_mean", "Mean weight that the loss gives to the responses of an age."),
    (
        "Experts chosen otherwise by lag",
        "experts_differ",
        "Share of layers of the action tokens of an age whose router would take other experts now.",
    ),
)

#: Drawn where a run has them: one whose agents play several turns.
EPISODES = (
    Chart(
        "Turns per episode",
        ("turns",),
        "Mean over the episodes of the batch; W has the tokens of all of them.",
        from_zero=True,
    ),
    Chart(
        "Right at the first try",
        ("right_first",),
        "Share of the batch's episodes, of agents that let the policy try again.",
        share=True,
        whole=True,
    ),
    Chart(
        "Time in the environment",
        (ENVIRONMENT_SHARE,),
        "Share of the time from an episode's first turn to its last in which it was away from its "
        "engine. Its slot is free meanwhile, but its tokens grow older.",
        share=True,
        whole=True,
    ),
    Chart(
        "Samples away",
        ("scheduler/away_samples",),
        "Whose environment was at work when the batch was done: on no slot of an engine.",
        from_zero=True,
    ),
    Chart(
        "Tool errors",
        ("tool_errors",),
        "Mean number in an episode: calls of a tool that failed, or that it refused.",
        from_zero=True,
    ),
    Chart(
        "Actions that were none",
        ("invalid_actions",),
        "Mean number in an episode that the environment did not understand.",
        from_zero=True,
    ),
)
#: With a reason behind its title and its name.
LOST = Chart(
    "Samples given up",
    ("scheduler/lost/",),
    "Since the batch before; their groups went on without them.",
    from_zero=True,
)

CLUSTER = (
    Chart(
        "Responses trained per second",
        ("scheduler/samples_per_second",),
        "Over the whole time from one batch to the next.",
        from_zero=True,
    ),
    Chart(
        "Response tokens trained per second",
        (TOKENS_PER_SECOND,),
        "Responses per second times their mean length.",
        from_zero=True,
    ),
    Chart(
        "Trainer idle",
        ("scheduler/trainer_idle",),
        "Share of the time in which the trainer neither trains nor publishes weights.",
        share=True,
        whole=True,
    ),
    Chart(
        "Engines idle",
        ("scheduler/engine_idle",),
        "Share of the engines' time with nothing to generate.",
        share=True,
        whole=True,
    ),
    Chart(
        "Engine slots used",
        ("scheduler/engine_occupancy",),
        "Sequences in flight as a share of what the engines can hold.",
        share=True,
        whole=True,
    ),
    Chart(
        "Groups waiting to be trained",
        ("scheduler/queued_groups",),
        "Complete when the batch was done.",
        from_zero=True,
    ),
    Chart(
        "Groups dropped as too old",
        ("scheduler/dropped",),
        "Since the batch before.",
        from_zero=True,
    ),
    Chart(
        "Waited for an older group (seconds)",
        ("scheduler/waited_seconds",),
        "Time in which the trainer had a whole batch and waited for one that would become too old.",
        from_zero=True,
    ),
    Chart(
        "Experts to replay (bytes)",
        ("routing/bytes",),
        "Of all tokens of the batch, on their way from the engines to the trainer.",
        from_zero=True,
        hint="`--moe.routing_replay engine` logs it",
    ),
)
