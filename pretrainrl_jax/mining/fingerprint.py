"""What mined data were made with, so that training never pairs them with another model or other facts."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.model.checksums import checksums, short_digest
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.shape import to_json
from pretrainrl_jax.trees.templates import Template
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, total

Json = dict[str, Any]
PROBES = 4  # trees whose log-probabilities are computed again before training
# Nats. Another packing rounds otherwise, and other hardware: of 400 trees of a small model the branch that
# moved most with the packing alone moved by 9e-6 in float32 and by 0.07 in bfloat16.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}


def fingerprint(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    template: Template,
    facts: Sequence[Fact],
    settings: Mapping[str, Any],
    identity: str = "",
) -> Json:
    """Short digests of everything that mined trees and their reference log-probabilities depend on.

    That is what mined and scored, training's template, the facts in their order, and mining's settings.
    """
    return made_by(model, params, tokenizer, identity) | {
        "template": short_digest(template.to_json()),
        "facts": short_digest([[f.id, f.question, f.answers, f.category, f.subject_key] for f in facts]),
        "mining settings": json.loads(json.dumps(settings)),
    }


def made_by(model: Model, params: Params, tokenizer: Tokenizer, identity: str = "") -> Json:
    """Short digests of a model and its tokenizer; `identity` stands for its parameters, where it has one."""
    model_digest = short_digest([to_json(model.shape), identity or checksums(params)])
    return {"model": model_digest, "tokenizer": tokenizer_digest(tokenizer)}


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """A digest of the vocabulary, the merges and the special ids."""
    backend = getattr(tokenizer.backend, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else {}
    # How the last batch was padded or cut is kept there too, and is not part of the tokenizer.
    rules = {name: value for name, value in rules.items() if name not in ("padding", "truncation")}
    vocabulary = sorted(tokenizer.backend.get_vocab().items())
    return short_digest([rules, vocabulary, tokenizer.bos, tokenizer.eos])


def probes(trees: Sequence[AnswerTree]) -> dict[str, list[float]]:
    """Reference log-probabilities of every branch of a few trees, to be computed again before training."""
    return {tree.id: [total(b.reference_logp) for b in tree.branches] for tree in trees[:PROBES]}


def differences(mined: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What the mined data were made with and training is not, one phrase each; empty where they fit."""
    phrases = []
    for name, value in now.items():
        before = mined.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            pairs = {key: (before.get(key), value.get(key)) for key in before | value}
            phrases += [f"{name}: {key} was {a!r}, now {b!r}" for key, (a, b) in pairs.items() if a != b]
        elif before != value:
            phrases.append(f"{name} was {before}, now {value}")
    return phrases


def probe_difference(mined: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]]) -> float:
    """The largest difference between probe log-probabilities, in nats; infinite where a probe is missing."""
    if mined.keys() != now.keys() or any(len(mined[k]) != len(now[k]) for k in now):
        return math.inf
    apart = [abs(a - b) for k in now for a, b in zip(mined[k], now[k], strict=True)]
    return float(np.max(apart, initial=0.0))  # NaN stays NaN
