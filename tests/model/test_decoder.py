import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models_and_trees import small_model, small_shape, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.config import ModelConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model import layers
from pretrainrl_jax.model import shape as shapes
from pretrainrl_jax.model.attention import causal_mask, tree_mask
from pretrainrl_jax.model.decoder import KVCache, Model, project
from pretrainrl_jax.model.mesh import Rules
from pretrainrl_jax.model.shape import LinearScaling, RopeScaling
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.packing import Capacity, pack

TIME = 40
TREES = [tree(4, 3, 1, 4, id="a"), tree(0, 5, id="b", start=20), tree(6, 4, 4, 2, id="c", start=40)]


@jax.jit(static_argnums=0)
def tree_hidden(model, params, tokens, tree_id, branch_id, positions):
    return model.hidden(params, tokens, positions, tree_mask(tree_id, branch_id)).hidden


@jax.jit(static_argnums=0)
def plain_hidden(model, params, tokens):
    return plain(model, params, tokens).hidden


def plain(model, params, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = causal_mask(jnp.full(len(tokens), TIME), tokens.shape[1])
    return model.hidden(params, tokens, positions, mask)


def packed() -> PackedBatch:
    """Two rows: the trees in both orders."""
    return pack([TREES, TREES[::-1]], Capacity(TIME, TIME, 64, 16, 16))


def of_rows(model, params, rows: PackedBatch):
    return np.asarray(
        tree_hidden(model, params, rows.tokens, rows.tree_id, rows.branch_id, rows.positions), np.float32
    )


# Parameters


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_states_a_known_logical_axis_for_each_dimension(family, tied):
    boxed = jax.tree.leaves(
        Model(small_shape(family=family, tied=tied)).abstract(),
        is_leaf=lambda x: isinstance(x, nn.Partitioned),
    )
    known = {field.name for field in dataclasses.fields(Rules)}
    for leaf in boxed:
        assert isinstance(leaf, nn.LogicallyPartitioned)
        assert len(leaf.names) == len(leaf.value.shape)
        assert set(leaf.names) <= known
        assert leaf.value.dtype == jnp.float32
    sizes = [dict(zip(leaf.names, leaf.value.shape, strict=True)) for leaf in boxed]
    wanted = {"layers": 2, "model": 16, "vocabulary": 100, "heads": 4, "kv_heads": 2, "head": 8, "mlp": 24}
    assert all(wanted[name] == size for named in sizes for name, size in named.items())
    assert set().union(*sizes) == set(wanted)


def test_abstract_describes_what_init_makes():
    model = Model(small_shape())
    init, key = jax.jit(model.init), jax.random.key(0, impl="unsafe_rbg")  # compiles faster
    made, described = init(key), nn.unbox(model.abstract())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(
        lambda x: (x.shape, x.dtype), described
    )
    jax.tree.map(np.testing.assert_array_equal, made, init(key))
    kernels = made["layers"]["attention"]["query"]
    assert not np.array_equal(kernels[0], kernels[1])  # each layer has weights of its own


@pytest.mark.parametrize("remat", ["none", "full"])
def test_what_layers_report_stands_in_auxiliary(remat, monkeypatch):
    """Another MLP of the same parameters reports its result's size and count: each layer's own, in order."""

    class Reporting(layers.MLP):
        def __call__(self, x, real):
            fed, report = super().__call__(x, real)
            return fed, report | {"size": jnp.abs(fed).max(-1), "count": jnp.int32(fed.size)}

    model, params = small_model(remat=remat)
    tokens = np.arange(2 * TIME).reshape(2, TIME)
    assert jax.eval_shape(lambda params: plain(model, params, tokens), params).auxiliary == {}
    monkeypatch.setattr(layers, "MLP", Reporting)
    report = jax.jit(lambda params: plain(model, params, tokens))
    reported = report(params)
    assert reported.auxiliary.keys() == {"size", "count"}
    np.testing.assert_array_equal(reported.auxiliary["count"], [2 * TIME * 16] * 2)
    sizes = reported.auxiliary["size"]  # [layers, batch, time]
    for silent in range(2):  # a layer whose MLP gives nothing
        down = params["layers"]["mlp"]["down"].at[silent].set(0)
        mlp = params["layers"]["mlp"] | {"down": down}
        without = report(params | {"layers": params["layers"] | {"mlp": mlp}}).auxiliary["size"]
        assert (sizes[silent] > 0).all()
        np.testing.assert_array_equal(without[silent], 0)
        assert (without[1 - silent] > 0).all()


def test_only_qwen3_normalises_queries_and_keys():
    for family, there in (("qwen3", True), ("llama", False)):
        attention = nn.unbox(Model(small_shape(family=family)).abstract())["layers"]["attention"]
        assert ("query_norm" in attention, "key_norm" in attention) == (there, there)


def test_the_head_is_the_embedding_where_tied():
    model, params = small_model(tied=True)
    assert model.head(params) is params["embedding"]
    assert "head" not in params
    model, params = small_model()
    assert model.head(params) is params["head"]
    assert not np.array_equal(params["head"], params["embedding"])


FURTHER = {
    "gemma3_text": {"windows": (3, 0), "local_rope_theta": 10.0, "query_scale": 5.0},
    "qwen3_moe": {"experts": 4, "experts_per_token": 2},
}


# What sees what


@pytest.mark.parametrize("family", ["llama", "qwen3", *FURTHER])
def test_packed_trees_equal_their_plain_sequences(family):
    model, params = small_model(family=family, **FURTHER.get(family, {}))
    rows = packed()
    hidden = of_rows(model, params, rows)
    expected, places = [], []
    for row, order in enumerate((TREES, TREES[::-1])):
        for number, made in enumerate(order, start=1):
            mine = rows.tree_id[row] == number
            prefix = np.flatnonzero(mine & (rows.branch_id[row] == 0))
            for at, branch in enumerate(made.branches, start=1):
                expected.append((*made.prefix, *branch.tokens[:-1]))
                places.append((row, [*prefix, *np.flatnonzero(mine & (rows.branch_id[row] == at))]))
    sequences = np.zeros((len(expected), 16), np.int32)
    for sequence, tokens in zip(sequences, expected, strict=True):
        sequence[: len(tokens)] = tokens
    plain = np.asarray(plain_hidden(model, params, sequences))
    for (row, place), sequence, tokens in zip(places, plain, expected, strict=True):
        assert tuple(rows.tokens[row, place]) == tokens
        np.testing.assert_allclose(hidden[row, place], sequence[: len(tokens)], rtol=1e-5, atol=2e-5)


@given(st.integers(0, 1), st.integers(1, 3), st.integers(1, 3), st.data())
@settings(max_examples=30, deadline=None)
def test_a_branchs_tokens_change_nothing_outside_it(row, number, branch, draw):
    model, params = small_model()
    rows = packed()
    before = of_rows(model, params, rows)
    mine = (rows.tree_id[row] == number) & (rows.branch_id[row] == branch)
    tokens = rows.tokens.copy()
    others = draw.draw(st.lists(st.integers(0, 99), min_size=int(mine.sum()), max_size=int(mine.sum())))
    tokens[row, mine] = others
    after = of_rows(model, params, rows._replace(tokens=tokens))
    outside = rows.tree_id > 0
    outside[row, mine] = False
    np.testing.assert_array_equal(after[outside], before[outside])
    changed = np.flatnonzero(tokens[row] != rows.tokens[row])[:1]
    assert not (after[row, changed] == before[row, changed]).all(-1).any()


def test_a_prefixs_tokens_change_its_tree_from_there_on_and_no_neighbour():
    model, params = small_model()
    rows = packed()
    before = of_rows(model, params, rows)
    tokens = rows.tokens.copy()
    tokens[0, 2] += 1  # the third token of the first tree's prefix
    after = of_rows(model, params, rows._replace(tokens=tokens))
    changed = (after != before).any(-1) & (rows.tree_id > 0)
    expected = (rows.tree_id == 1) & (rows.positions >= 2)
    expected[1] = False
    np.testing.assert_array_equal(changed, expected)


def test_padding_changes_nothing_and_is_finite():
    model, params = small_model()
    rows = packed()
    padding = rows.tree_id == 0
    assert padding.any()
    tokens, positions = rows.tokens.copy(), rows.positions.copy()
    tokens[padding], positions[padding] = 37, 5
    before = of_rows(model, params, rows)
    after = of_rows(model, params, rows._replace(tokens=tokens, positions=positions))
    np.testing.assert_array_equal(after[~padding], before[~padding])
    assert np.isfinite(after).all()


def test_a_past_is_seen_as_if_it_stood_before():
    model, params = small_model()
    tokens = np.arange(1, 13).reshape(1, 12)
    at_once = np.asarray(plain_hidden(model, params, tokens))
    at = jnp.arange(12)[None]

    def causal(n):
        return jnp.tril(jnp.ones((1, n, n), bool))

    @jax.jit
    def piecewise(params):
        keys_values = model.hidden(params, tokens[:, :5], at[:, :5], causal(5))[1:3]
        cache = KVCache(*keys_values, jnp.ones((1, 4, 5), bool), at[:, :5])
        second = model.hidden(params, tokens[:, 5:9], at[:, 5:9], causal(4), (cache,))[1:3]
        both = (
            KVCache(*keys_values, jnp.ones((1, 3, 5), bool), at[:, :5]),
            KVCache(*second, jnp.ones((1, 3, 4), bool), at[:, 5:9]),
        )
        return model.hidden(params, tokens[:, 9:], at[:, 9:], causal(3), both)

    in_pieces = piecewise(params)
    np.testing.assert_allclose(in_pieces.hidden, at_once[:, 9:], rtol=1e-5, atol=2e-5)
    assert in_pieces.keys.shape == in_pieces.values.shape == (2, 1, 3, 2, 8)


# Numbers


def test_logits_of_a_token_without_a_row_are_refused():
    model, params = small_model()
    beyond = [[1, model.shape.vocabulary]]
    for tokens in (beyond, np.array(beyond)):
        with pytest.raises(InputError, match="token 100 has no row in the model's embedding, which has 100"):
            model.logits(params, tokens)
    assert jax.jit(model.logits)(params, np.array(beyond)).shape == (1, 2, 100)


def test_logits_are_hidden_times_head():
    model, params = small_model()
    tokens = np.arange(24).reshape(2, 12)
    logits = model.logits(params, tokens)
    hidden = np.asarray(plain_hidden(model, params, tokens), np.float64)
    np.testing.assert_allclose(
        logits, hidden @ np.asarray(params["head"], np.float64).T, rtol=1e-5, atol=1e-5
    )
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, model.logits(params, tokens.tolist()), atol=0)
    changed = model.logits(params, np.where(np.arange(12) == 7, 1, tokens))
    np.testing.assert_array_equal(changed[:, :7], logits[:, :7])  # nothing sees what comes after it


def squares(model, params):
    """A loss of packed trees with its gradient, compiled."""
    rows = packed()

    def loss(params):
        mask = tree_mask(rows.tree_id, rows.branch_id)
        hidden = model.hidden(params, rows.tokens, rows.positions, mask).hidden
        return (project(hidden, model.head(params)) ** 2).mean()

    return jax.jit(jax.value_and_grad(loss)).lower(params).compile()


@functools.cache
def compiled_squares(family, remat):
    """The same of a family's model, with biases where it may have them; and its parameters."""
    model, params = small_model(family=family, **FURTHER.get(family, {"qkv_bias": True, "mlp_bias": True}))
    return squares(Model(dataclasses.replace(model.shape, remat=remat)), params), params


@pytest.mark.parametrize("family", ["qwen3", "olmo2", *FURTHER])
@pytest.mark.parametrize("remat", layers.KEPT)
def test_remat_changes_neither_values_nor_gradients(remat, family):
    (remade, params), (kept, _) = (compiled_squares(family, r) for r in (remat, "none"))
    recomputed, wanted = remade(params), kept(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), recomputed, wanted)
    assert float(wanted[0]) > 0.1


def test_rotating_by_a_product_changes_neither_values_nor_gradients(monkeypatch):
    """As long rows do on TPUs."""
    model, params = small_model()
    wanted, times = squares(model, params)(params), []
    monkeypatch.setattr(layers, "rotates_by_product", lambda layout, time: times.append(time) or True)
    other = Model(dataclasses.replace(model.shape, remat="full"))  # what was compiled is not taken again
    near = {"rtol": 1e-5, "atol": 1e-6}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **near), squares(other, params)(params), wanted
    )
    assert set(times) == {packed().tokens.shape[1]}


@pytest.mark.parametrize(("family", "last"), [("qwen3", 0), ("olmo2", 1)])
def test_the_more_is_kept_the_fewer_products_a_gradient_takes(family, last):
    """A layer has 9: 7 with weights, the last of which a norm may read (`last`), and 2 of attention."""

    def count(remat):
        return len(re.findall(r" dot\(", compiled_squares(family, remat)[0].as_text()))

    counts = {remat: count(remat) for remat in ("full", "attention", "up", "products", "none")}
    more = {remat: counts[remat] - counts["none"] for remat in counts}
    assert more == {"full": 8 + last, "attention": 2 + 2 + last, "up": 2 + 1, "products": 2, "none": 0}


@pytest.mark.parametrize(("stored", "remat"), [(False, "none"), (True, "full"), ("products", "products")])
def test_what_is_recomputed_reads_as_the_switch_it_was(stored, remat):
    """Files have the values they had, so that older versions read them, and digests stay."""
    made = small_shape(remat=remat)
    values = shapes.to_json(made)
    assert values["remat"] is stored or values["remat"] == stored
    assert shapes.from_json(values) == made
    del values["remat"]
    assert shapes.from_json(values).remat == "none"
    assert shapes.from_settings(ModelConfig(remat=stored), 77).remat == remat  # of older configurations


def test_bfloat16_computes_near_float32_from_float32_parameters():
    model, params = small_model(d_model=32)
    half = Model(dataclasses.replace(model.shape, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(nn.unbox(half.abstract()))} == {jnp.dtype("float32")}
    rows = packed()
    hidden = tree_hidden(half, params, rows.tokens, rows.tree_id, rows.branch_id, rows.positions)
    assert hidden.dtype == jnp.bfloat16
    wide = of_rows(model, params, rows)[rows.tree_id > 0]
    off = np.asarray(hidden, np.float32)[rows.tree_id > 0] - wide
    assert 0 < np.sqrt((off**2).mean()) < 0.02 * np.sqrt((wide**2).mean())
    assert jax.eval_shape(half.logits, params, rows.tokens).dtype == jnp.float32


def test_a_model_is_equal_to_another_of_its_shape_and_can_be_static():
    assert Model(small_shape()) == Model(small_shape())
    assert hash(Model(small_shape())) == hash(Model(small_shape()))
    assert Model(small_shape()) != Model(small_shape(layers=3))


# Shapes


@pytest.mark.parametrize("scaling", [None, RopeScaling(8.0, 1.0, 4.0, 64), LinearScaling(8.0)])
def test_a_shape_survives_json(scaling):
    made = small_shape(rope_scaling=scaling, remat="full")
    assert shapes.from_json(shapes.to_json(made)) == made


def test_what_older_versions_have_not_is_written_where_it_says_something():
    """Digests of what was mined with a model stay what they were."""
    assert not shapes.LATER.keys() & shapes.to_json(small_shape()).keys()
    said = {"local_rope_theta": 9.0, "query_scale": 3.0, "experts": 4, "experts_per_token": 2}
    said |= {"norm_topk_prob": False, "router_loss": 0.1}
    assert said.keys() == shapes.LATER.keys()
    made = small_shape(**said)
    assert said.items() <= shapes.to_json(made).items()
    assert shapes.from_json(shapes.to_json(made)) == made


def test_a_shape_from_settings_takes_the_tokenizers_size_where_none_is_named():
    assert shapes.from_settings(ModelConfig(), 77).vocabulary == 77
    assert shapes.from_settings(ModelConfig(vocabulary=128), 77).vocabulary == 128
    made = shapes.from_settings(ModelConfig(family="llama", d_model=48, kv_heads=2, remat="full"), 77)
    assert (made.family, made.d_model, made.kv_heads, made.remat) == ("llama", 48, 2, "full")
    assert (made.local_rope_theta, made.query_scale) == (0, 0)


def test_a_gemma_from_settings_has_its_two_rotary_embeddings_and_its_scale():
    made = shapes.from_settings(ModelConfig(family="gemma3_text", head_dim=24, rope_theta=1e6), 77)
    assert (made.rope_theta, made.local_rope_theta, made.query_scale) == (1e6, 1e4, 24)
