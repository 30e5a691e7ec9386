"""The light trainer's policy as files that transformers, vLLM and OpenRLHF load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from vespo_openrlhf.study.cells import Recipe
from vespo_openrlhf.study.tasks.addition import END, MAX_TOKENS, PAD, VOCABULARY


def save_checkpoint(weights: Mapping[str, Tensor], recipe: Recipe, folder: Path) -> None:
    """Write model and tokenizer.

    Args:
        weights: state of a `Decoder` of the recipe's size.
        recipe: its width, layers and heads.
        folder: made if it is not there.
    """
    policy_model(weights, recipe).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def policy_model(weights: Mapping[str, Tensor], recipe: Recipe) -> OPTForCausalLM:
    """The same policy in transformers' own class."""
    config = OPTConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=recipe.width,
        word_embed_proj_dim=recipe.width,
        ffn_dim=2 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=MAX_TOKENS,
        activation_function="relu",
        do_layer_norm_before=True,
        enable_bias=False,
        dropout=0.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
        dtype="float32",
    )
    model = OPTForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, eos_token_id=END, pad_token_id=PAD)
    model.load_state_dict(_renamed(weights, recipe.layers))
    return model.eval()


def _renamed(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    positions = weights["positions.weight"]
    renamed = {
        "model.decoder.embed_tokens.weight": weights["tokens.weight"],
        # OPT's first two positions are never used.
        "model.decoder.embed_positions.weight": functional.pad(positions, (0, 0, 2, 0)),
        "lm_head.weight": weights["head.weight"],
    }
    names = {"norm": "model.decoder.final_layer_norm"}
    for layer in range(layers):
        ours, theirs = f"layers.{layer}", f"model.decoder.layers.{layer}"
        names |= {
            f"{ours}.attention_norm": f"{theirs}.self_attn_layer_norm",
            f"{ours}.out": f"{theirs}.self_attn.out_proj",
            f"{ours}.mlp_norm": f"{theirs}.final_layer_norm",
            f"{ours}.up": f"{theirs}.fc1",
            f"{ours}.down": f"{theirs}.fc2",
        }
        parts = weights[f"{ours}.qkv.weight"].chunk(3)
        for part, chunk in zip("qkv", parts, strict=True):
            renamed[f"{theirs}.self_attn.{part}_proj.weight"] = chunk.contiguous()
    for our, their in names.items():
        for kind in ("weight", "bias"):
            if f"{our}.{kind}" in weights:
                renamed[f"{their}.{kind}"] = weights[f"{our}.{kind}"]
    return renamed


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The task's vocabulary as a tokenizer: one token a character, and one for the box."""
    special = [VOCABULARY[END], VOCABULARY[PAD]]
    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(VOCABULARY)}))
    pieces = Regex(r"\\boxed\{|[\s\S]")
    backend.pre_tokenizer = pre_tokenizers.Split(pieces, behavior="isolated")
    backend.decoder = decoders.Fuse()  # no spaces between tokens
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=special[0],
        pad_token=special[1],
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_TOKENS,
        padding_side="left",
    )
