"""Multiple choice: the letter in the last box, nothing else.

``--reward.remote_url reward/examples/multiple_choice.py`` with labels "A", "B", ...
"""

import re

from vespo_openrlhf.reward import make_reward_func
from vespo_openrlhf.reward.reading.extract import extract

_LETTER = re.compile(r"(?:\\text(?:bf)?\s*\{)?\s*\(?\s*([A-Z])\s*\)?\s*[.:]?\s*\}?")


def score(response: str, label: str, prompt: str) -> dict[str, float]:
    """1 for the label's letter; a listing of letters is no answer."""
    answers = extract(response, prompt=prompt).answers
    letter = _LETTER.fullmatch(answers[0].strip()) if len(answers) == 1 else None
    right = letter is not None and letter.group(1) == label.strip().strip("()").upper()
    return {"score": float(right), "no_letter": float(letter is None)}


reward_func = make_reward_func(score, timeout_s=5.0)
