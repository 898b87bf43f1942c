"""The same policy and reference twice, as transformers' models and as ours; and their gradients."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from helpers.models_and_trees import small_tokenizer
from helpers.transformers_models import as_ours, peer

from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.trees.tokenization import Tokenizer


class Both(NamedTuple):
    """The same policy and reference twice."""

    family: str
    policy: Any
    reference: Any
    model: Model
    params: Params
    reference_params: Params
    tokenizer: Tokenizer


def made(family: str, folder: Path, reference_seed: int = 1, bos: bool = False) -> Both:
    tokenizer = small_tokenizer(folder / "tokenizer", bos=bos)
    vocabulary = {"vocab_size": tokenizer.size + 5}
    policy = peer(family, 1.0, **vocabulary)
    reference = peer(family, 1.0, reference_seed, **vocabulary)
    model, params = as_ours(policy, folder / "policy")
    _, reference_params = as_ours(reference, folder / "reference")
    return Both(family, policy, reference, model, params, reference_params, tokenizer)


def gradients_of(trainer: Any, both: Both, folder: Path) -> Params:
    """Their gradients under our names: saved and read as if they were weights."""
    carrier = copy.deepcopy(both.policy)
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    with torch.no_grad():
        for name, weight in carrier.named_parameters():
            weight.copy_(gradients[name])
    return as_ours(carrier, folder)[1]
