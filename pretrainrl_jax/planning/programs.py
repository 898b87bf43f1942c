"""The programs that a configuration's stages compile, as shapes: nothing is read, no array is made."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pretrainrl_jax.config import Config, MethodConfig, ObjectiveConfig
from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.decode import bucket
from pretrainrl_jax.decoding.sampling import sample
from pretrainrl_jax.improvement.cost import cost_of, rollout_count
from pretrainrl_jax.improvement.learning import coefficients as coefficients_of
from pretrainrl_jax.model.attention import Kernel, TreeRows, can_use_splash
from pretrainrl_jax.model.cost import flops
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import replicated, round_up_rows, row_sharding, row_shards
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.objectives.loss import asks
from pretrainrl_jax.objectives.scoring import score_endings
from pretrainrl_jax.planning.by_hand import ByHand, Packed
from pretrainrl_jax.planning.typical import PROMPTS, Questions, trees, visible
from pretrainrl_jax.planning.work import BFLOAT16, Operation, Work
from pretrainrl_jax.stages.context import SCORED_ROWS
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.training.step import compile_references, compile_step, init_state
from pretrainrl_jax.trees.anchors import FIELD_SPECS as ANCHOR_SPECS
from pretrainrl_jax.trees.anchors import AnchorBatch, Anchored
from pretrainrl_jax.trees.batch import FIELD_SPECS, PackedBatch
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.packing import Capacity, capacity, plan, rounded
from pretrainrl_jax.trees.tree import AnswerTree, chosen_only

DOCUMENT = 600  # tokens of a document, where documents are packed into longer rows: about a web page's
SAMPLES_SCORED = 512  # trees that stand for all that are scored
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Program:
    """One compiled program, and how much of it a run is."""

    name: str
    section: str  # of the settings that say how much it computes at a time; "" where none does
    lower: Callable[[], Any]  # what XLA is to compile, for the mesh
    rows: int  # of all chips together: packed rows, or prompts
    time: int  # tokens of a row, or of a prompt
    tokens: float  # of an execution, without padding
    counted: float  # FLOPs of the model an execution, all chips, causal attention halved, nothing twice
    executions: float  # of the whole run
    updates: float = 0.0  # of a system, where it is a training step
    resident: float = 0.0  # bytes a chip has beside the program's own arguments
    cache: float = 0.0  # bytes a chip, of keys and values while decoding
    saved: float = 0.0  # bytes a chip, of activations that the backward pass reads
    turns: int = 1  # of the decoding loop, which may end earlier
    kernels: tuple[Operation, ...] = ()  # on a chip, which no compiled text tells: of attention
    # Where it cannot be compiled (`planning.by_hand`): a chip's work, and the bytes it makes for itself.
    by_hand: Callable[[], Work] = lambda: Work((), ())
    working: Callable[[], float] = float


@dataclass(frozen=True)
class Planned:
    """What a configuration runs on a mesh."""

    shape: ModelShape
    mesh: Mesh
    programs: tuple[Program, ...]
    parameters: float  # bytes a chip: float32 masters
    optimizer: float  # bytes a chip: both moments
    verdicts: int = 0  # asked of a judging model
    verdict_tokens: int = 0  # that it reads, about


def planned(
    config: Config, shape: ModelShape, judge: ModelShape | None, asked: Questions, mesh: Mesh, kernel: Kernel
) -> Planned:
    """Every program of a configuration: its stages' own, with their shapes, shardings and flags.

    Args:
        config: the configuration.
        shape: of the model that is trained.
        judge: of the model that judges, if one does.
        asked: questions that are trained.
        mesh: of the devices to plan for.
        kernel: of attention there.
    """
    model = Model(shape, mesh, kernel)
    work = _Work(config, model, mesh)
    improves = bool(config.judge.path) or (config.documents.path and config.pretrain.text == "corpus")
    programs: list[Program] = []
    verdicts = 0
    if config.pretrain.epochs and (config.pretrain.text == "documents" or not config.model.path):
        programs.append(work.pretraining())
    if improves:
        judge_bytes = _bytes_a_chip(Model(judge, mesh, kernel), mesh) if judge else 0.0
        for name in config.selfimprove.systems:
            programs += work.improvement(name, config.methods[name], judge_bytes)
        judged = [config.methods[name] for name in config.selfimprove.systems]
        steps = config.selfimprove.steps
        verdicts = sum(cost_of(config, method, steps).verdicts for method in judged if method.judged)
    else:
        programs += work.facts(asked)
    shown = config.judge.prefix_tokens or config.selfimprove.length - config.selfimprove.suffix
    of_verdict = shown + 2 * config.selfimprove.suffix
    return Planned(
        shape,
        mesh,
        tuple(programs),
        work.parameter_bytes,
        2 * work.parameter_bytes,
        verdicts,
        verdicts * of_verdict,
    )


class _Step(NamedTuple):
    """A training step: what a program of one has beside its name and how often it runs."""

    lower: Callable[[], Any]
    by_hand: Callable[[], Work]
    working: Callable[[], float]


class _Work:
    """Programs of one model on one mesh."""

    def __init__(self, config: Config, model: Model, mesh: Mesh) -> None:
        self._config, self._model, self._mesh = config, model, mesh
        self.parameter_bytes = _bytes_a_chip(model, mesh)
        self._hand = ByHand.on(model.shape, mesh, model.kernel)

    def pretraining(self) -> Program:
        """Documents in packed rows."""
        config, settings = self._config, self._config.pretrain
        rows, time = settings.rows, settings.row_length
        branches = time if config.pretrain.text == "documents" else max(16, 2 * time // DOCUMENT)
        holds = rounded(time, time, time, branches, 0)
        tokens = float(rows * time)
        cost = flops(self._model.shape, (time + 1) / 2)  # as if a row were one text: the usual count
        microsteps = settings.grad_accum_steps
        step = self._step("token", {"ntp": {"answer": 1.0}}, rows, holds, microsteps, sequences=True)
        steps = float(settings.steps)
        counted = 3 * tokens * cost.total
        return self._trained(
            "pretraining step", "pretrain", step, rows, time, tokens, counted, steps, microsteps=microsteps,
            sequences=True,
        )  # fmt: skip

    def facts(self, asked: Questions) -> Iterator[Program]:
        """Mining, scoring, a training step for each set of terms, evaluation."""
        config = self._config
        mine, train, systems = config.mine, config.train, config.train.systems
        objectives = {name: config.objectives[name] for name in systems}
        contrasts = any(objective.contrasts for objective in objectives.values())
        rounds = 1 + sum(
            asked.number * train.passes / train.questions / objective.remine_every
            for objective in objectives.values()
            if objective.remines
        )
        if contrasts and mine.sources:
            yield self._beams("mining", mine.template, mine.beams, mine.max_new_tokens, mine.batch,
                              rounds * asked.number)  # fmt: skip
            yield self._scoring(asked.number * rounds, mine.negatives)
        same: dict[Any, list[str]] = {}  # systems whose terms and rows make one program
        for name, objective in objectives.items():
            terms = tuple(
                sorted((term, *sorted(weights)) for term, weights in objective.coefficients.items())
            )
            same.setdefault((terms, objective.grpo.form), []).append(name)
        for names in same.values():
            yield self._training(names, objectives[names[0]], asked)
        evaluate = config.evaluate
        yield self._beams(
            "evaluation", evaluate.template, evaluate.beams, evaluate.max_new_tokens, evaluate.batch,
            (1 + len(systems)) * len(evaluate.groups) * asked.number,
        )  # fmt: skip

    def improvement(self, name: str, method: MethodConfig, judge_bytes: float) -> Iterator[Program]:
        """Sampling, references and a step of one method of self-improvement."""
        config, settings, shape = self._config, self._config.selfimprove, self._model.shape
        resident = self.parameter_bytes if method.contrasts and settings.reference == "resident" else 0.0
        resident += judge_bytes if method.judged else 0.0
        prefix = settings.length - settings.suffix
        count = rollout_count(config, method)
        if count:
            batch = round_up_rows(self._mesh, config.rollouts.batch)
            yield self._sampling(name, prefix, count, batch, resident + 2 * self.parameter_bytes)
        branches = 2 if method.contrasts else 1
        length = settings.length + (branches - 1) * settings.suffix
        time = settings.row_length or settings.length + settings.suffix
        a_row = max(1, time // length)
        documents = settings.documents / settings.updates
        rows = round_up_rows(self._mesh, -(-int(documents / a_row) // settings.grad_accum_steps))
        predicted = length if "document" in method.candidates else branches * settings.suffix
        holds = rounded(time, min(time, a_row * predicted), a_row * predicted, 16 * a_row, 16 * a_row)
        if "document" not in method.candidates:
            pairs = prefix * (prefix + 1) / 2 + branches * (settings.suffix * prefix + settings.suffix**2 / 2)
        else:
            pairs = length * (length + 1) / 2
        cost = flops(shape, pairs / length)
        counted = 3 * documents * (length * (cost.layers + cost.attention) + predicted * cost.head)
        weights = coefficients_of(method)
        microsteps = settings.grad_accum_steps
        plain = not method.contrasts
        step = self._step("token", weights, rows * microsteps, holds, microsteps, sequences=plain)
        steps = float(settings.steps * settings.updates)
        yield self._trained(
            f"{name} step", "selfimprove", step, rows * microsteps, time, documents * length, counted,
            steps, resident, microsteps=microsteps, sequences=plain,
        )  # fmt: skip
        if method.contrasts:
            shards = row_shards(self._mesh)
            give = compile_references(self._model, self._mesh)
            batch = self._packed(rows * microsteps, holds, microsteps)
            yield Program(
                f"{name} references", "selfimprove", partial(give.lower, self._parameters(), batch),
                rows * microsteps, time, documents * length, counted / 3, steps,
                resident=2 * self.parameter_bytes + resident,
                by_hand=partial(self._hand.scoring, rows // shards, time, holds.sources, microsteps),
                working=partial(self._hand.scoring_memory, rows // shards, time, holds.sources),
            )  # fmt: skip

    def _training(self, names: Sequence[str], objective: ObjectiveConfig, asked: Questions) -> Program:
        config, settings = self._config, self._config.train
        whole = trees(asked.number, config.mine.negatives)
        drawn = whole if objective.contrasts else [chosen_only(tree) for tree in whole]
        question = asks(objective.coefficients)
        rows, holds = _rows_of(drawn, settings.row_length, settings.questions, question)
        rows = max(1, round(rows / settings.grad_accum_steps)) * settings.grad_accum_steps
        cost = flops(self._model.shape, 1.0)
        per_tree = settings.questions / len(drawn)
        tokens = per_tree * sum(tree.inputs for tree in drawn)
        sources = per_tree * sum(size(tree, question=question).sources for tree in drawn)
        pairs = per_tree * sum(map(visible, drawn))
        counted = 3 * (tokens * cost.layers + pairs * cost.attention + sources * cost.head)
        steps = asked.number * settings.passes / settings.questions
        step = self._step(
            settings.ntp_scale, objective.coefficients, rows, holds, settings.grad_accum_steps,
            settings.dpo_scale, objective.grpo.form, anchors=objective.anchored,
        )  # fmt: skip
        label = f"training step ({', '.join(names)})"
        return self._trained(
            label, "train", step, rows, settings.row_length, tokens, counted, steps, systems=len(names)
        )

    def _trained(
        self, name: str, section: str, step: "_Step", rows: int, time: int, tokens: float, counted: float,
        updates: float, resident: float = 0.0, systems: int = 1, microsteps: int = 1, sequences: bool = False,
    ) -> Program:  # fmt: skip
        own = -(-rows // (row_shards(self._mesh) * microsteps))  # rows of a chip at a time
        kernels = self._splash(own, time, microsteps) if sequences else ()
        return Program(
            name, section, step.lower, rows, time, tokens, counted, systems * updates, updates, resident,
            saved=self._saved(own, time), kernels=kernels, by_hand=step.by_hand, working=step.working,
        )  # fmt: skip

    def _saved(self, rows: int, time: int) -> float:
        """Bytes a chip of what the layers keep for the backward pass, by model.remat; `none` keeps more."""
        s, tensor = self._model.shape, self._mesh.shape["tensor"]
        heads, mlp = (2 * s.heads + 2 * s.kv_heads) * s.head_dim // tensor, s.d_ff // tensor
        kept = {"full": 0, "attention": heads + s.d_model}.get(s.remat, heads + 2 * s.d_model + 2 * mlp)
        return float(rows * time * s.layers * (s.d_model + kept) * jnp.dtype(s.dtype).itemsize)

    def _splash(self, rows: int, time: int, microsteps: int) -> tuple[Operation, ...]:
        """Its work on one chip, where it takes these rows: half the square, scores computed again."""
        s, mesh = self._model.shape, self._mesh
        ids = jax.ShapeDtypeStruct((rows * row_shards(mesh), time), jnp.int32)
        trees: Any = TreeRows(ids, None)  # type: ignore[arg-type]
        if self._model.kernel != "splash" or not can_use_splash(trees, s, self._model.layout, cached=False):
            return ()
        forward = 4 * time / 2 * s.heads * s.head_dim / mesh.shape["tensor"] * rows * time
        passes = 3.5 if s.remat != "full" else 4.5  # its result is kept, or computed again
        traffic = 12 * rows * time * s.heads * s.head_dim / mesh.shape["tensor"] * BFLOAT16
        work = Operation(passes * forward, traffic, s.layers * microsteps, "splash attention", s.head_dim)
        return (work,)

    def _beams(self, name: str, template: str, beams: int, new: int, batch: int, questions: float) -> Program:
        shape, batch = self._model.shape, round_up_rows(self._mesh, batch)
        length, time = PROMPTS[template], bucket(PROMPTS[template])
        lower = partial(
            jitted(beam_search).lower,
            self._model, self._parameters(), *self._prompts(batch, time), self._vector("bool"),
            starts=self._ints(batch), beams=beams, max_new_tokens=new,
        )  # fmt: skip
        cost = flops(shape, 1.0)
        read, written = batch * length, batch * beams * (new - 1)
        counted = (read + written) * cost.layers + (batch + written) * cost.head
        counted += cost.attention * (read * (length + 1) / 2 + written * (length + new / 2))
        cache = self._cache(batch, time + beams * new)
        section = "mine" if name == "mining" else "evaluate"
        mine = batch // row_shards(self._mesh)
        return Program(
            name,
            section,
            lower,
            batch,
            time,
            read + written,
            counted,
            questions / batch,
            cache=cache,
            turns=new - 1,
            by_hand=partial(self._hand.beams, mine, time, beams, new),
            working=partial(self._hand.decoding_memory, mine, time, beams, new, False),
        )

    def _sampling(self, name: str, prefix: int, samples: int, batch: int, resident: float) -> Program:
        settings, shape = self._config.selfimprove, self._model.shape
        time, new = bucket(prefix), settings.suffix
        key = jax.eval_shape(jax.random.key, 0)
        keys = jax.ShapeDtypeStruct((batch,), key.dtype, sharding=replicated(self._mesh))
        scalar = partial(jax.ShapeDtypeStruct, (), sharding=replicated(self._mesh))
        lower = partial(
            jitted(sample).lower,
            self._model, self._parameters(), *self._prompts(batch, time), self._vector("bool"), keys,
            samples=samples, max_new_tokens=new,
            temperature=scalar(jnp.float32), top_p=scalar(jnp.float32), top_k=scalar(jnp.int32),
        )  # fmt: skip
        cost = flops(shape, 1.0)
        read, written = batch * prefix, batch * samples * new
        counted = (read + written) * cost.layers + written * cost.head
        counted += cost.attention * (read * (prefix + 1) / 2 + written * (prefix + new / 2))
        executions = settings.steps * settings.documents / batch
        mine = batch // row_shards(self._mesh)
        return Program(
            f"{name} sampling", "rollouts", lower, batch, time, read + written, counted, executions,
            resident=resident, cache=self._cache(batch, time + samples * new), turns=new,
            by_hand=partial(self._hand.sampling, mine, time, samples, new),
            working=partial(self._hand.decoding_memory, mine, time, samples, new, True),
        )  # fmt: skip

    def _scoring(self, questions: float, negatives: int) -> Program:
        settings, drawn = self._config.train, trees(SAMPLES_SCORED, negatives)
        rows = round_up_rows(self._mesh, SCORED_ROWS)
        needed, holds = _rows_of(drawn, settings.row_length, len(drawn), question=False)
        a_row = len(drawn) / needed
        batch = self._packed(rows, holds, None)
        lower = partial(
            jitted(score_endings).lower, self._model, self._parameters(), batch, self._vector("bool")
        )
        cost, share = flops(self._model.shape, 1.0), rows * a_row / len(drawn)
        tokens = share * sum(tree.inputs for tree in drawn)
        counted = tokens * cost.layers + share * sum(map(visible, drawn)) * cost.attention
        counted += share * sum(size(tree, question=False).sources for tree in drawn) * cost.head
        executions = questions / (rows * a_row)
        part = rows // row_shards(self._mesh), settings.row_length, holds.sources
        return Program(
            "scoring", "", lower, rows, settings.row_length, tokens, counted, executions,
            by_hand=partial(self._hand.scoring, *part), working=partial(self._hand.scoring_memory, *part),
        )  # fmt: skip

    def _step(
        self, ntp_scale: str, weights: Any, rows: int, holds: Capacity, microsteps: int,
        dpo_scale: str = "prompts", grpo_form: str = "dapo", anchors: bool = False, sequences: bool = False,
    ) -> "_Step":  # fmt: skip
        model, settings, mesh = self._model, self._config.optimizer, self._mesh
        step = compile_step(model, settings, ntp_scale, mesh, dpo_scale, grpo_form)
        params = nn.unbox(model.abstract())
        state = jax.eval_shape(partial(init_state, optimizer=adamw(settings)), params)
        batch: Any = self._packed(rows, holds, microsteps)
        batch = batch._replace(branch_id=None) if sequences else batch
        if anchors:
            batch = Anchored(batch, self._anchors(microsteps))
        number = jax.ShapeDtypeStruct((), jnp.float32)
        traced = jax.tree.map(lambda _: number, {term: dict(each) for term, each in weights.items()})
        shards = row_shards(mesh)
        packed = [Packed(round_up_rows(mesh, rows // microsteps) // shards, holds.time, holds.sources)]
        if anchors:
            time = self._config.anchor.length
            packed.append(Packed(self._anchor_rows(microsteps) // shards, time, time))
        return _Step(
            partial(step.lower, state, batch, traced, Schedule(number, number, number, number)),
            partial(self._hand.step, packed, microsteps),
            partial(self._hand.step_memory, self.parameter_bytes, packed, microsteps),
        )

    def _packed(self, rows: int, holds: Capacity, microsteps: int | None) -> PackedBatch:
        """Of a batch [microsteps, rows, …], or [rows, …] where None."""
        leading = () if microsteps is None else (microsteps,)
        of_microstep = round_up_rows(self._mesh, rows // (microsteps or 1))
        sharding = row_sharding(self._mesh, leading=len(leading))

        def field(axis: str, fill: float) -> Any:
            sizes = (getattr(holds, axis),) if axis else ()
            kind = jnp.float32 if isinstance(fill, float) else jnp.int32
            return jax.ShapeDtypeStruct((*leading, of_microstep, *sizes), kind, sharding=sharding)

        return PackedBatch(*(field(*spec) for spec in FIELD_SPECS))

    def _anchors(self, microsteps: int) -> AnchorBatch:
        settings, rows = self._config.anchor, self._anchor_rows(microsteps)
        sizes = {"time": settings.length, "top": settings.top}

        def field(axes: tuple[str, ...], fill: float) -> Any:
            kind = jnp.float32 if isinstance(fill, float) else jnp.int32
            return jax.ShapeDtypeStruct((microsteps, rows, *(sizes[axis] for axis in axes)), kind)

        return AnchorBatch(*(field(*spec) for spec in ANCHOR_SPECS))

    def _anchor_rows(self, microsteps: int) -> int:
        """Of a microstep."""
        rows = round(self._config.train.questions / self._config.anchor.questions)
        return round_up_rows(self._mesh, -(-rows // microsteps))

    def _parameters(self) -> Any:
        shardings, params = parameter_shardings(self._model, self._mesh), nn.unbox(self._model.abstract())
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), params, shardings
        )

    def _prompts(self, batch: int, time: int) -> tuple[Any, Any]:
        tokens = jax.ShapeDtypeStruct((batch, time), jnp.int32, sharding=row_sharding(self._mesh))
        return tokens, self._ints(batch)

    def _ints(self, batch: int) -> Any:
        return jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=row_sharding(self._mesh))

    def _vector(self, dtype: str) -> Any:
        shape = (self._model.shape.vocabulary,)
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=replicated(self._mesh))

    def _cache(self, batch: int, length: int) -> float:
        """Bytes a chip of keys and values of so many tokens of each prompt."""
        shape, tensor = self._model.shape, self._mesh.shape["tensor"]
        tokens = batch // row_shards(self._mesh) * length
        heads = shape.kv_heads // tensor * shape.head_dim
        return 2.0 * shape.layers * tokens * heads * jnp.dtype(shape.dtype).itemsize


def largest_part(planned: Planned) -> float:
    """Bytes of the largest parameter's part on one chip, float32."""
    model = Model(planned.shape, planned.mesh)
    return float(max(jax.tree.leaves(_parts(model, planned.mesh))))


def jitted(function: Any) -> Any:
    """A function that `jax.jit` made, as what can be lowered: type checkers see the function within."""
    return function


def _rows_of(
    drawn: list[AnswerTree], row_length: int, questions: float, question: bool
) -> tuple[int, Capacity]:
    """Rows that so many questions like these take, and what each holds."""
    sizes = [size(tree, question=question) for tree in drawn]
    laid = plan([taken.inputs for taken in sizes], row_length)
    return max(1, round(questions * len(laid) / len(drawn))), capacity(sizes, laid, row_length)


def _bytes_a_chip(model: Model, mesh: Mesh) -> float:
    """Of float32 parameters."""
    return float(sum(jax.tree.leaves(_parts(model, mesh))))


def _parts(model: Model, mesh: Mesh) -> Any:
    """Of each parameter the bytes of its part on one chip, float32."""
    shardings, params = parameter_shardings(model, mesh), nn.unbox(model.abstract())
    return jax.tree.map(
        lambda x, sharding: FLOAT32 * math.prod(sharding.shard_shape(x.shape)), params, shardings
    )
