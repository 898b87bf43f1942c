"""Fingerprints change with what they are of, and with nothing else."""

import math
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models_and_trees import fact, small_model, small_tokenizer, tree
from jax.sharding import NamedSharding, PartitionSpec

from pretrainrl_jax.config import MineConfig
from pretrainrl_jax.mining.fingerprint import (
    PROBES,
    differences,
    fingerprint,
    probe_difference,
    probes,
    tokenizer_digest,
)
from pretrainrl_jax.model.checksums import checksums
from pretrainrl_jax.trees.templates import Template

FACTS = [fact(id="1"), fact(id="2", answers=("Rome", "Roma"))]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def provenance(tokenizer):
    model, params = small_model()
    return {
        "model": model,
        "params": params,
        "tokenizer": tokenizer,
        "template": Template("bare"),
        "facts": FACTS,
        "settings": asdict(MineConfig()),
    }


def changed(name, provenance, tmp_path):
    """The same with one thing changed a little."""
    if name == "params":
        leaves, shape = jax.tree.flatten(provenance["params"])
        place = (0,) * leaves[-1].ndim
        leaves[-1] = leaves[-1].at[place].set(jnp.nextafter(leaves[-1][place], 1e9))
        return jax.tree.unflatten(shape, leaves)
    return {
        "model": small_model(rope_theta=101.0)[0],
        "tokenizer": small_tokenizer(tmp_path, bos=True),
        "template": Template("few_shot", (("Who?", "I."),)),
        "facts": [FACTS[0], replace(FACTS[1], answers=("Rome",))],
        "settings": asdict(MineConfig(beams=17)),
    }[name]


def test_the_same_gives_the_same(provenance):
    assert differences(fingerprint(**provenance), fingerprint(**provenance)) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model", "model was"),
        ("params", "model was"),
        ("tokenizer", "tokenizer was"),
        ("template", "template was"),
        ("facts", "facts was"),
        ("settings", "mining settings: beams was 16, now 17"),
    ],
)
def test_each_difference_is_named(name, said, provenance, tmp_path):
    other = fingerprint(**(provenance | {name: changed(name, provenance, tmp_path)}))
    (difference,) = differences(fingerprint(**provenance), other)
    assert difference.startswith(said)


def test_checksums_are_a_sum_of_bits_times_odd_places():
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    bits = x.view(np.uint32).ravel().astype(object)  # Python's integers: no overflow in the oracle
    expected = sum(int(b) * (2 * i + 1) for i, b in enumerate(bits)) % 2**32
    assert checksums({"w": jnp.asarray(x)}) == {"['w']": expected}
    swapped = x.copy()
    swapped[0, 0, 0], swapped[2, 3, 4] = x[2, 3, 4], x[0, 0, 0]
    assert checksums({"w": jnp.asarray(swapped)}) != {"['w']": expected}


def test_checksums_do_not_depend_on_the_mesh():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.arange(24.0).reshape(4, 6)
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert checksums({"w": placed}) == checksums({"w": x})


def test_what_a_tokenizer_did_last_does_not_matter(tokenizer):
    before = tokenizer_digest(tokenizer)
    tokenizer.backend(["a", "a longer text"], padding=False, truncation=True, max_length=3)
    assert tokenizer_digest(tokenizer) == before


def test_probes_are_compared_in_nats():
    made = [tree(2, 2, 3, id=str(i)) for i in range(PROBES + 2)]
    known = probes(made)
    assert len(known) == PROBES
    assert known["0"] == [-1.0, -2.0]
    assert probe_difference(known, known) == 0
    assert probe_difference(known, known | {"1": [-1.0, -2.25]}) == 0.25
    assert probe_difference(known, {"0": [-1.0, -2.0]}) == math.inf
    assert probe_difference(known, known | {"1": [-1.0]}) == math.inf
    unscored = known | {"2": [math.nan, -2.0]}
    assert math.isnan(probe_difference(unscored, known))  # which no limit passes
