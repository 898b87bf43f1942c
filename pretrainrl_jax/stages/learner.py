"""What every stage that trains a model has in common: how it begins, goes on, and ends."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrainrl_jax.config.stored import settings_of
from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.lora import lora_of
from pretrainrl_jax.model.shape import in_training
from pretrainrl_jax.stages.context import BASE, Context, Notes
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.checkpoints import Progress
from pretrainrl_jax.training.feed import Position
from pretrainrl_jax.training.loading import Loaded, with_adapters
from pretrainrl_jax.training.session import Run, Session, resume
from pretrainrl_jax.training.step import TrainState, compile_step, init_sharded_state
from pretrainrl_jax.trees.templates import Template


class Learner:
    """A model as a stage begins to train it, `policy`, described beside its checkpoints; `step` is jitted.

    Args:
        base: with the parameters that it takes over, which go on as `policy.plain`.
        about: what checkpoints depend on beside settings: data; and the model that adapters are for.
        template: how it is taught to be asked.
        adapters: with fresh ones, where lora.rank asks for some.
        told: what `Run` is told of the stage: `rate` and others.
    """

    def __init__(
        self,
        context: Context,
        stage: str,
        base: Loaded,
        about: Mapping[str, Any],
        template: Template,
        *,
        adapters: bool = True,
        ntp_scale: str = "token",
        dpo_scale: str = "prompts",
        grpo_form: str = "dapo",
        **told: Any,
    ) -> None:
        config, policy = context.config, base
        if adapters and (lora := lora_of(config.lora)):
            policy = with_adapters(base, lora, config.lora.base_dtype, context.training_seed)
            count = parameters(policy.model.shape)
            shown = f"{count.learned:,} of {count.total:,} parameters"
            context.screen.say(f"{stage}: adapters of rank {lora.rank} learn, {shown}")
        adapts = _adapts(context, policy)
        about = {**settings_of(config, stage), **about}
        self.context, self.policy = context, policy
        self.run = Run(
            context.workdir,
            stage,
            config.checkpoint,
            skip_nonfinite=config.optimizer.nonfinite == "skip",
            about=about | ({"model of the adapters": adapts["digest"]} if adapts else {}),
            screen=context.screen,
            command=context.command,
            profile=config.profile_steps,
            **told,
        )
        folder, model = self.run.folder, policy.model
        checkpoints.describe(folder, model, policy.tokenizer, template, policy.origin, adapts)
        # What is recomputed is this run's affair: a checkpoint says what the run recomputed that made it, and
        # digests of what was mined with it have that, whatever trains on it.
        model = replace(model, shape=in_training(model.shape, config.model))
        self.step = compile_step(model, config.optimizer, ntp_scale, context.mesh, dpo_scale, grpo_form)

    def first(self) -> TrainState:
        """The state before any step."""
        config, policy = self.context.config, self.policy
        return init_sharded_state(policy.model, policy.params, config.optimizer, self.context.mesh)

    def resume(self) -> tuple[TrainState, Progress]:
        """Where an interrupted run stopped, or the beginning; raises as `session.resume`."""
        return resume(self.run, self.first())

    def session(self, state: TrainState, progress: Progress, feed: Position, steps: int) -> Session:
        """The training of that state on the batches of a feed, so many steps in all."""
        frozen = self.policy.frozen
        return Session(self.run, self.step, state, progress, feed, self.context.mesh, steps, frozen)

    def finish(self, session: Session, done: Progress) -> Notes:
        """What the session of a stage took, and `done` as `Session.finish` gave it; frees its state."""
        session.release()
        return {
            "device_seconds": done.seconds * self.context.mesh.size,
            "updates": session.global_step,
            "skipped": done.skipped,
        }


def learner_of(context: Context, system: str, base: Loaded, about: Mapping[str, Any], **told: Any) -> Learner:
    """That of a system of `train.systems`, by its objective; arguments as `Learner` has them."""
    settings = context.config.train
    return Learner(
        context,
        f"train/{system}",
        base,
        about,
        context.template(settings.template),
        ntp_scale=settings.ntp_scale,
        dpo_scale=settings.dpo_scale,
        grpo_form=context.config.objectives[system].grpo.form,
        rate=f"objectives.{system}.learning_rate",
        scored=context.config.evaluate.choose != "last",
        **told,
    )


def _adapts(context: Context, policy: Loaded) -> dict[str, str]:
    """Which model the adapters of a policy are for: where it lies, and what tells it from others.

    Nothing of a policy without any.
    """
    if not policy.model.shape.lora:
        return {}
    config, path = context.config, context.config.model.path
    where = {"stage": BASE} if BASE in context.finished() else {}
    if path and not (where and config.pretrain.epochs):  # what the stage has is that as it is
        where["path"] = str(Path(path).absolute()) if Path(path).exists() else path
    return where | {"dtype": config.lora.base_dtype, "digest": policy.plain.digest}
