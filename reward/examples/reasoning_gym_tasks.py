"""Tasks of reasoning-gym (``pip install reasoning-gym``), scored exactly.

reasoning-gym's own ``score_answer`` gives partial credit where the answer merely contains the
solution, which a policy learns to exploit; here the boxed answer must be the solution, so take
tasks that have one solution only.

``python reward/examples/reasoning_gym_tasks.py leg_counting 1000 > data.jsonl`` writes prompts;
``--reward.remote_url reward/examples/reasoning_gym_tasks.py`` scores them.
"""

import json
import sys
from collections.abc import Iterator

from vespo_openrlhf.reward import make_reward_func
from vespo_openrlhf.reward.reading.extract import extract

INSTRUCTION = "\n\nPut your final answer in \\boxed{}."


def rows(task: str, size: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Prompts and labels of one task."""
    import reasoning_gym

    for entry in reasoning_gym.create_dataset(task, size=size, seed=seed):
        label = {"answer": str(entry["answer"]), "source": f"reasoning_gym/{task}"}
        yield {"prompt": entry["question"] + INSTRUCTION, "label": json.dumps(label)}


def _plain(text: str) -> str:
    return " ".join(text.replace("\\text", "").replace("\\_", "_").strip("{}$ \n").split())


def score(response: str, label: str, prompt: str) -> dict[str, float]:
    """1 where the one boxed answer is the solution, up to white space."""
    solution = json.loads(label)["answer"]
    answers = extract(response, prompt=prompt).answers
    right = len(answers) == 1 and bool(solution) and _plain(answers[0]) == _plain(solution)
    return {"score": float(right), "no_answer": float(not answers)}


reward_func = make_reward_func(score, timeout_s=5.0)

if __name__ == "__main__":
    for row in rows(sys.argv[1], int(sys.argv[2])):
        print(json.dumps(row))
