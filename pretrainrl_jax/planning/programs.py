"""The programs that a configuration's stages compile, and how much of each a run is; nothing is computed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pretrainrl_jax.config import METHODS, Config, MethodConfig, ObjectiveConfig, SelfimproveConfig
from pretrainrl_jax.decoding.decode import SMALLEST_BUCKET, bucket
from pretrainrl_jax.improvement.cost import AROUND, comparing, cost_of, rollout_count
from pretrainrl_jax.improvement.learning import coefficients as coefficients_of
from pretrainrl_jax.judging.local import SHORTEST
from pretrainrl_jax.mining.rounds import spans
from pretrainrl_jax.model.cost import Flops, flops
from pretrainrl_jax.model.decoder import Chosen, Model
from pretrainrl_jax.model.lora import lora_of, split
from pretrainrl_jax.model.mesh import Cut, round_up_rows
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.objectives.loss import asks
from pretrainrl_jax.objectives.scoring import ROWS
from pretrainrl_jax.planning.by_hand import ByHand, Packed
from pretrainrl_jax.planning.lowering import Lowering
from pretrainrl_jax.planning.planned import Decoding, Planned, Program, Scoring, Step
from pretrainrl_jax.planning.typical import PROMPTS, SAMPLED, Material, trees, visible
from pretrainrl_jax.planning.work import FLOAT32
from pretrainrl_jax.training.feed import Holds, held
from pretrainrl_jax.trees.layouts import Layout, size
from pretrainrl_jax.trees.packing import Capacity, capacity, plan, rounded
from pretrainrl_jax.trees.tree import AnswerTree, Branch, chosen_only, document

POOLED = ("pool", "popularity")  # of these a question keeps mine.pool answers, of others mine.negatives
DOCUMENT = 600  # tokens of a document, where documents are packed into longer rows: about a web page's


def improves(config: Config) -> bool:
    """Whether a configuration is for `selfimprove`: it says something of that."""
    asked = config.selfimprove != SelfimproveConfig() or config.methods != METHODS
    return asked or bool(config.judge.path or config.rewriter.path)


def planned(
    config: Config,
    shape: ModelShape,
    judge: ModelShape | None,
    material: Material,
    mesh: Mesh,
    chosen: Chosen,
    rewriter: ModelShape | None = None,
) -> Planned:
    """Every program of a configuration: its stages' own, with their shapes, shardings and flags.

    `shape` is of the model that is trained, `judge` and `rewriter` of those beside it, if there are any.
    """
    work_of = partial(_work_of, config, material, mesh, chosen)
    work = work_of(shape)
    if lora := lora_of(config.lora):  # the rest keeps the dtype that lora.base_dtype says
        work = replace(work, adapted=work_of(replace(shape, lora=lora), config.lora.base_dtype))
    programs: list[Program] = []
    if config.pretrain.epochs and (config.pretrain.text == "documents" or not config.preferences.path):
        programs.append((work.policy if config.model.path else work).pretraining())
    verdicts = 0
    if improves(config):
        # Judge and rewriter keep the dtype that they are stored in, whatever they compute in.
        of_judge = work_of(judge, judge.dtype, learns=False).parameters if judge else 0.0
        of_rewriter = None
        if rewriter:
            computes = replace(rewriter, dtype=config.rewriter.dtype or rewriter.dtype)
            of_rewriter = work_of(computes, rewriter.dtype, learns=False)
        for name in config.selfimprove.systems:
            method = config.methods[name]
            programs += work.policy.improvement(name, method, of_judge, of_rewriter)
            verdicts += cost_of(config, method, config.selfimprove.steps).verdicts + comparing(config)
    elif config.preferences.path:
        programs += work.preferences()
    else:
        programs += work.facts()
    shown = config.judge.prefix_tokens or config.selfimprove.length - config.selfimprove.suffix
    read = verdicts * (shown + 2 * config.selfimprove.suffix)
    return Planned(mesh, work.hand, material, tuple(programs), verdicts, read, _uncounted(config))


def _work_of(
    config: Config, material: Material, mesh: Mesh, chosen: Chosen, shape: ModelShape,
    stored: str = "float32", learns: bool = True,
) -> "_Work":  # fmt: skip
    """Of a model; what does not learn of it is stored in that dtype."""
    model, item = Model(shape, mesh, **chosen._asdict()), jnp.dtype(stored).itemsize
    params, shardings = nn.unbox(model.abstract()), parameter_shardings(model, mesh)
    sizes = jax.tree.map(lambda x, cut: float(math.prod(cut.shard_shape(x.shape))), params, shardings)
    parts = split(shape.lora, sizes) if learns else (sizes, {})
    frozen, learned = (sum(jax.tree.leaves(part)) for part in parts)
    lowering = Lowering(model, mesh, config.optimizer, stored)
    hand = ByHand(shape, Cut(**mesh.shape), *chosen, stored=item)
    return _Work(config, lowering, hand, frozen * item + learned * FLOAT32, learned * FLOAT32, material)


@dataclass(frozen=True)
class _Work:
    """Programs of one configuration on one mesh."""

    config: Config
    lowering: Lowering
    hand: ByHand
    parameters: float  # bytes a chip, as they are stored
    learned: float  # bytes a chip, float32, of what learns of them
    material: Material
    adapted: "_Work | None" = None  # of the base model with adapters, where they learn

    @property
    def policy(self) -> "_Work":
        return self.adapted or self

    @property
    def reference(self) -> float:
        """Bytes a chip of the base model beside the policy: with adapters it is a part of that."""
        return 0.0 if self.shape.lora else self.parameters

    @property
    def program(self) -> "partial[Program]":
        return partial(Program, hand=self.hand, parameters=self.parameters, learned=self.learned)

    @property
    def shape(self) -> ModelShape:
        return self.hand.shape

    def pretraining(self) -> Program:
        """Documents in packed rows."""
        settings = self.config.pretrain
        streams, time = settings.text == "documents", settings.row_length
        holds = rounded(time, time, time, time if streams else max(16, 2 * time // DOCUMENT), 0)
        load = Step((Packed(settings.rows, time, time, sequences=True),), settings.grad_accum_steps)
        tokens = float(settings.rows * time)
        cost = flops(self.shape, (time + 1) / 2)  # as if a row were one text: the usual count
        steps = float(settings.steps) or None
        lower = partial(self.lowering.step, load, holds, {"ntp": {"answer": 1.0}})
        counted, setting = tokens * cost.training, "pretrain.grad_accum_steps"
        return self.program("pretraining step", setting, lower, load, tokens, counted, steps, updates=steps)

    def facts(self) -> Iterator[Program]:
        """Mining, anchor text, training, evaluation."""
        config, trained = self.config, self.material.trained
        yield from self._mining("mining", "mining's references", 1, 0.0)
        for name, objective in self._objectives().items():
            steps = max(1, round(trained * config.train.passes / config.train.questions))
            if again := len(spans(objective, trained, config.train.passes, steps)) - 1:
                # The optimizer waits on the devices, and the base model beside it until it has scored.
                policy, renewed = self.policy, objective.reference == "renewed"
                kept = 2 * policy.learned + (0.0 if renewed else policy.reference)
                yield from policy._mining(f"mining again ({name})", f"references again ({name})", again, kept)
        mined = self._mined(config.mine.negatives if config.mine.sources else 0)  # drawn at each visit
        yield from self._systems(mined)
        yield from self._evaluation()

    def _objectives(self) -> dict[str, ObjectiveConfig]:
        return {name: self.config.objectives[name] for name in self.config.train.systems}

    def _systems(self, drawn: Sequence[AnswerTree]) -> Iterator[Program]:
        """Anchor text, and training: on trees like these, or on answers that are sampled on the way."""
        objectives = self._objectives()
        if any(objective.anchored for objective in objectives.values()) and not self.config.anchor.path:
            yield self._anchor_text()
        for name, objective in objectives.items():
            if objective.reinforced:
                yield from self.policy._reinforced(name, objective)
            else:
                yield self.policy._training(name, objective, drawn)

    def _mined(self, falsehoods: int) -> list[AnswerTree]:
        """Trees with so many falsehoods each."""
        return trees(min(self.material.trained, SAMPLED), self.config.train.template, falsehoods)

    def _mining(self, name: str, references: str, times: int, resident: float) -> Iterator[Program]:
        """So many times, beside what is resident: beams, where they are a source, and references."""
        mine, asked = self.config.mine, 0
        if "beam" in mine.sources:
            asked = self.material.trained
        elif "pool" in mine.sources:
            asked = self.material.pooled
        if asked:
            how = Decoding(mine.batch, PROMPTS[mine.template], mine.beams, mine.max_new_tokens)
            yield self._decoding(name, "mine.batch", how, self._parts(asked), times, resident)
        kept = sum(mine.pool if source in POOLED else mine.negatives for source in mine.sources)
        yield self._scoring(references, self._mined(kept), self.material.referenced, times, resident)

    def preferences(self) -> Iterator[Program]:
        """References, training, evaluation on prompts with better and worse answers."""
        drawn, systems = list(self.material.compared), len(self.config.train.systems)
        yield self._scoring("references", drawn, self.material.referenced, ends=False)
        yield from self._systems(drawn)
        if systems:  # the base model's are known
            yield self._scoring("evaluation", drawn, self.material.asked, systems, ends=False)

    def improvement(
        self, name: str, method: MethodConfig, of_judge: float, rewriter: "_Work | None" = None
    ) -> Iterator[Program]:
        """Sampling, rewriting, references and a step of one method of self-improvement."""
        config, settings = self.config, self.config.selfimprove
        prefix, suffix = settings.length - settings.suffix, settings.suffix
        judge, moments = (of_judge if method.judged else 0.0), 2 * self.learned
        rewriter = rewriter if "rewrite" in method.candidates else None
        beside = judge + (rewriter.parameters if rewriter else 0.0)
        reference = self.reference if method.contrasts and settings.reference == "resident" else 0.0
        if count := rollout_count(config, method):
            how = Decoding(config.rollouts.batch, prefix, count, suffix, sampled=True)
            calls, kept = [settings.documents], moments + reference + beside
            yield self._decoding(f"{name} sampling", "rollouts.batch", how, calls, settings.steps, kept)
        if rewriter:
            yield rewriter.rewriting(name, self.parameters + moments + reference + judge)
        if "document" in method.candidates:
            learned = document("", (0,) * (settings.length - 1), 0)
        else:
            branches = [Branch((0,) * suffix, "chosen"), Branch((0,) * suffix, "rejected")]
            learned = AnswerTree("", (0,) * prefix, tuple(branches[: 1 + method.contrasts]))
        number, setting = settings.documents // settings.updates, "selfimprove.grad_accum_steps"
        time = settings.row_length or self.lowering.model.suitable_row(settings.length + suffix)
        packed, holds = self._held([learned] * number, time, settings.grad_accum_steps)
        tokens, counted = _counted(self.shape, [learned], question=False, share=number)
        steps, microsteps = float(settings.steps * settings.updates), settings.grad_accum_steps
        load = Step((packed._replace(sequences=not method.contrasts),), microsteps)
        lower = partial(self.lowering.step, load, holds, coefficients_of(method))
        yield self.program(
            f"{name} step", setting, lower, load, tokens, counted.training, steps, updates=steps,
            resident=reference + beside,
        )  # fmt: skip
        if method.contrasts:
            read = Scoring(packed.rows, packed.time, packed.sources, microsteps)
            lower = partial(self.lowering.kept_logps, read, holds, of_tokens=False)
            # Unless it is the policy itself, the reference is there beside it.
            kept = moments + beside + (0.0 if settings.reference == "policy" else self.reference)
            label = f"{name} references"
            yield self.program(label, setting, lower, read, tokens, counted.total, steps, resident=kept)

    def rewriting(self, name: str, resident: float) -> Program:
        """The model that rewrites continues the prompt that holds a document's suffix."""
        config, settings = self.config, self.config.selfimprove
        prefix = settings.length - settings.suffix
        shown = min(config.rewriter.prefix_tokens or prefix, prefix) + settings.suffix + AROUND
        how = Decoding(config.rollouts.batch, shown, 1, settings.suffix, sampled=True)
        calls, label = [settings.documents], f"{name} rewriting"
        return self._decoding(label, "rollouts.batch", how, calls, settings.steps, resident, SHORTEST)

    def _held(
        self, learned: Sequence[AnswerTree], row_length: int, microsteps: int
    ) -> tuple[Packed, Capacity]:
        """A batch of these trees, as loops pack it that make their own."""
        _, holds = held(learned, self.lowering.mesh, row_length, Holds(), microsteps)
        return Packed(holds.rows * microsteps, row_length, holds.capacity.sources), holds.capacity

    def _training(self, name: str, objective: ObjectiveConfig, drawn: Sequence[AnswerTree]) -> Program:
        """A step of a system that learns from trees that are there."""
        settings = self.config.train
        # What an objective ignores is dropped before packing.
        learned = drawn if objective.contrasts else [chosen_only(tree) for tree in drawn]
        microsteps, time = settings.grad_accum_steps, settings.row_length
        how = asks(objective.coefficients), settings.layout
        rows, holds = _rows_of(learned, time, settings.questions, *how)
        rows = max(1, round(rows / microsteps)) * microsteps
        packed = Packed(rows, time, holds.sources)
        steps = max(1.0, self.material.trained * settings.passes / settings.questions)
        return self._step(f"training step ({name})", objective, learned, packed, holds, steps)

    def _step(
        self, label: str, objective: ObjectiveConfig, learned: Sequence[AnswerTree], packed: Packed,
        holds: Capacity, steps: float, resident: float = 0.0,
    ) -> Program:  # fmt: skip
        config, settings = self.config, self.config.train
        beside = []
        if objective.anchored:
            rows, time = round(settings.questions / config.anchor.questions), config.anchor.length
            beside.append(Packed(max(1, rows), time, time, sequences=True))
        load = Step((packed, *beside), settings.grad_accum_steps)
        question = asks(objective.coefficients)
        tokens, counted = _counted(self.shape, learned, question, settings.questions / len(learned))
        lower = partial(
            self.lowering.step, load, holds, objective.coefficients, settings.ntp_scale, settings.dpo_scale,
            objective.grpo.form, config.anchor.top,
        )  # fmt: skip
        return self.program(
            label, "train.grad_accum_steps", lower, load, tokens, counted.training, steps, updates=steps,
            resident=resident,
        )  # fmt: skip

    def _reinforced(self, name: str, objective: ObjectiveConfig) -> Iterator[Program]:
        """Answers are sampled, measured where that is needed, and learned from."""
        settings, how = self.config.train, objective.grpo
        length, number, microsteps = PROMPTS[settings.template], settings.questions, settings.grad_accum_steps
        batches = math.ceil(settings.passes * self.material.trained / number)
        base = self.reference if how.kl else 0.0  # stays beside the policy
        asked = Decoding(number, length, how.samples, how.max_new_tokens, sampled=True)
        kept = 2 * self.learned + base
        yield self._decoding(f"sampling ({name})", "train.questions", asked, [number], batches, kept)
        learned = trees(number, settings.template, candidates=how.samples, answer=how.max_new_tokens)
        time = max(settings.row_length, length + how.samples * how.max_new_tokens)
        packed, holds = self._held(learned, time, microsteps)
        label, updates = f"training step ({name})", batches * how.updates
        step = self._step(label, objective, learned, packed, holds, updates, resident=base)
        yield step
        if measured := (how.updates > 1) + bool(how.kl):
            read = Scoring(packed.rows, packed.time, packed.sources, microsteps)
            lower = partial(self.lowering.kept_logps, read, holds, of_tokens=True)
            share = settings.questions / len(learned)
            _, counted = _counted(self.shape, learned, asks(objective.coefficients), share)
            yield self.program(
                f"log-probabilities ({name})", "train.grad_accum_steps", lower, read, step.tokens,
                counted.total, measured * batches, resident=kept,
            )  # fmt: skip

    def _anchor_text(self) -> Program:
        """What the base model writes before the first system is trained."""
        settings = self.config.anchor
        calls = math.ceil(settings.tokens / settings.length / settings.batch)
        how = Decoding(settings.batch, 1, 1, settings.length, sampled=True)
        return self._decoding("anchor text", "anchor.batch", how, [settings.batch], calls, shortest=1)

    def _evaluation(self) -> Iterator[Program]:
        """Greedy answers, beams, the truths' probabilities, samples."""
        settings, models = self.config.evaluate, 1 + len(self.config.train.systems)
        if not (asked := self.material.asked):
            return
        length, new, parts = PROMPTS[settings.template], settings.max_new_tokens, self._parts(asked)
        greedy, beams = (Decoding(settings.batch, length, width, new) for width in (1, settings.beams))
        yield self._decoding("evaluation, greedy", "evaluate.batch", greedy, parts, models)
        if settings.beams > 1:
            yield self._decoding("evaluation, beams", "evaluate.batch", beams, parts, models)
        truths = trees(min(asked, SAMPLED), settings.template)
        yield self._scoring("evaluation, truths", truths, asked, models)
        if settings.samples and (own := self._parts(self.material.own)):
            how = Decoding(settings.batch, length, settings.samples, new, sampled=True)
            yield self._decoding("evaluation, samples", "evaluate.batch", how, own, models)

    def _parts(self, number: int) -> list[int]:
        """What is done of so many between two files."""
        whole, rest = divmod(number, part := self.config.checkpoint.shard_questions)
        return [part] * whole + [rest] * bool(rest)

    def _decoding(
        self, name: str, setting: str, how: Decoding, calls: Sequence[int], times: int = 1,
        resident: float = 0.0, shortest: int = SMALLEST_BUCKET,
    ) -> Program:  # fmt: skip
        """Calls with so many prompts each, whose last batch is filled up; all of them so many times.

        `how` tells batch and prompts without padding; prompts are padded to `shortest` tokens at least.
        """
        rows = round_up_rows(self.lowering.mesh, how.rows)
        load = how._replace(rows=rows, time=bucket(how.time, shortest))
        executions = sum(math.ceil(prompts / rows) for prompts in calls)
        prompts = sum(calls) / executions
        cost = flops(self.shape, 1.0)
        read, written = prompts * how.time, prompts * how.branches * load.turns
        heads = written if how.sampled else prompts + written  # a sampler's loop has the first ones, too
        counted = (read + written) * (cost.layers + cost.adapters) + heads * cost.head
        counted += cost.attention * (read * (how.time + 1) / 2 + written * (how.time + how.new / 2))
        lower, tokens = partial(self.lowering.decoding, load), read + written
        return self.program(
            name, setting, lower, load, tokens, counted, times * executions, resident=resident
        )

    def _scoring(
        self, name: str, drawn: Sequence[AnswerTree], asked: int, times: int = 1, resident: float = 0.0,
        ends: bool = True,
    ) -> Program:  # fmt: skip
        """So many trees like these, in parts; all of them so many times."""
        rows = round_up_rows(self.lowering.mesh, ROWS)
        row_length = max(self.config.train.row_length, *(tree.inputs for tree in drawn))
        needed, holds = _rows_of(drawn, row_length, len(drawn), question=False)
        of_tree = needed / len(drawn)
        executions = sum(math.ceil(part * of_tree / rows) for part in self._parts(asked))
        load = Scoring(rows, row_length, holds.sources)
        tokens, counted = _counted(self.shape, drawn, False, asked / executions / len(drawn))
        lower = partial(self.lowering.scoring, load, holds, ends)
        counts = tokens, counted.total, times * executions
        return self.program(name, "", lower, load, *counts, resident=resident)


def _uncounted(config: Config) -> tuple[str, ...]:
    evaluate, grpo = config.evaluate, [config.objectives[name].grpo for name in config.train.systems]
    asked = {
        "train.device_seconds": config.train.device_seconds,
        "grpo.teach": any(how.teach for how in grpo),
        "mine.sources=constrained": "constrained" in config.mine.sources,
        "evaluate.every_steps": evaluate.every_steps,
        "evaluate.among": evaluate.among,
        "evaluate.rubric": evaluate.rubric,
    }
    return tuple(name for name, value in asked.items() if value)


def _counted(
    shape: ModelShape, drawn: Sequence[AnswerTree], question: bool, share: float
) -> tuple[float, Flops]:
    """Tokens, and FLOPs, of so many times these trees."""
    cost = flops(shape, 1.0)
    tokens = share * sum(tree.inputs for tree in drawn)
    sources = share * sum(size(tree, question=question).sources for tree in drawn)
    attention = share * visible(drawn) * cost.attention
    return tokens, Flops(tokens * cost.layers, attention, sources * cost.head, tokens * cost.adapters)


def _rows_of(
    drawn: Sequence[AnswerTree], row_length: int, questions: float, question: bool, layout: Layout = "shared"
) -> tuple[int, Capacity]:
    """Rows that so many questions like these take, and what each holds."""
    sizes = [size(tree, layout, question) for tree in drawn]
    laid = plan([taken.time for taken in sizes], row_length)
    return max(1, round(questions * len(laid) / len(drawn))), capacity(sizes, laid, row_length)
