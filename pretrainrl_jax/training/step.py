"""One training step for every objective: a batch in, new parameters and metrics out."""

from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from pretrainrl_jax.config import OptimizerConfig
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.experts import balance_loss
from pretrainrl_jax.model.lora import join, split
from pretrainrl_jax.model.mesh import replicated, row_sharding
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.objectives.loss import Coefficients, temperature, total_loss
from pretrainrl_jax.objectives.scoring import anchor_logps, target_logps
from pretrainrl_jax.objectives.sums import branch_sums, count
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.trees.anchors import Anchored
from pretrainrl_jax.trees.batch import UNUSED, PackedBatch


class TrainState(NamedTuple):
    """Everything a step changes."""

    step: jax.Array  # int32, steps done
    params: Params  # float32 masters of what learns: all parameters, or adapters alone
    opt_state: Any  # the optimizer's state


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step. Parameters are copied: the step donates its state."""
    params = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def init_sharded_state(model: Model, params: Params, settings: OptimizerConfig, mesh: Mesh) -> TrainState:
    """`init_state` of what learns of a model on a mesh, each array laid as the step takes it."""
    begin = partial(init_state, optimizer=adamw(settings))
    _, trained = split(model.shape.lora, params)
    return jax.jit(begin, out_shardings=state_shardings(model, settings, mesh))(trained)


def train_step(
    model: Model,
    settings: OptimizerConfig,
    ntp_scale: str,
    state: TrainState,
    batch: PackedBatch | Anchored,
    coefficients: Coefficients,
    schedule: Schedule,
    frozen: Params = None,
    dpo_scale: str = "prompts",
    grpo_form: str = "dapo",
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step from a batch [microsteps, rows, …]. Pure; `compile_step` compiles it.

    What does not learn of the parameters is `frozen`, as `lora.split` gives it. Trees may have rows of anchor
    text beside them, which the term "anchor" reads. Of a mixture of experts the loss that balances them is
    added: over the real tokens of a microstep's trees, a prefix that branches share counted once, the mean
    over microsteps by tokens. Anchor text has no part in it.

    Every other denominator spans all microsteps and devices, so cutting a batch differently changes only
    rounding. Where the loss or a gradient is not finite, parameters and opt_state stay as they were and
    `skipped` is 1.
    """
    trees, anchors = batch if isinstance(batch, Anchored) else (batch, None)
    counts = count(trees, anchors)
    forms = {"ntp_scale": ntp_scale, "dpo_scale": dpo_scale, "grpo_form": grpo_form}

    def loss_of(trained: Params, micro: PackedBatch | Anchored) -> tuple[jax.Array, dict[str, jax.Array]]:
        params = join(frozen, trained)
        rows, beside = micro if isinstance(micro, Anchored) else (micro, None)
        logps, auxiliary = target_logps(model, params, rows, temperature(coefficients))
        anchored = beside and (beside, anchor_logps(model, params, beside))
        loss, metrics = total_loss(logps, rows, coefficients, counts, **forms, anchored=anchored)
        if not model.shape.experts:
            return loss, metrics
        balance = balance_loss(auxiliary) * (rows.tree_id > 0).sum() / (trees.tree_id > 0).sum()
        loss += model.shape.router_loss * balance
        return loss, metrics | {"loss": loss, "router_loss": balance}

    def microstep(micro: PackedBatch | Anchored) -> tuple[Params, dict[str, jax.Array]]:
        (_, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params, micro)
        return gradients, metrics

    microbatch = jax.tree.map(lambda x: x[0], batch)
    if trees.tokens.shape[0] == 1:
        gradients, metrics = microstep(microbatch)
    else:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(microstep, microbatch))
        (gradients, metrics), _ = jax.lax.scan(
            lambda total, micro: (_added(total, microstep(micro)), None), zeros, batch
        )

    norm = optax.global_norm(gradients)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
    keep_if_finite = partial(jnp.where, finite)
    direction, opt_state = adamw(settings).update(gradients, state.opt_state, state.params)
    rate = schedule.rate(state.step)
    params = jax.tree.map(lambda p, d: keep_if_finite(p - rate * d, p), state.params, direction)
    metrics = metrics | {
        "grad_norm": norm,
        "skipped": 1.0 - finite,
        "learning_rate": rate,
        "questions": counts.trees,
        "tokens": (trees.tree_id > 0).sum() + counts.anchor_tokens,
        "pad_fraction": 1 - (trees.tree_id > 0).mean(dtype=jnp.float32),
    }
    opt_state = jax.tree.map(keep_if_finite, opt_state, state.opt_state)
    return TrainState(state.step + 1, params, opt_state), metrics


def _added(total: tuple[Params, dict[str, Any]], part: tuple[Params, dict[str, Any]]) -> tuple[Params, Any]:
    """Gradients and metrics of the microsteps so far, with those of one more."""
    together = {name: jnp.maximum if name.endswith("_max") else jnp.add for name in total[1]}
    metrics = {name: both(total[1][name], part[1][name]) for name, both in together.items()}
    return jax.tree.map(jnp.add, total[0], part[0]), metrics


def state_shardings(model: Model, settings: OptimizerConfig, mesh: Mesh) -> TrainState:
    """Shardings of the training state: its moments lie where their parameters lie."""
    lora = model.shape.lora
    replicas, of_params = replicated(mesh), split(lora, parameter_shardings(model, mesh))[1]
    opt_state = jax.eval_shape(adamw(settings).init, split(lora, nn.unbox(model.abstract()))[1])
    opt_state_shardings = optax.tree_utils.tree_map_params(
        adamw(settings), lambda _, s: s, opt_state, of_params, transform_non_params=lambda _: replicas
    )
    return TrainState(replicas, of_params, opt_state_shardings)  # type: ignore[arg-type]


@cache
def compile_step(
    model: Model,
    settings: OptimizerConfig,
    ntp_scale: str,
    mesh: Mesh,
    dpo_scale: str = "prompts",
    grpo_form: str = "dapo",
) -> Any:
    """The compiled step: state donated, shardings explicit, coefficients and schedule traced.

    With adapters it is given `frozen` after them, which is not donated.
    The same arguments give the same function: a program for each set of terms and batch shape.
    """
    model = replace(model, mesh=mesh)
    shardings = state_shardings(model, settings, mesh)
    replicas, lora = replicated(mesh), model.shape.lora
    frozen = (split(lora, parameter_shardings(model, mesh))[0],) if lora else ()
    return jax.jit(
        partial(train_step, model, settings, ntp_scale, dpo_scale=dpo_scale, grpo_form=grpo_form),
        in_shardings=(shardings, row_sharding(mesh, leading=1), replicas, replicas, *frozen),
        out_shardings=(shardings, replicas),
        donate_argnums=0,
    )


@cache
def compile_references(model: Model, mesh: Mesh) -> Any:
    """Gives a batch [microsteps, rows, …] its references: log-probabilities of its branches under parameters.

    They never leave the devices. The same arguments give the same function.
    """
    model = replace(model, mesh=mesh)
    rows = row_sharding(mesh, leading=1)

    def with_references(params: Params, batch: PackedBatch) -> PackedBatch:
        def of_rows(micro: PackedBatch) -> jax.Array:
            return branch_sums(target_logps(model, params, micro)[0], micro)

        sums = jax.lax.map(of_rows, batch)
        return batch._replace(branch_reference=jnp.where(batch.branch_role != UNUSED, sums, jnp.nan))

    return jax.jit(with_references, in_shardings=(parameter_shardings(model, mesh), rows), out_shardings=rows)


@cache
def compile_token_logps(model: Model, mesh: Mesh) -> Any:
    """Gives of a batch [microsteps, rows, …] the log-probability of each target at a temperature.

    As the step computes them, float32 [microsteps, rows, targets], NaN on padding; they stay on the devices.
    """
    model = replace(model, mesh=mesh)
    rows = row_sharding(mesh, leading=1)

    def token_logps(params: Params, batch: PackedBatch, temperature: jax.Array) -> jax.Array:
        logps = jax.lax.map(lambda micro: target_logps(model, params, micro, temperature)[0], batch)
        return jnp.where(batch.source_index >= 0, logps, jnp.nan)

    in_shardings = parameter_shardings(model, mesh), rows, replicated(mesh)
    return jax.jit(token_logps, in_shardings=in_shardings, out_shardings=rows)
