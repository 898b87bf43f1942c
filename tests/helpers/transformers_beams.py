"""Beam search as `generate` of transformers does it and as ours does, and how the two are compared."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers import LogitsProcessor, LogitsProcessorList

from pretrainrl_jax.decoding.decode import decode
from pretrainrl_jax.decoding.decoded import Decoded
from pretrainrl_jax.model.decoder import Model, Params

TOLERANCE = 1e-4  # nats; two beams closer than that may change places
Found = list[list[Decoded]]  # of each prompt
Tokens = Sequence[int]


class OneEnd(LogitsProcessor):
    """Our rule in their search: a beam ends with its most probable EOS id alone."""

    def __init__(self, ends: Tokens):
        self.ends = list(ends)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best = scores[:, self.ends].argmax(-1, keepdim=True)
        kept = scores[:, self.ends].gather(-1, best)
        scores[:, self.ends] = torch.full_like(scores[:, self.ends], -torch.inf).scatter(-1, best, kept)
        return scores


def theirs_of(
    theirs: Any,
    prompts: Sequence[Tokens],
    ends: Tokens,
    beams: int,
    limit: int,
    stopping: bool | str = "never",
    processors: Iterable[LogitsProcessor] = (),
) -> Found:
    """What `generate` finds for a left-padded batch of prompts."""
    transformers.utils.logging.set_verbosity_error()
    time = max(len(p) for p in prompts)
    search = {"length_penalty": 0.0, "early_stopping": stopping} if beams > 1 else {}
    out = theirs.generate(
        torch.tensor([[0] * (time - len(p)) + list(p) for p in prompts]),
        attention_mask=torch.tensor([[0] * (time - len(p)) + [1] * len(p) for p in prompts]),
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=list(ends),
        pad_token_id=0,
        logits_processor=LogitsProcessorList(processors),
        return_dict_in_generate=True,
        output_scores=True,
        **search,
    )
    new = out.sequences[:, time:].tolist()
    if beams > 1:
        scores = out.sequences_scores.tolist()
    else:  # greedy decoding gives the logits of each step instead
        steps = theirs.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
        scores = [sum(each[: length(row, ends) + 1]) for row, each in zip(new, steps.tolist(), strict=True)]
    beams_of_all = [
        Decoded(tuple(row[: length(row, ends)]), score, score, length(row, ends) < len(row))
        for row, score in zip(new, scores, strict=True)
    ]
    return [beams_of_all[i : i + beams] for i in range(0, len(beams_of_all), beams)]


def length(row: Tokens, ends: Tokens) -> int:
    """Tokens before the first terminator."""
    return next((i for i, token in enumerate(row) if token in ends), len(row))


def ours_of(
    model: Model, params: Params, prompts: Sequence[Tokens], ends: Tokens, beams: int, limit: int
) -> Found:
    """What our search finds."""
    mask = np.isin(np.arange(model.shape.vocabulary), ends)
    return decode(model, params, prompts, mask, beams=beams, max_new_tokens=limit, batch=len(prompts))


def largest_difference(beams: list[Decoded], wanted: list[Decoded]) -> float:
    """Of scores in the same place. Asserts the same sequences in the same order, up to ties."""
    scores = {h.tokens: h.logp for h in wanted}
    assert {h.tokens for h in beams} == set(scores)
    for ours, theirs in zip(beams, wanted, strict=True):
        assert ours.tokens == theirs.tokens or abs(scores[ours.tokens] - theirs.logp) < TOLERANCE
        assert ours.finished == theirs.finished
    return max((abs(a.logp - b.logp) for a, b in zip(beams, wanted, strict=True)), default=0.0)
