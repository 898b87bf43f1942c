"""When weights are copied to decode from, and that a copy changes nothing."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers.models_and_trees import small_model

from pretrainrl_jax.decoding.decode import decode, sample_batch
from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.decoder import Chosen
from pretrainrl_jax.model.lora import Lora
from pretrainrl_jax.model.mesh import Cut
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.model.whole import for_decoding, takes_copy, told
from pretrainrl_jax.training.loading import load

SHAPE = ModelShape("qwen3", 512, 32, 2, 2, 1, 16, 64, 1e4, 1e-6, tied=True, dtype="bfloat16")


@pytest.mark.parametrize(("cut", "tensor"), [(1, 1), (8, 1), (4, 2)])
def test_a_copy_needs_room_beside_parameters_and_moments(cut: int, tensor: int) -> None:
    size = parameters(SHAPE).total
    needed = 2 * size / tensor + 3 * 4 * size / (cut * tensor)
    assert takes_copy(SHAPE, Cut(fsdp=cut, tensor=tensor), needed)
    assert not takes_copy(SHAPE, Cut(fsdp=cut, tensor=tensor), needed - 1)


def test_parameters_that_are_used_as_they_lie_are_not_copied() -> None:
    shape = replace(SHAPE, dtype="float32")
    assert not takes_copy(shape, Cut(tensor=2), 1e12)
    assert takes_copy(shape, Cut(fsdp=2), 1e12)


def test_a_loaded_model_has_the_room_that_is_chosen() -> None:
    workdir = Path(__file__).parents[1] / "fixtures" / "workdir_2026_11"
    assert load(workdir, chosen=Chosen("xla", 7.0)).model.room == 7.0
    assert load(workdir).model.room == 0.0


def test_what_is_read_is_told() -> None:
    size = parameters(SHAPE).total
    assert told(replace(SHAPE, dtype="float32"), Cut(), 0.0) == told(SHAPE, Cut(), 0.0) == ""
    assert told(SHAPE, Cut(fsdp=4), 1e12) == (
        f"decoding reads a copy of the weights, {2 * size / 2**30:.2f} GiB a device, made once a call"
    )
    assert told(SHAPE, Cut(fsdp=4), 1.0).startswith("! decoding gathers all weights at each token")


def test_matrices_alone_are_cast() -> None:
    model, params = small_model(qkv_bias=True, dtype="bfloat16")
    whole, copy = for_decoding(replace(model, room=1e12), params)
    kinds = {"/".join(path): x.dtype for path, x in flatten_dict(copy["layers"]["attention"]).items()}
    kept = {name for name, dtype in kinds.items() if dtype == jnp.float32}
    biases = {f"{name}_bias" for name in ("query", "key", "value")}
    assert kept == biases | {"query_norm/scale", "key_norm/scale"}
    assert copy["final_norm"]["scale"].dtype == jnp.float32
    assert copy["embedding"].dtype == copy["layers"]["mlp"]["up"].dtype == jnp.bfloat16
    assert whole.rules.model is None
    assert for_decoding(model, params) == (model, params)


def test_adapters_are_copied_beside_their_weights() -> None:
    """In a sum that is rounded to bfloat16 their part would be lost."""
    lora = Lora(3, 1e-3, ("query", "out", "down"))
    model, params = small_model(lora=lora, dtype="bfloat16")
    whole, copy = for_decoding(replace(model, room=1e12), params)
    assert whole.shape == model.shape
    assert copy["layers"]["mlp"]["down_lora_b"].dtype == jnp.bfloat16
    tokens = jnp.arange(12).reshape(2, 6)
    np.testing.assert_array_equal(whole.logits(copy, tokens), model.logits(params, tokens))
    count = parameters(model.shape)
    needed = 2 * count.total + 4 * count.total + 8 * count.adapters
    assert takes_copy(model.shape, Cut(), needed)
    assert not takes_copy(model.shape, Cut(), needed - 1)


def test_what_is_decoded_is_the_same_to_the_bit() -> None:
    model, params = small_model(sharpness=3.0, dtype="bfloat16")
    ends = np.zeros(model.shape.vocabulary, bool)
    ends[3] = True
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12]]
    same = {"max_new_tokens": 6, "batch": 3}
    chance = {"samples": 4, "seed": 1, "temperature": 0.9, "top_p": 0.9, "top_k": 0}
    plain, copying = (
        (
            decode(one, params, prompts, ends, beams=5, **same),
            sample_batch(one, params, prompts, ends, **same, **chance),
        )
        for one in (model, replace(model, room=1e12))
    )
    assert plain == copying
