"""Small models, trees and tokenizers, and where real data lie: what several rooms' tests share."""

import json
import math
import os
from functools import cache
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from tokenizers import processors

from pretrainrl_jax.config import Config, FactsConfig
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.vocabulary import save_tokenizer, train_tokenizer
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.trees.tokenization import Tokenizer, load_tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Pair

# Letters of one to four bytes. All of Unicode takes hypothesis seconds where it has cached nothing yet.
LETTERS = "ab Z?.\n\u00e9\u0301\u5317\U0001f30d"
LLAMA3 = {  # rotary embedding as Llama 3.1 scales it, in effect on short sequences too
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
END = 99  # the terminator of every branch that `trees` makes; stands nowhere else


def data(*parts: str) -> Path:
    """A path under the folder of real data; skips the test where that is not here."""
    root = os.environ.get("PRETRAINRL_DATA")
    if not root:
        pytest.skip("PRETRAINRL_DATA is not set, so there are no real data")
    path = Path(root, *parts)
    if not path.exists():
        pytest.skip(f"PRETRAINRL_DATA holds no {'/'.join(parts)}")
    return path


def read_popqa(path: str | Path) -> list[Fact]:
    """The facts of a PopQA file, one for each row."""
    return read_facts(Config(facts=FactsConfig(path=str(path), format="tsv", duplicates="keep"))).facts


def small_shape(**changes) -> ModelShape:
    """Two layers of width 16 with grouped queries and a head of its own."""
    values = {
        "family": "qwen3",
        "vocabulary": 100,
        "d_model": 16,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "d_ff": 24,
        "rope_theta": 100.0,
        "norm_epsilon": 1e-6,
        "tied": False,
    }
    return ModelShape(**(values | changes))


@cache
def small_model(seed: int = 0, sharpness: float = 1.0, **changes) -> tuple[Model, Params]:
    """A random model, made once (and compiling nothing). A sharp one is surer of its next token.

    Norms are random too, or a norm left out would go unnoticed.
    """
    model = Model(small_shape(**changes))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = sharpness if "head" in name else 1.0
        return (spread * model.shape.d_model**-0.5 * rng.normal(size=leaf.shape)).astype(np.float32)

    return model, jax.tree.map(jnp.asarray, jax.tree.map_with_path(draw, nn.unbox(model.abstract())))


def small_tokenizer(folder: Path, bos: bool = False) -> Tokenizer:
    """A byte-level tokenizer as Qwen's, learnt from a few words; `bos` adds a token before every text."""
    backend = train_tokenizer(["What is the capital of Arno? Florence.\n\n Rome"], 300)
    if bos:
        backend.add_special_tokens(["<s>"])
        special = ("<s>", backend.token_to_id("<s>"))
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[special])
    save_tokenizer(backend, folder)
    if bos:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<s>"}))
    return load_tokenizer(folder)


def fact(answers=("Florence",), **changes) -> Fact:
    """A fact about the Arno."""
    values = {
        "id": "1",
        "question": "What is the capital of Arno?",
        "category": "capital",
        "subject": "Arno",
        "subject_key": "Q1",
        "popularity": 1.0,
        "row": 2,
    }
    return Fact(answers=tuple(answers), **(values | changes))


def tree(prefix: int, *branches: int, id: str = "0", start: int = 1) -> AnswerTree:
    """A tree of distinct tokens counted from `first`, the first branch chosen; sizes include END."""
    made = []
    token = start + prefix
    for number, size in enumerate(branches):
        tokens = (*range(token, token + size - 1), END)
        made.append(Branch(tokens, "rejected" if number else "chosen", reference_logp=-float(number + 1)))
        token += size - 1
    return AnswerTree(id, tuple(range(start, start + prefix)), tuple(made))


_tokens = st.integers(1, END - 1)
_logps = st.one_of(st.just(math.nan), st.floats(-50, 0, width=32))


@st.composite
def trees(draw: st.DrawFn) -> AnswerTree:
    """Any tree of up to about 25 tokens: with and without prefix, any roles, pairs named or not."""
    count = draw(st.integers(1, 4))
    prefix = tuple(draw(st.lists(_tokens, max_size=5)))
    branches = []
    for _ in range(count):
        tokens = (*draw(st.lists(_tokens, max_size=4)), END)
        of_each = st.lists(_logps, min_size=len(tokens), max_size=len(tokens)).map(tuple)
        branches.append(
            Branch(
                tokens,
                draw(st.sampled_from(("chosen", "rejected", "candidate", "anchor"))),
                draw(st.text(LETTERS, max_size=3)),
                draw(st.sampled_from((1.0, 0.5, 3.0))),
                draw(_logps),
                draw(st.one_of(_logps, of_each)),
                draw(st.one_of(_logps, of_each)),
                draw(st.sampled_from(("", "beam"))),
            )
        )
    place = st.integers(0, count - 1)
    pairs = st.builds(Pair, place, place, st.sampled_from((1.0, 0.0, 2.5)))
    named = draw(st.one_of(st.none(), st.lists(pairs, max_size=3).map(tuple)))
    return AnswerTree(draw(st.text("abc", min_size=1, max_size=3)), prefix, tuple(branches), named)
