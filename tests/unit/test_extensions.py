"""A newcomer's loss, reward, scheduling policy, benchmark or format of rollouts is one file, and no
edit elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vespo_openrlhf.check.__main__ import main as check
from vespo_openrlhf.data.checks import check_prompts, load_reward
from vespo_openrlhf.embedded.arithmetic import split_problems, write_jsonl
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.eval.__main__ import main as evaluate
from vespo_openrlhf.losses import LossInputs, get_policy_loss
from vespo_openrlhf.recorded.__main__ import main as recorded
from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.importing import formats
from vespo_openrlhf.recorded.reading import Recording
from vespo_openrlhf.simulator.command import main as simulate

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "tests" / "data" / "configs" / "Qwen3-0.6B.json"

LOSS = '''
"""A share of REINFORCE, as a loss of its own."""
{imports}

def share_loss(inputs, *, share=0.5):
    weight = torch.full_like(inputs.num_tokens, share, dtype=torch.float64)
    return weighted_log_prob_loss(inputs, weight, "token-mean"), {{"phi": weight}}
'''
#: Of a user's file, and of one in the folder of the losses.
ABSOLUTE = "import torch\nfrom vespo_openrlhf.losses.weighted import weighted_log_prob_loss\n"
RELATIVE = "import torch\nfrom .weighted import weighted_log_prob_loss\n"

REWARD = """
from vespo_openrlhf.reward import make_reward_func

def score(response, label, prompt):
    return {"score": float(label in response), "length": len(response)}

def label_problems(labels):
    return [None if label.isdigit() else "is no number" for label in labels]

reward_func = make_reward_func(score, isolated=False)
"""


POLICY = '''
"""The newest groups first, and any number of them under way."""
from itertools import islice

from vespo_openrlhf.scheduling.policy import Choice, Policy, Send


class Newest(Policy):
    def send(self, view):
        return Send(view.least_loaded)

    def choose(self, view):
        newest = sorted(view.complete, key=lambda group: -group.oldest_version)
        return Choice(list(islice(newest, view.batch_size)))
'''

FORMAT = '''
"""Mine: lines of prompt, response and reward, between bars."""
from pathlib import Path

from vespo_openrlhf.recorded.importing.imported import Imported, Importer, Unread


class Bars(Importer):
    def rows(self):
        for source in self.sources:
            for number, line in enumerate(Path(source).read_text().splitlines(), 1):
                place = f"{source}, line {number}"
                if line.count("|") != 2:
                    yield Unread("no_response", place)
                    continue
                prompt, response, reward = line.split("|")
                yield Imported(prompt, response, place, reward=float(reward))
'''


@pytest.fixture
def recipe(tmp_path: Path) -> list[str]:
    """Flags of a run that would start on two GPUs, but for its loss and reward."""
    model, data = tmp_path / "model", tmp_path / "train.jsonl"
    build_tokenizer().save_pretrained(model)
    shutil.copy(CONFIG, model / "config.json")
    write_jsonl(data, split_problems(0, [64])[0])
    flags = (
        f"--actor.model_name_or_path {model} --data.prompt_dataset {data} --data.input_key prompt "
        "--data.label_key label --data.apply_chat_template --data.max_len 2048 "
        "--rollout.max_new_tokens 1024 --algo.advantage.estimator group_norm --algo.kl.init_coef 0 "
        "--rollout.batch_size 16 --rollout.n_samples_per_prompt 4 --train.batch_size 32 "
        "--actor.num_gpus_per_node 1 --vllm.num_engines 1 --train.async_enable "
        f"--vllm.gpu_memory_utilization 0.9 --run.dir {tmp_path / 'run'}"
    )
    return flags.split()


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    path = tmp_path / "contains.py"
    path.write_text(REWARD)
    return path


def inputs() -> LossInputs:
    log_probs = torch.zeros(2, 3)
    return LossInputs(
        log_probs=log_probs.requires_grad_(),
        advantages=torch.ones(2),
        action_mask=torch.ones(2, 3),
        rollout_log_probs=torch.zeros(2, 3),
    )


def test_a_loss_of_ones_own_and_a_reward(
    recipe: list[str], reward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(LOSS.format(imports=ABSOLUTE))
    name = f"{path}:share_loss"
    policy_loss = get_policy_loss(name, share=0.25)
    batch = inputs()
    value, metrics = policy_loss(batch)
    value.backward()
    assert torch.equal(batch.log_probs.grad, torch.full((2, 3), -0.25 / 6))
    assert set(metrics) == {"advantage", "num_tokens", "log_w", "phi"}

    names = load_reward(str(reward))
    scored = names["reward_func"](["q 12", "q 5"], ["q", "q"], ["12", "7"])
    assert scored["rewards"].tolist() == [1.0, 0.0]

    recipe += ["--reward.remote_url", str(reward), "--actor.policy_loss_type", name]
    assert check([*recipe, "--vespo.loss_options", "share=0.25"]) == 0, capsys.readouterr().out
    assert "ready: nothing has to be changed" in capsys.readouterr().out
    assert check([*recipe, "--vespo.loss_options", "sahre=0.25"]) == 1
    assert "has no option 'sahre' (did you mean share?)" in capsys.readouterr().out

    data = tmp_path / "four.jsonl"
    data.write_text('{"prompt": "2+2=", "label": "four"}\n')
    with pytest.raises(ValueError, match="is no number"):  # as training says before it starts
        check_prompts(
            str(data),
            split="train",
            input_key="prompt",
            label_key="label",
            label_problems=names["label_problems"],
        )


def test_a_loss_in_the_folder_of_the_losses(
    recipe: list[str], reward: Path, tmp_path: Path
) -> None:
    """In a copy of the package, by one more file."""
    package = tmp_path / "copy" / "vespo_openrlhf"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "vespo_openrlhf", package, ignore=ignored)
    (package / "losses" / "share.py").write_text(LOSS.format(imports=RELATIVE))
    recipe += ["--reward.remote_url", str(reward), "--actor.policy_loss_type", "share"]
    code = (
        "import sys\n"
        "from vespo_openrlhf.check.__main__ import main\n"
        "from vespo_openrlhf.losses import POLICY_LOSS_NAMES\n"
        "assert 'share' in POLICY_LOSS_NAMES\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *recipe, "--vespo.loss_options", "share=0.25"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ready: nothing has to be changed" in done.stdout


def test_a_scheduling_policy(
    recipe: list[str], reward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tried in the simulator first, then named in a recipe."""
    path = tmp_path / "newest.py"
    path.write_text(POLICY)
    name = f"{path}:Newest"
    size = "--engines 1 --prompts 8 --samples 2 --updates 2 --length-median 50"
    assert simulate([*size.split(), "--policy", name, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["lost"], figures["duplicated"]) == (0, 0)

    recipe += ["--reward.remote_url", str(reward), "--lag.policy"]
    assert check([*recipe, name]) == 0
    assert "no bound on the lag" in " ".join(capsys.readouterr().out.split())
    assert check([*recipe, f"{path}:Newst"]) == 1
    assert "there is no 'Newst' in it" in capsys.readouterr().out


def test_a_format_of_rollouts(
    recipe: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One more file in the folder of the formats."""
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "bars.py").write_text(FORMAT)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "formats")])
    rows = [f"2+{i}=|{answer}|{answer == 2 + i:d}" for i in (1, 2) for answer in (3, 4)]
    (tmp_path / "mine.bars").write_text("\n".join([*rows, "torn"]))
    model, out = recipe[1], tmp_path / "recording"
    asked = f"--from bars {tmp_path / 'mine.bars'} --model {model} --out {out}"
    assert recorded(["import", *asked.split()]) == 0, capsys.readouterr().err
    assert recorded(["show", str(out), "--model", model, "--samples", "2"]) == 0
    groups = list(Recording([out], 2, Limits(10**6, 64, needs_log_probs=False)))
    rewards = [[sample.reward for sample in group if sample] for group in groups]
    assert rewards == [[1.0, 0.0], [0.0, 1.0]]


def test_a_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {
        "sums.jsonl": [
            {"id": "a", "task": "2+2=", "sum": "4"},
            {"id": "b", "task": "3+4=", "sum": "7"},
        ],
        "answers.jsonl": [
            {"id": "a", "response": "\\boxed{4}"},
            {"id": "b", "response": "\\boxed{8}"},
        ],
    }
    for name, lines in rows.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields = "name: sums\npath: sums.jsonl\nproblem: task\ngold: sum\nrepeats: 1\n"
    (tmp_path / "sums.yaml").write_text(fields)
    files = [str(tmp_path / name) for name in ("sums.yaml", "answers.jsonl")]
    assert evaluate(["score", "--json", "--benchmark", files[0], "--responses", files[1]]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["benchmark"], result["avg@k"]) == ("sums", 0.5)
