"""A pretrained model, stories260K, against transformers."""

from typing import Any, NamedTuple

import pytest
import torch
import transformers
from helpers.models_and_trees import data
from helpers.transformers_beams import TOLERANCE, Found, largest_difference, ours_of, theirs_of
from helpers.transformers_models import relative_error

import pretrainrl_jax as prl
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.trees.tokenization import Tokenizer

NAME = "stories260K"
UNENDING = ()  # no EOS: stories go on
TEXTS = ["", "Once upon a time, there was a dog", "Lily and Ben went to", "The sun was hot. The little bird"]


class Both(NamedTuple):
    """The same model twice, the prompts, and the story that ours goes on with after each."""

    theirs: Any
    model: Model
    params: Params
    tokenizer: Tokenizer
    prompts: list[tuple[int, ...]]
    told: Found


@pytest.fixture(scope="module")
def both() -> Both:
    folder = data("models", NAME)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    model, params, tokenizer = prl.load(folder)
    prompts = [tokenizer.start + tokens for tokens in tokenizer.encode_all(TEXTS)]
    told = ours_of(model, params, prompts, UNENDING, 1, 100)
    return Both(theirs, model, params, tokenizer, prompts, told)


def test_a_hundred_greedy_tokens(both, measured):
    wanted = theirs_of(both.theirs, both.prompts, UNENDING, 1, 100)
    for (ours,), (theirs,) in zip(both.told, wanted, strict=True):
        assert len(theirs.tokens) == 100
        assert len(set(theirs.tokens)) > 30  # no loop
        differing = sum(a != b for a, b in zip(ours.tokens, theirs.tokens, strict=True))
        measured(NAME, "100 greedy tokens: differing", differing, 0)
        measured(NAME, "beam search, K = 1: scores", abs(ours.logp - theirs.logp), TOLERANCE)
    assert both.tokenizer.decode(both.told[0][0].tokens).startswith("Once upon a time, there was")


def test_logits(both, measured):
    tokens = [both.prompts[0] + both.told[0][0].tokens]
    with torch.no_grad():
        wanted = both.theirs(torch.tensor(tokens)).logits.numpy()
    logits = both.model.logits(both.params, tokens)
    measured(NAME, "logits, plain sequences", relative_error(logits, wanted), 1e-5)


@pytest.mark.parametrize("beams", [5, 20])
def test_beams(both, beams, measured):
    """A full stop ends a beam."""
    ends = both.tokenizer.encode("a.")[-1:]
    assert both.tokenizer.decode(ends) == "."
    wanted = theirs_of(both.theirs, both.prompts, ends, beams, 30)
    decoded = ours_of(both.model, both.params, both.prompts, ends, beams, 30)
    for ours, theirs in zip(decoded, wanted, strict=True):
        assert all(h.finished for h in theirs)
        measured(NAME, f"beam search, K = {beams}: scores", largest_difference(ours, theirs), TOLERANCE)
