"""The reward: a verifier for mathematical answers, and what ``--reward.remote_url`` loads.

``extract`` finds the answer of a response, ``normalize`` and ``quantity`` read it, ``structure``
and ``judge`` compare it with the gold, ``symbolic`` does the algebra in worker processes that
``client`` and ``server`` keep for the whole node. ``math_reward.py`` is the file for OpenRLHF,
``custom`` makes one from a function of your own, ``shaping`` adds to the reward what is not
correctness. Importing this package imports neither sympy nor torch.
"""

from vespo_openrlhf.reward.api import label_problem, label_problems, probe, verify
from vespo_openrlhf.reward.custom import make_reward_func
from vespo_openrlhf.reward.verdict import REASONS, Verdict, note_unjudged

__all__ = [
    "REASONS",
    "Verdict",
    "label_problem",
    "label_problems",
    "make_reward_func",
    "note_unjudged",
    "probe",
    "verify",
]
