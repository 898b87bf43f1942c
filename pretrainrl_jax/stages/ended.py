"""What every stage that trains a system does at its end."""

import time

from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.training.checkpoints import Progress
from pretrainrl_jax.training.session import Session


def finish_training(context: Context, session: Session, done: Progress, began: float, passes: float) -> None:
    """Mark the stage of a session that has ended as finished, with what it took, and free its state.

    `done` is what `Session.finish` gave; `began` is when the stage did, by `time.perf_counter`.
    """
    context.finish(
        session.run.stage,
        device_seconds=done.seconds * context.mesh.size,
        seconds=time.perf_counter() - began,
        updates=session.global_step,
        passes=passes,
        skipped=done.skipped,
    )
    session.release()
