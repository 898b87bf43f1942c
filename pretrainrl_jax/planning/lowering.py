"""The stages' own programs, lowered for a mesh of devices from shapes alone: no array is made."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pretrainrl_jax.config import OptimizerConfig
from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.sampling import sample
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.lora import join, split
from pretrainrl_jax.model.mesh import replicated, round_up_rows, row_sharding
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.objectives.loss import Coefficients
from pretrainrl_jax.objectives.scoring import score_endings, score_rows
from pretrainrl_jax.planning.planned import Decoding, Scoring, Step
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.training.step import (
    compile_references,
    compile_step,
    compile_token_logps,
    init_state,
)
from pretrainrl_jax.trees.anchors import FIELD_SPECS as ANCHOR_SPECS
from pretrainrl_jax.trees.anchors import AnchorBatch, Anchored
from pretrainrl_jax.trees.batch import FIELD_SPECS, PackedBatch
from pretrainrl_jax.trees.packing import Capacity


@dataclass(frozen=True)
class Lowering:
    """Programs of one model on one mesh. What is jitted is known to be: type checkers see what is within."""

    model: Model
    mesh: Mesh
    optimizer: OptimizerConfig
    stored: str = "float32"  # dtype of the parameters that do not learn

    def step(
        self,
        load: Step,
        holds: Capacity,
        coefficients: Coefficients,
        ntp_scale: str = "token",
        dpo_scale: str = "prompts",
        grpo_form: str = "dapo",
        top: int = 0,
    ) -> Any:
        """A training step. Of a second kind of rows, anchor text, `top` tokens are kept of each place."""
        step = compile_step(self.model, self.optimizer, ntp_scale, self.mesh, dpo_scale, grpo_form)
        frozen, learned = split(self.model.shape.lora, nn.unbox(self.model.abstract()))
        state = jax.eval_shape(partial(init_state, optimizer=adamw(self.optimizer)), learned)
        rows, *beside = load.packed
        batch: Any = self._packed(rows.rows, holds, load.microsteps, rows.sequences)
        if beside:
            sizes = {"time": beside[0].time, "top": top}
            anchors = self._arrays(ANCHOR_SPECS, sizes, beside[0].rows, load.microsteps)
            batch = Anchored(batch, AnchorBatch(*anchors))
        number = jax.ShapeDtypeStruct((), jnp.float32)
        traced = jax.tree.map(lambda _: number, {term: dict(each) for term, each in coefficients.items()})
        stays = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, self.stored), frozen)
        beside_it = (stays,) if frozen else ()
        return step.lower(state, batch, traced, Schedule(number, number, number, number), *beside_it)

    def kept_logps(self, load: Scoring, holds: Capacity, of_tokens: bool) -> Any:
        """Log-probabilities of a batch's branches, or of their tokens, which stay on the devices."""
        given: Any = self._parameters, self._packed(load.rows, holds, load.microsteps)
        if of_tokens:
            temperature = jax.ShapeDtypeStruct((), jnp.float32)
            return compile_token_logps(self.model, self.mesh).lower(*given, temperature)
        return compile_references(self.model, self.mesh).lower(*given)

    def scoring(self, load: Scoring, holds: Capacity, ends: bool) -> Any:
        """Log-probabilities of branches, and with `ends` their probabilities as answers."""
        batch, given = self._packed(load.rows, holds, None), (self._vector(jnp.bool_),) * ends
        score = score_endings if ends else score_rows
        return cast(Any, score).lower(self.model, self._parameters, batch, *given)

    def decoding(self, load: Decoding) -> Any:
        """Beam search, or sampling."""
        prompts = self._row_array(load.rows, load.time), self._row_array(load.rows)
        given = self.model, self._parameters, *prompts, self._vector(jnp.bool_)
        if not load.sampled:
            widths = {"beams": load.branches, "max_new_tokens": load.new}
            return cast(Any, beam_search).lower(*given, starts=self._row_array(load.rows), **widths)
        key = jax.eval_shape(jax.random.key, 0)
        scalar = partial(jax.ShapeDtypeStruct, (), sharding=replicated(self.mesh))
        return cast(Any, sample).lower(
            *given,
            jax.ShapeDtypeStruct((load.rows,), key.dtype, sharding=replicated(self.mesh)),
            samples=load.branches,
            max_new_tokens=load.new,
            temperature=scalar(jnp.float32),
            top_p=scalar(jnp.float32),
            top_k=scalar(jnp.int32),
        )

    @cached_property
    def _parameters(self) -> Any:
        lora = self.model.shape.lora

        def placed(params: Any, shardings: Any, dtype: str) -> Any:
            return jax.tree.map(
                lambda x, sharding: jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding), params, shardings
            )

        params, shardings = nn.unbox(self.model.abstract()), parameter_shardings(self.model, self.mesh)
        if lora is None:
            return placed(params, shardings, self.stored)
        parts = zip(split(lora, params), split(lora, shardings), (self.stored, "float32"), strict=True)
        return join(*(placed(*part) for part in parts))

    def _packed(
        self, rows: int, holds: Capacity, microsteps: int | None, sequences: bool = False
    ) -> PackedBatch:
        """Of a batch [microsteps, rows, …], or [rows, …] where None; rows in all."""
        sharding = row_sharding(self.mesh, leading=microsteps is not None)
        batch = PackedBatch(*self._arrays(FIELD_SPECS, holds._asdict(), rows, microsteps, sharding=sharding))
        return batch._replace(branch_id=None) if sequences else batch

    def _arrays(
        self, specs: Iterable[tuple[str, float]], sizes: Mapping[str, int], rows: int,
        microsteps: int | None, **placed: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """A batch's arrays, by axes beside microsteps and rows, and what fills them."""
        leading = () if microsteps is None else (microsteps,)
        of_microstep = round_up_rows(self.mesh, -(-rows // (microsteps or 1)))
        for axes, fill in specs:
            kind = jnp.float32 if isinstance(fill, float) else jnp.int32
            shape = (*leading, of_microstep, *(sizes[axis] for axis in axes.split()))
            yield jax.ShapeDtypeStruct(shape, kind, **placed)

    def _row_array(self, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct(sizes, jnp.int32, sharding=row_sharding(self.mesh))

    def _vector(self, dtype: Any) -> Any:
        shape = (self.model.shape.vocabulary,)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(self.mesh))
