"""What every stage that trains a system does at its end."""

import time

import jax

from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.training.session import Session


def finish_training(context: Context, session: Session, began: float, passes: float) -> None:
    """Write the result, mark the stage as finished with what it took, and free the state.

    `began` is when the stage did, by `time.perf_counter`.
    """
    done = session.finish()
    context.finish(
        session.run.stage,
        device_seconds=done.seconds * context.mesh.size,
        seconds=time.perf_counter() - began,
        updates=session.global_step,
        passes=passes,
        skipped=done.skipped,
    )
    jax.tree.map(lambda x: x.delete(), session.state)
