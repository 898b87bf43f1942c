"""What follows by plain forward passes, and terminators as the searches take them."""

import numpy as np

TIME = 16  # prompts and what grows from them fit in this many tokens


def next_logps(model, params, sequences, time=TIME) -> np.ndarray:
    """Log-probabilities [sequences, vocabulary] of what follows, by plain forward passes without a cache."""
    padded = np.zeros((-(-len(sequences) // 64) * 64, time), np.int32)
    for row, tokens in zip(padded, sequences, strict=False):
        row[: len(tokens)] = tokens
    logits = np.concatenate([model.logits(params, part) for part in np.split(padded, len(padded) // 64)])
    last = np.array([logits[i, len(tokens) - 1] for i, tokens in enumerate(sequences)], np.float64)
    last -= last.max(-1, keepdims=True)
    return last - np.log(np.exp(last).sum(-1, keepdims=True))


def mask_of(terminators, vocabulary) -> np.ndarray:
    mask = np.zeros(vocabulary, bool)
    mask[list(terminators)] = True
    return mask
