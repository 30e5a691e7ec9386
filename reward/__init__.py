"""The reward: a verifier for mathematical answers, and what ``--reward.remote_url`` loads.

- ``reading`` finds the answer of a response and reads it;
- ``comparing`` compares it with the gold;
- ``pool`` holds the processes, one pool for the whole node, in which what may take long is done;
- ``tools`` is what `vespo reward` offers besides: audits, a benchmark, an HTTP server;
- what training calls lies beside this file. ``math_reward.py`` is the file for OpenRLHF, ``custom``
  makes one from a function of your own, ``shaping`` adds to the reward what is not correctness.

Importing this package imports neither sympy nor torch.
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
