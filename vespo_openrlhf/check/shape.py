"""The shape of a decoder from its config.json: dense or mixture of experts, gated MLP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf import models

_SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class ModelShape:
    """What memory and speed depend on.

    Attributes:
        layers, hidden, vocab: as in the config.
        query, key_value: width of all query heads, and of all key (or value) heads.
        heads, key_value_heads: how many; tensor parallelism splits them.
        intermediate: width of the gated MLP; of one expert where there are experts.
        experts, experts_per_token: 0 in a dense model.
        sparse_layers: layers whose MLP is a mixture of experts.
        dense_intermediate: width of the MLP in the other layers.
        tied: the output layer is the embedding.
        biases: numbers of bias and norm parameters in one layer.
        max_positions: the longest sequence, in tokens.
    """

    layers: int
    hidden: int
    vocab: int
    query: int
    key_value: int
    heads: int
    key_value_heads: int
    intermediate: int
    experts: int
    experts_per_token: int
    sparse_layers: int
    dense_intermediate: int
    tied: bool
    biases: int
    max_positions: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read a Hugging Face config.

        Raises:
            ValueError: it is not that of a decoder of this kind; the message names what it lacks.
        """
        try:
            hidden, heads = config["hidden_size"], config["num_attention_heads"]
            layers, vocab = config["num_hidden_layers"], config["vocab_size"]
            dense = config["intermediate_size"]
        except KeyError as missing:
            raise ValueError(
                f"the model's config has no {missing}: memory is only estimated for decoders "
                "such as Qwen and Llama"
            ) from None
        key_value_heads = config.get("num_key_value_heads") or heads
        head = config.get("head_dim") or hidden // heads
        query, key_value = heads * head, key_value_heads * head
        experts = models.experts(config)
        kind = config.get("model_type", "")
        biases = 2 * hidden  # the two norms
        if kind.startswith("qwen3"):
            biases += 2 * head  # and those of queries and keys
        if kind.startswith("qwen2") or config.get("attention_bias"):
            biases += query + 2 * key_value
        return cls(
            layers=layers,
            hidden=hidden,
            vocab=vocab,
            query=query,
            key_value=key_value,
            heads=heads,
            key_value_heads=key_value_heads,
            intermediate=config.get("moe_intermediate_size", dense) if experts else dense,
            experts=experts,
            experts_per_token=config.get("num_experts_per_tok", 0) if experts else 0,
            sparse_layers=_sparse_layers(config, layers) if experts else 0,
            dense_intermediate=dense,
            tied=bool(config.get("tie_word_embeddings", False)),
            biases=biases,
            max_positions=config.get("max_position_embeddings", 0),
        )

    @property
    def parameters(self) -> int:
        """All of them."""
        return self._parameters(self.experts)

    @property
    def active_parameters(self) -> int:
        """Those that one token passes through, the embedding's look-up left out."""
        embedding = 0 if self.tied else self.vocab * self.hidden
        return self._parameters(self.experts_per_token) - embedding

    @property
    def layer_parameters(self) -> int:
        """Of one layer, the larger kind."""
        expert = 3 * self.hidden * self.intermediate
        mlp = self.experts * (expert + self.hidden) if self.sparse_layers else expert
        return self._attention + mlp

    def adapter_parameters(self, rank: int) -> int:
        """Of LoRA on every linear layer but experts, which cannot be adapted here."""
        attention = 4 * self.hidden + 2 * (self.query + self.key_value)
        mlp = 3 * (self.hidden + self.dense_intermediate)
        return rank * (self.layers * attention + (self.layers - self.sparse_layers) * mlp)

    @property
    def _attention(self) -> int:
        return 2 * self.hidden * (self.query + self.key_value) + self.biases

    def _parameters(self, experts: int) -> int:
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        router = self.hidden * self.experts
        sparse = router + experts * 3 * self.hidden * self.intermediate
        dense = 3 * self.hidden * self.dense_intermediate
        return (
            embeddings
            + self.hidden  # the last norm
            + self.layers * self._attention
            + self.sparse_layers * sparse
            + (self.layers - self.sparse_layers) * dense
        )


def _sparse_layers(config: Mapping[str, Any], layers: int) -> int:
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or []
    first = config.get("first_k_dense_replace") or 0  # of DeepSeek and GLM
    return sum(
        layer >= first and layer not in dense and (layer + 1) % step == 0 for layer in range(layers)
    )


def find_config(model: str, given: Path | None) -> dict[str, Any] | None:
    """The config.json of a model, without downloading any weights.

    Args:
        model: folder or hub id.
        given: a config.json, or a folder that holds one or `NAME.json` after the model's name;
            looked into first.

    Returns:
        None where there is none to be had: not given, no such folder, not in the hub's cache.

    Raises:
        ValueError: `given` holds none.
    """
    name = model.rstrip("/").rpartition("/")[2]
    if given is not None:
        for path in (given, given / f"{name}.json", given / "config.json"):
            if path.is_file():
                return _read(path)
        raise ValueError(f"--model-config {given}: no config.json and no {name}.json there")
    found = model_file(model, "config.json")
    return None if found is None else _read(found)


def model_file(model: str, name: str) -> Path | None:
    """A file of the model's folder or, for a hub id, of the hub's cache; None if not there."""
    folder = Path(model)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, name)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def fetch(model: str) -> None:
    """Put what `check` reads of a hub model into the hub's cache: no weights, some 10 MB at most.

    Raises:
        ValueError: the hub does not answer, or will not give it to us.
    """
    if Path(model).is_dir():
        return
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot_download(model, allow_patterns=list(_SMALL_FILES), etag_timeout=_HUB_TIMEOUT_S)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as refused:
        reason = str(refused).splitlines()[0]
        raise ValueError(f"--fetch: {model} cannot be read from the hub: {reason}") from refused


def _read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text())
    return config
