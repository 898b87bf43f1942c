"""Logits against transformers: plain sequences, left-padded batches, cached decoding."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
from helpers.transformers_models import CASES, WINDOW, Case, as_ours, peer, relative_error

from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.decoder import KVCache, Model, Params, project

TOLERANCE = 1e-5
TIME, STEPS = 40, 8  # tokens of a prompt, and tokens decoded after it
PADDING = np.array([0, 36, 23])  # before each prompt: the shortest starts within a window
LENGTHS = TIME - PADDING


class Both(NamedTuple):
    """The same model twice."""

    case: Case
    theirs: Any
    model: Model
    params: Params


@pytest.fixture(scope="module", params=CASES, ids=str)
def both(request, tmp_path_factory) -> Both:
    case = request.param
    theirs = peer(case.family, **case.changes)
    return Both(case, theirs, *as_ours(theirs, tmp_path_factory.mktemp(str(case))))


def tokens_of(vocabulary: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, (len(PADDING), TIME + STEPS))


def logits_of(theirs, tokens) -> np.ndarray:
    with torch.no_grad():
        return theirs(torch.tensor(tokens)).logits.numpy()


@partial(jax.jit, static_argnums=0)
def logits_and_present(model, params, tokens, positions, mask, past=()):
    states = model.hidden(params, tokens, positions, mask, past)
    return project(states.hidden, model.head(params)), states[1:3]


@pytest.mark.parametrize("case", [c for c in CASES if c.without], ids=str)
def test_what_is_odd_about_a_model_changes_its_logits(case):
    odd = peer(case.family, **case.changes)
    plain = peer(case.family, **(case.changes | case.without))
    plain.load_state_dict(odd.state_dict(), strict=False)
    tokens = tokens_of(odd.config.vocab_size)
    assert relative_error(logits_of(odd, tokens), logits_of(plain, tokens)) > 0.05


def test_number_of_parameters(both):
    assert parameters(both.model.shape).total == both.theirs.num_parameters()


def test_logits_of_plain_sequences(both, measured):
    tokens = tokens_of(both.theirs.config.vocab_size)[:, :TIME]
    wanted = logits_of(both.theirs, tokens)
    assert wanted.std() > 1  # there is something to be wrong about
    logits, _ = ours_of(both, tokens, np.broadcast_to(np.arange(TIME), tokens.shape), tokens >= 0)
    measured(both.case.family, "logits, plain sequences", relative_error(logits, wanted), TOLERANCE)


def ours_of(both: Both, tokens, positions, present):
    """Logits, keys and values of sequences of which `present` bool [batch, time] is no padding."""
    mask = np.tril(np.ones((TIME, TIME), bool)) & present[:, None]
    return logits_and_present(both.model, both.params, tokens, positions, mask)


def left_padded(both: Both) -> tuple[np.ndarray, ...]:
    """Tokens, positions, and where there is no padding, bool, of prompts padded on the left."""
    tokens = tokens_of(both.theirs.config.vocab_size)[:, :TIME]
    positions = np.maximum(np.arange(TIME) - PADDING[:, None], 0)
    return tokens, positions, np.arange(TIME) >= PADDING[:, None]


def test_logits_of_left_padded_batches(both, measured):
    tokens, positions, present = left_padded(both)
    with torch.no_grad():
        wanted = both.theirs(
            torch.tensor(tokens),
            attention_mask=torch.tensor(present).long(),
            position_ids=torch.tensor(positions),
        ).logits.numpy()
    logits = np.asarray(ours_of(both, tokens, positions, present)[0])
    for row, mask in enumerate(present):
        error = relative_error(logits[row, mask], wanted[row, mask])
        measured(both.case.family, "logits, left-padded batches", error, TOLERANCE)


def test_logits_of_cached_decoding(both, measured):
    """A prompt in one pass, then tokens one by one. Our cache lies in no order: only positions tell it."""
    tokens, positions, present = left_padded(both)
    following = tokens_of(both.theirs.config.vocab_size)[:, TIME:]
    wanted = theirs_cached(both.theirs, tokens, positions, present, following)

    _, prefilled = ours_of(both, tokens, positions, present)
    place = np.random.default_rng(1).permutation(TIME + STEPS)
    caches = [np.zeros((*x.shape[:2], TIME + STEPS, *x.shape[3:]), np.float32) for x in prefilled]
    at, seen = np.zeros((len(tokens), TIME + STEPS), np.int32), np.zeros((len(tokens), TIME + STEPS), bool)

    def keep(slots, new, positions, present):
        for cache, entries in zip(caches, new, strict=True):
            cache[:, :, slots] = entries
        at[:, slots], seen[:, slots] = positions, present

    keep(place[:TIME], prefilled, positions, present)
    step_logits = []
    for step in range(STEPS):
        token, position = following[:, step : step + 1], (LENGTHS + step)[:, None]
        past = KVCache(*(c.copy() for c in caches), mask=seen[:, None].copy(), positions=at.copy())
        alone = np.ones((len(tokens), 1, 1), bool)
        logits, new = logits_and_present(both.model, both.params, token, position, alone, (past,))
        step_logits.append(logits)
        keep(place[[TIME + step]], new, position, True)
    error = relative_error(np.concatenate(step_logits, 1), wanted)
    measured(both.case.family, "logits, cached decoding", error, TOLERANCE)


def theirs_cached(theirs, tokens, positions, present, following) -> np.ndarray:
    """Logits [batch, STEPS, vocabulary] of the tokens that follow the prompt."""
    mask = torch.tensor(present).long()
    logits = []
    with torch.no_grad():
        out = theirs(
            torch.tensor(tokens), attention_mask=mask, position_ids=torch.tensor(positions), use_cache=True
        )
        for step in range(STEPS):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            out = theirs(
                torch.tensor(following[:, step : step + 1]),
                attention_mask=mask,
                position_ids=torch.tensor((LENGTHS + step)[:, None]),
                past_key_values=out.past_key_values,
                use_cache=True,
            )
            logits.append(out.logits.numpy())
    return np.concatenate(logits, 1)


def test_the_window_moves_past_the_start_while_decoding():
    """Of one prompt before decoding, of one while decoding."""
    assert max(LENGTHS) > WINDOW
    assert min(LENGTHS) < WINDOW < min(LENGTHS) + STEPS
