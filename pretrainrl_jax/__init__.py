"""PretrainRL in JAX: take hallucination out of language models at the beginning, in pretraining.

import pretrainrl_jax as prl
model, params, tokenizer = prl.load(path)
logits = model.logits(params, tokens)
found = prl.beam_search(model, params, tokenizer, prompts, beams=20, max_new_tokens=16)
drawn = prl.sample(model, params, tokenizer, prompts, samples=16, temperature=1.0)
logps = prl.score(model, params, tokenizer, prompts, continuations)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretrainrl_jax.api import beam_search, load, sample, score

__all__ = ["beam_search", "load", "sample", "score"]


def __getattr__(name: str) -> Any:
    # Loaded when first used, so that a mistyped option is reported before JAX is imported.
    if name in __all__:
        from pretrainrl_jax import api

        return getattr(api, name)
    raise AttributeError(f"module 'pretrainrl_jax' has no attribute {name!r}")
