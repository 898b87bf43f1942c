from types import SimpleNamespace

import jax.numpy as jnp

from pretrainrl_jax.training.session import Session


def test_a_metric_that_no_term_gives_is_not_shown():
    run = SimpleNamespace(shown={"loss": "loss", "false": "logp_negative"})
    session = SimpleNamespace(run=run, _beside={"kept": 2.0})
    assert Session._shown(session, {"loss": jnp.float32(1.5)}) == {"loss": 1.5, "kept": 2.0}
