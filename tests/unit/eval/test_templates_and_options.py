"""What the model is sent, and the seed it is sent with."""

import json
import types
from dataclasses import asdict
from pathlib import Path

import pytest

from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.eval.benchmarks.templates import TEMPLATES, Prompt, Renderer, find_template
from vespo_openrlhf.eval.engines import Request
from vespo_openrlhf.eval.engines.offline import OfflineEngine
from vespo_openrlhf.eval.judging.verdicts import judge
from vespo_openrlhf.eval.options import Options, seed_of
from vespo_openrlhf.eval.results.folder import Folder


def test_the_chat_template_and_the_system_prompt_are_applied() -> None:
    prompt = Renderer(build_tokenizer(), system="Add.").render(TEMPLATES["plain"], "1+1=")
    assert prompt.text == (
        "<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n1+1=<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_raw_prompts_go_out_as_they_are() -> None:
    renderer = Renderer(build_tokenizer(), raw=True)
    assert renderer.render(TEMPLATES["plain"], "1+1=").text == "1+1="
    prompt = Renderer(build_tokenizer()).render(TEMPLATES["r1"], "1+1=")
    assert prompt.messages is None
    assert prompt.text.endswith("User: 1+1=\nAssistant: <think>")


def test_braces_and_backslashes_of_a_problem_are_left_alone() -> None:
    problem = r"Find $\frac{1}{2}$ of {problem} \boxed{}"
    assert problem in find_template("dapo").text.replace("{problem}", problem)
    assert problem in Renderer().render(TEMPLATES["qwen"], problem).text


def test_a_model_without_a_chat_template_is_told_what_to_do() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="--raw"):
        Renderer(tokenizer).render(TEMPLATES["plain"], "1+1=")


def test_templates_by_name_or_text() -> None:
    assert find_template("Solve: {problem}").text == "Solve: {problem}"
    with pytest.raises(ValueError, match="did you mean qwen"):
        find_template("qwn")


def test_a_seed_depends_on_what_it_is_for_and_on_nothing_else() -> None:
    seeds = [
        seed_of(seed, name, problem, repeat)
        for seed in (0, 1) for name in ("a", "b") for problem in ("1", "2") for repeat in range(50)
    ]  # fmt: skip
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(0, "aime24", "7", 3) == 1642504349


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}, {"template": "nope"}, {"top_k": 0},
        {"min_p": 1.5}, {"repetition_penalty": 0}, {"presence_penalty": 3}, {"limit": 0},
        {"frequency_penalty": -2.5}, {"few_shot": 0}, {"few_shot_from": "x"},
        {"few_shot_text": True},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
        Options(**wrong)


def test_what_was_not_set_is_not_in_the_manifest() -> None:
    """So that a folder of an older version, which did not know it, takes the rest of its run."""
    assert not {"top_k", "min_p", "limit", "few_shot"} & Options().as_json().keys()
    assert Options(top_k=20).as_json()["top_k"] == 20


def test_sampling_options_reach_vllm_only_where_they_are_set() -> None:
    """The parameters are vLLM's own; the model under them is a stand-in, as it takes no part."""
    from vllm import SamplingParams

    def parameters(options: Options) -> SamplingParams:
        engine = OfflineEngine.__new__(OfflineEngine)
        engine._options = options
        engine._tokenizer = build_tokenizer()
        engine._tokens = {}
        config = types.SimpleNamespace(max_model_len=100)
        engine._llm = types.SimpleNamespace(model_config=config)
        request = Request("b", "1", 0, 5, Prompt("1+1=", None), 1.0)
        _, (found,) = engine.inputs([request])
        return found

    plain = SamplingParams(max_tokens=8192, seed=5, skip_special_tokens=False)
    assert parameters(Options()) == plain
    more = {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}
    more |= {"presence_penalty": 0.5, "frequency_penalty": 0.2}
    found = parameters(Options(**more))
    assert {name: getattr(found, name) for name in more} == more


def test_the_answer_of_a_worked_solution_needs_no_box() -> None:
    assert judge("So 2.\n#### 1,234", "1234", marker="####")["correct"]
    assert not judge("So 2.\n#### 1,235", "1234", marker="####")["correct"]
    assert not judge("#### 1\nno, \\boxed{2}", "1", marker="####")["correct"]


def test_a_response_to_a_prompt_that_opens_the_thinking_starts_inside_it() -> None:
    verdict = judge("I guess \\boxed{2}", "2", prompt="Assistant: <think>")
    assert (verdict["correct"], verdict["reason"]) == (False, "truncated")
    assert judge("Hm.</think> \\boxed{2}", "2", prompt="Assistant: <think>")["correct"]


def test_a_secret_among_the_engine_options_reaches_the_engine_and_no_manifest(
    tmp_path: Path,
) -> None:
    options = Options(engine_options={"hf_token": "HFSECRET", "max_model_len": 8})
    assert options.engine_options["hf_token"] == "HFSECRET"
    written = options.as_json()
    assert "HFSECRET" not in json.dumps(written)
    assert written["engine_options"]["max_model_len"] == 8
    # A manifest of old with the secret in it is of the same settings, and is read without it.
    folder = Folder(tmp_path)
    old = {name: value for name, value in asdict(options).items() if value is not None}
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": old}))
    try:
        assert folder.manifest() == {"settings": written}
    finally:
        folder.close()
