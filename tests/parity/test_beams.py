"""Beam search against `generate` of transformers, as its generation/utils.py has it in version 5.23.

With `length_penalty=0` both rank by summed log-probability, and both stop a question when no live beam can
still beat the worst of K ended ones: `early_stopping` "never" and False are then one rule. What differs:

- several EOS ids: theirs makes a hypothesis of each; ours ends a beam once, with its most probable one;
- the length limit: theirs ranks beams that are still alive among the ended ones by score; ours puts them
  last, in the places that are left;
- K = 1: theirs is another function, greedy decoding; ours is the same search.
"""

from typing import Any, NamedTuple

import pytest
import torch
from helpers.transformers_beams import TOLERANCE, OneEnd, largest_difference, ours_of, theirs_of
from helpers.transformers_models import FAMILIES, as_ours, peer

from pretrainrl_jax.model.decoder import Model, Params

EOS = (3, 11)
LIMIT = 20
PROMPTS = (
    (44, 9, 27),
    (21, 48, 5, 2, 30, 12, 38, 6, 16),
    (51, 18, 0, 7, 33, 33, 14, 42, 25, 1, 36, 8, 47, 29),
    (10, 52, 4, 39, 23, 15, 46, 2, 31, 20, 50, 13, 7, 28, 41, 19),
)
# Of each family a random model whose beams all end within the limit, with one EOS id and with both.
SEEDS = {"qwen3": 10, "qwen2": 23, "llama2": 2, "llama3": 43, "mistral": 6, "olmo2": 11}
SEEDS |= {"gemma3_text": 0, "mixtral": 0, "olmoe": 0, "qwen3_moe": 8}


class Both(NamedTuple):
    """The same model twice."""

    family: str
    theirs: Any
    model: Model
    params: Params


def sharp_peer(family: str) -> Any:
    """Peaked logits, and EOS that comes soon. Where one EOS id is likely the other is not."""
    theirs = peer(family, 3.0, SEEDS[family], tie_word_embeddings=False)
    eos, second = EOS
    with torch.no_grad():
        theirs.lm_head.weight[eos] *= 3
        theirs.lm_head.weight[second] = -theirs.lm_head.weight[eos]
    return theirs


# A compilation for each width takes seconds: 1 and 20 beams are searched in few families.
WIDTHS = dict.fromkeys(FAMILIES, (5,)) | {"qwen3": (1, 5, 20), "mistral": (5, 20)}


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory) -> Both:
    theirs = sharp_peer(request.param)
    return Both(request.param, theirs, *as_ours(theirs, tmp_path_factory.mktemp(request.param)))


def test_logits_are_peaked(both):
    with torch.no_grad():
        logits = both.theirs(torch.tensor([PROMPTS[-1]])).logits
    assert logits.softmax(-1).amax(-1).mean() > 0.5


@pytest.mark.parametrize(
    ("both", "beams"), [(f, k) for f, widths in WIDTHS.items() for k in widths], indirect=["both"]
)
def test_the_same_sequences_in_the_same_order_with_the_same_scores(both, beams, measured):
    for ends in [EOS[:1], EOS]:
        wanted = theirs_of(both.theirs, PROMPTS, ends, beams, LIMIT)
        decoded = ours_of(both.model, both.params, PROMPTS, ends, beams, LIMIT)
        lengths = {len(h.tokens) for hypotheses in wanted for h in hypotheses}
        assert len(lengths) > 2
        assert min(lengths) < 3  # some end early
        for ours, theirs in zip(decoded, wanted, strict=True):
            assert len({h.tokens for h in theirs if h.finished}) == beams  # all have ended, none twice
            error = largest_difference(ours, theirs)
            measured(both.family, f"beam search, K = {beams}: scores", error, TOLERANCE)


# Where the two differ


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Both:
    theirs = sharp_peer("qwen3")
    return Both("qwen3", theirs, *as_ours(theirs, tmp_path_factory.mktemp("one")))


def test_never_and_false_are_one_rule_of_theirs_and_true_is_another(one):
    never, false, true = (
        theirs_of(one.theirs, PROMPTS, EOS, 5, LIMIT, stopping) for stopping in ("never", False, True)
    )
    assert never == false
    assert never != true


def test_an_answer_that_ends_in_two_ways_is_two_of_theirs_and_one_of_ours(tmp_path, measured):
    theirs = sharp_peer("qwen3")
    eos, second = EOS
    with torch.no_grad():
        nearly = theirs.lm_head.weight[eos] + 0.02 * theirs.lm_head.weight[second + 1]
        theirs.lm_head.weight[second] = nearly
    model, params = as_ours(theirs, tmp_path)
    twice = theirs_of(theirs, PROMPTS, EOS, 5, LIMIT)
    assert any(len({h.tokens for h in hypotheses}) < 5 for hypotheses in twice)
    wanted = theirs_of(theirs, PROMPTS, EOS, 5, LIMIT, processors=[OneEnd(EOS)])
    for ours, expected in zip(ours_of(model, params, PROMPTS, EOS, 5, LIMIT), wanted, strict=True):
        assert all(h.finished for h in expected)
        measured("qwen3", "beam search, K = 5: scores", largest_difference(ours, expected), TOLERANCE)


def test_at_the_length_limit_theirs_ranks_by_score_and_ours_puts_unfinished_beams_last(one):
    outranked = 0
    wanted = theirs_of(one.theirs, PROMPTS, EOS[:1], 5, limit=4)
    for ours, theirs in zip(
        ours_of(one.model, one.params, PROMPTS, EOS[:1], 5, limit=4), wanted, strict=True
    ):
        ended, alive = ([h for h in ours if h.finished == end] for end in (True, False))
        their_ended, their_alive = ([h for h in theirs if h.finished == end] for end in (True, False))
        assert ours == ended + alive
        assert len(ended) >= len(their_ended)
        largest_difference(ended[: len(their_ended)], their_ended)
        largest_difference(alive, their_alive[: len(alive)])
        outranked += len(ended) - len(their_ended)
    assert outranked
