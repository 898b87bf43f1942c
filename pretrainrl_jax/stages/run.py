"""`run`: every stage in order; what is finished is skipped."""

from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.material import evaluate, mine
from pretrainrl_jax.stages.pretrain import pretrain
from pretrainrl_jax.stages.report import report
from pretrainrl_jax.stages.train import train


def run(context: Context) -> None:
    """A base model, its falsehoods, the systems trained against them, and what came of it."""
    every_stage(context)
    run_on_process_0(lambda: report(context.workdir), "writing the report")


def every_stage(context: Context) -> None:
    """All but the report."""
    for stage, work in ((BASE, pretrain), ("mine", mine)):
        if not context.done(stage):
            work(context)
    train(context)
    evaluate(context)
