"""AdamW as PretrainRL uses it, with a learning rate that is an input of the compiled step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pretrainrl_jax.config import OptimizerConfig


class Schedule(NamedTuple):
    """Linear warm-up, then cosine: traced scalars, so that one program serves every rate."""

    peak: Any  # float32, learning rate at the end of the warm-up
    steps: Any  # float32, number of steps
    warmup: Any  # float32, share of them spent warming up
    final: Any  # float32, learning rate at the end, as a share of the peak

    def rate(self, step: jax.Array) -> jax.Array:
        """Learning rate of step `step`, counting from 0: the first is above 0, the last is peak * final."""
        rising = jnp.maximum(jnp.ceil(self.warmup * self.steps), 1.0)
        progress = (step + 1 - rising) / jnp.maximum(self.steps - rising, 1.0)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
        falling = self.final + (1 - self.final) * cosine
        return self.peak * jnp.where(step < rising, (step + 1) / rising, falling)


def _decayed(params: Any) -> Any:
    """True for matrices (embeddings and head included), False for the scales of norms and for biases."""
    return jax.tree.map_with_path(lambda path, _: not path[-1].key.endswith(("scale", "bias")), params)


def adamw(settings: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping, Adam and decoupled weight decay; the caller multiplies the updates by -learning rate."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.scale_by_adam(settings.beta1, settings.beta2),
        optax.add_decayed_weights(settings.weight_decay, _decayed),
    )
