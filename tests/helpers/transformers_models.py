"""Random models of transformers, the oracle of these tests, and how they are read as ours."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from helpers.models_and_trees import LLAMA3

from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.hugging_face.config import read_shape
from pretrainrl_jax.model.hugging_face.reading import read_params
from pretrainrl_jax.model.partitioning import parameter_shardings

WINDOW = 7  # much shorter than the tests' sequences
SHARED: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,  # an embedding of padding would have no gradient
}
PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
EVERY_HEAD = {"num_key_value_heads": 6, "head_dim": 4}  # of equal width, as Llama 2 has them
LAST_WINDOWED = {
    "use_sliding_window": True,
    "sliding_window": WINDOW,
    "max_window_layers": 1,
    "num_hidden_layers": 3,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3}
GEMMA = {
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 23,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    },
    "tie_word_embeddings": True,
}

# Of each family the class and what its published models have beside `SHARED`.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3", {}),
    "qwen2": ("Qwen2", {}),
    "llama2": ("Llama", EVERY_HEAD),
    "llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "olmo2": ("Olmo2", {}),
    "gemma3_text": ("Gemma3Text", GEMMA),
    "mixtral": ("Mixtral", {"num_local_experts": 6, "num_experts_per_tok": 2}),
    "olmoe": ("Olmoe", EVERY_HEAD | EXPERTS),
    "qwen3_moe": ("Qwen3Moe", EXPERTS | {"moe_intermediate_size": 12, "norm_topk_prob": True}),
}


@dataclass(frozen=True)
class Case:
    """A configuration of a family. `without` takes its oddity away, which must change the logits."""

    family: str
    oddity: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    without: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.family}-{self.oddity}" if self.oddity else self.family


TIED = {"tie_word_embeddings": True, "vocab_size": 97}
BIASES, NO_BIASES = ({"attention_bias": on, "mlp_bias": on} for on in (True, False))
CASES = (
    Case("qwen3"),
    Case("qwen3", "tied", TIED | {"num_key_value_heads": 1}),
    Case("qwen3", "some-layers-windowed", LAST_WINDOWED, {"use_sliding_window": False}),
    Case("qwen2"),
    Case("qwen2", "tied-some-layers-windowed", TIED | LAST_WINDOWED, {"max_window_layers": 3}),
    Case("llama2"),
    Case("llama2", "biases", BIASES | {"num_key_value_heads": 3, "head_dim": 8}, NO_BIASES),
    Case("llama3", "scaled", without=PLAIN_ROPE),
    Case("llama3", "tied-scaled", TIED | {"num_key_value_heads": 3}, PLAIN_ROPE),
    Case("mistral", "windowed", without={"sliding_window": None}),
    Case("mistral", "tied", TIED | {"sliding_window": None}, {"sliding_window": WINDOW}),
    Case("olmo2"),
    Case("olmo2", "tied", TIED | EVERY_HEAD),
    Case("gemma3_text", without={"query_pre_attn_scalar": 10}),
    Case("gemma3_text", "untied", {"tie_word_embeddings": False}),
    Case("mixtral"),
    Case("mixtral", "windowed", {"sliding_window": WINDOW}, {"sliding_window": None}),
    Case("olmoe", "normalised", {"norm_topk_prob": True}, {"norm_topk_prob": False}),
    Case("qwen3_moe"),
    Case("qwen3_moe", "tied", TIED | {"norm_topk_prob": False, "num_key_value_heads": 1}),
)


def peer(family: str, sharpness: float = 2.0, seed: int = 0, **changes: Any) -> Any:
    """A random float32 model of transformers: norms and biases random too, or one left out would not show.

    `sharpness` is about the standard deviation of the logits.
    """
    kind, settings = FAMILIES[family]
    config = getattr(transformers, f"{kind}Config")(**(SHARED | settings | changes))
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")._from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    return randomise(model, sharpness, seed)


def randomise(model: Any, sharpness: float = 2.0, seed: int = 0) -> Any:
    """Give a model of transformers such weights."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                values = rng.normal(1.0, 0.3, weight.shape)
            elif name.endswith("bias"):
                values = rng.normal(0.0, 0.5, weight.shape)
            else:
                last = "lm_head" in name or (model.config.tie_word_embeddings and "embed" in name)
                spread = sharpness if last else 1.5
                values = rng.normal(0.0, spread * weight.shape[-1] ** -0.5, weight.shape)
            weight.copy_(torch.tensor(values))
    return model.eval()


def ours(folder: Path) -> tuple[Model, Params]:
    """The model in a folder as `save_pretrained` wrote it. The one place where these tests read one."""
    model = Model(read_shape(folder))
    return model, read_params(folder, model, parameter_shardings(model, None))


def as_ours(theirs: Any, folder: Path) -> tuple[Model, Params]:
    """A model of transformers as ours, by way of a folder."""
    theirs.save_pretrained(folder)
    return ours(folder)


def relative_error(ours: Any, wanted: Any) -> float:
    """‖found − wanted‖ / ‖wanted‖."""
    ours, wanted = np.asarray(ours, np.float64), np.asarray(wanted, np.float64)
    assert ours.shape == wanted.shape
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))
