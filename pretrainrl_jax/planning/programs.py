"""The programs that a configuration's stages compile, and how much of each a run is; nothing is computed."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from pretrainrl_jax.config import METHODS, Config, MethodConfig, ObjectiveConfig, SelfimproveConfig
from pretrainrl_jax.decoding.decode import bucket
from pretrainrl_jax.improvement.cost import cost_of, rollout_count
from pretrainrl_jax.improvement.learning import coefficients as coefficients_of
from pretrainrl_jax.model.attention import Kernel
from pretrainrl_jax.model.cost import flops
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import round_up_rows
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.objectives.loss import asks
from pretrainrl_jax.objectives.scoring import ROWS
from pretrainrl_jax.planning.by_hand import ByHand, Packed
from pretrainrl_jax.planning.loads import Decoding, Load, Scoring, Step
from pretrainrl_jax.planning.lowering import Lowering
from pretrainrl_jax.planning.typical import PROMPTS, SAMPLED, Material, trees, visible
from pretrainrl_jax.planning.work import FLOAT32, Cut
from pretrainrl_jax.trees.layouts import Layout, size
from pretrainrl_jax.trees.packing import Capacity, capacity, plan, rounded
from pretrainrl_jax.trees.tree import AnswerTree, chosen_only

DOCUMENT = 600  # tokens of a document, where documents are packed into longer rows: about a web page's


@dataclass(frozen=True)
class Program:
    """One compiled program, and how much of it a run is."""

    name: str
    section: str  # of the settings that say how much it computes at a time; "" where none does
    lower: Callable[[], Any]  # gives what XLA is to compile
    load: Load
    tokens: float  # of an execution, without padding
    counted: float  # FLOPs of the model an execution, all chips, causal attention halved, nothing twice
    executions: float | None  # of the whole run; None: its data must be counted first
    updates: float | None = None  # of a system, where it is a training step and that is known
    resident: float = 0.0  # bytes a chip has beside the program's own arguments

    @property
    def trains(self) -> bool:
        """It has an optimizer's state."""
        return isinstance(self.load, Step)


@dataclass(frozen=True)
class Planned:
    """What a configuration runs on a mesh."""

    mesh: Mesh
    hand: ByHand  # the model on a chip
    material: Material
    programs: tuple[Program, ...]
    parameters: float  # bytes a chip: float32 masters; both moments take twice as much
    largest: float  # bytes of a chip's part of the largest one
    verdicts: int = 0  # asked of a judging model
    verdict_tokens: int = 0  # that it reads, about

    @property
    def shape(self) -> ModelShape:
        """Of the model."""
        return self.hand.shape


def improves(config: Config) -> bool:
    """Whether a configuration is for `selfimprove`: it says something of that."""
    asked = config.selfimprove != SelfimproveConfig() or config.methods != METHODS
    return asked or bool(config.judge.path)


def planned(
    config: Config,
    shape: ModelShape,
    judge: ModelShape | None,
    material: Material,
    mesh: Mesh,
    kernel: Kernel,
) -> Planned:
    """Every program of a configuration: its stages' own, with their shapes, shardings and flags.

    Args:
        config: the configuration.
        shape: of the model that is trained.
        judge: of the model that judges, if one does.
        material: what is learned and asked.
        mesh: of the devices to plan for.
        kernel: of attention there.
    """
    model = Model(shape, mesh, kernel)
    parts = _parts(model, mesh)
    hand = ByHand(shape, Cut(**mesh.shape), kernel)
    work = _Work(config, Lowering(model, mesh, config.optimizer), mesh, hand, sum(parts), material)
    programs: list[Program] = []
    if config.pretrain.epochs and (config.pretrain.text == "documents" or not config.model.path):
        programs.append(work.pretraining())
    verdicts = 0
    if improves(config):
        of_judge = sum(_parts(Model(judge, mesh, kernel), mesh)) if judge else 0.0
        methods = {name: config.methods[name] for name in config.selfimprove.systems}
        for name, method in methods.items():
            programs += work.improvement(name, method, of_judge)
        steps = config.selfimprove.steps
        verdicts = sum(
            cost_of(config, method, steps).verdicts for method in methods.values() if method.judged
        )
    elif config.preferences.path:
        programs += work.preferences()
    else:
        programs += work.facts()
    shown = config.judge.prefix_tokens or config.selfimprove.length - config.selfimprove.suffix
    read = verdicts * (shown + 2 * config.selfimprove.suffix)
    return Planned(mesh, hand, material, tuple(programs), sum(parts), max(parts), verdicts, read)


@dataclass(frozen=True)
class _Work:
    """Programs of one configuration on one mesh."""

    config: Config
    lowering: Lowering
    mesh: Mesh
    hand: ByHand
    parameters: float  # bytes a chip
    material: Material

    @property
    def shape(self) -> ModelShape:
        """Of the model."""
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
        counted = 3 * tokens * cost.total
        return Program("pretraining step", "pretrain", lower, load, tokens, counted, steps, steps)

    def facts(self) -> Iterator[Program]:
        """Mining, anchor text, training, evaluation."""
        config, trained = self.config, self.material.trained
        mine, train = config.mine, config.train
        objectives = {name: config.objectives[name] for name in train.systems}
        if any(objective.contrasts for objective in objectives.values()) and mine.sources:
            steps = trained * train.passes / train.questions
            rounds = 1 + sum(steps / one.remine_every for one in objectives.values() if one.remines)
            yield self._answers(
                "mining", "mine", mine.template, mine.beams, mine.max_new_tokens, mine.batch, rounds * trained
            )
            drawn = trees(trained, train.template, mine.negatives)
            yield self._scoring("mining's references", drawn, rounds * trained)
        if any(objective.anchored for objective in objectives.values()) and not config.anchor.path:
            yield self._anchor_text()
        plain = {name: one for name, one in objectives.items() if not one.reinforced}
        for names in _alike(plain):
            drawn = trees(trained, train.template, mine.negatives)
            yield self._training(names, plain[names[0]], drawn)
        for name in objectives.keys() - plain.keys():
            yield from self._reinforced(name, objectives[name])
        yield from self._evaluation()

    def preferences(self) -> Iterator[Program]:
        """References, training, evaluation on prompts with better and worse answers."""
        train, drawn = self.config.train, list(self.material.compared)
        objectives = {name: self.config.objectives[name] for name in train.systems}
        if any(objective.contrasts for objective in objectives.values()):
            yield self._scoring("references", drawn, self.material.trained)
        if any(objective.anchored for objective in objectives.values()) and not self.config.anchor.path:
            yield self._anchor_text()
        for names in _alike(objectives):
            yield self._training(names, objectives[names[0]], drawn)
        yield self._scoring("evaluation", drawn, (1 + len(train.systems)) * self.material.asked)

    def improvement(self, name: str, method: MethodConfig, of_judge: float) -> Iterator[Program]:
        """Sampling, references and a step of one method of self-improvement."""
        config, settings = self.config, self.config.selfimprove
        resident = self.parameters if method.contrasts and settings.reference == "resident" else 0.0
        resident += of_judge if method.judged else 0.0
        prefix, suffix = settings.length - settings.suffix, settings.suffix
        moments = 2 * self.parameters
        if count := rollout_count(config, method):
            yield self._sampling(
                f"{name} sampling", "rollouts", prefix, count, suffix, config.rollouts.batch,
                settings.steps * settings.documents, resident + moments,
            )  # fmt: skip
        plain, branches = not method.contrasts, 2 if method.contrasts else 1
        length = settings.length + (branches - 1) * suffix
        time = settings.row_length or settings.length + suffix
        a_row = max(1, time // length)
        documents, microsteps = settings.documents / settings.updates, settings.grad_accum_steps
        rows = microsteps * round_up_rows(self.mesh, -(-int(documents / a_row) // microsteps))
        whole = "document" in method.candidates
        predicted = length if whole else branches * suffix
        holds = rounded(time, min(time, a_row * predicted), a_row * predicted, 16 * a_row, 16 * a_row)
        pairs = length * (length + 1) / 2
        if not whole:
            pairs = prefix * (prefix + 1) / 2 + branches * (suffix * prefix + suffix**2 / 2)
        cost = flops(self.shape, pairs / length)
        counted = documents * (length * (cost.layers + cost.attention) + predicted * cost.head)
        steps, tokens = float(settings.steps * settings.updates), documents * length
        packed = Packed(rows, time, holds.sources, sequences=plain)
        load = Step((packed,), microsteps)
        lower = partial(self.lowering.step, load, holds, coefficients_of(method))
        yield Program(f"{name} step", "selfimprove", lower, load, tokens, 3 * counted, steps, steps, resident)
        if method.contrasts:
            read = Scoring(packed, microsteps)
            lower = partial(self.lowering.references, read, holds)
            kept = resident + moments
            yield Program(
                f"{name} references", "selfimprove", lower, read, tokens, counted, steps, resident=kept
            )

    def _training(
        self, names: Sequence[str], objective: ObjectiveConfig, drawn: Sequence[AnswerTree]
    ) -> Program:
        """A step of systems whose terms, and rows, are the same."""
        settings = self.config.train
        # What an objective ignores is dropped before packing.
        learned = drawn if objective.contrasts else [chosen_only(tree) for tree in drawn]
        steps = self.material.trained * settings.passes / settings.questions
        label = f"training step ({', '.join(names)})"
        return self._step(label, objective, learned, settings.row_length, steps, len(names))

    def _step(
        self, label: str, objective: ObjectiveConfig, learned: Sequence[AnswerTree], row_length: int,
        steps: float, systems: int,
    ) -> Program:  # fmt: skip
        config, settings = self.config, self.config.train
        question, microsteps = asks(objective.coefficients), settings.grad_accum_steps
        how = question, settings.layout
        rows, holds = _rows_of(learned, row_length, settings.questions, *how)
        rows = max(1, round(rows / microsteps)) * microsteps
        packed = [Packed(rows, row_length, holds.sources)]
        if objective.anchored:
            beside, time = round(settings.questions / config.anchor.questions), config.anchor.length
            packed.append(Packed(max(1, beside), time, time))
        load = Step(tuple(packed), microsteps)
        tokens, counted = _counted(self.shape, learned, question, settings.questions / len(learned))
        lower = partial(
            self.lowering.step, load, holds, objective.coefficients, settings.ntp_scale, settings.dpo_scale,
            objective.grpo.form, config.anchor.top,
        )  # fmt: skip
        return Program(label, "train", lower, load, tokens, 3 * counted, systems * steps, steps)

    def _reinforced(self, name: str, objective: ObjectiveConfig) -> Iterator[Program]:
        """Answers are sampled, measured where that is needed, and learned from."""
        settings, how = self.config.train, objective.grpo
        length = PROMPTS[settings.template]
        asked = settings.passes * self.material.trained
        base = self.parameters if how.kl else 0.0  # stays beside the policy
        yield self._sampling(
            f"sampling ({name})", "train", length, how.samples, how.max_new_tokens, settings.questions, asked,
            2 * self.parameters + base,
        )  # fmt: skip
        learned = trees(SAMPLED, settings.template, candidates=how.samples, answer=how.max_new_tokens)
        row_length = max(settings.row_length, length + how.samples * how.max_new_tokens)
        batches = asked / settings.questions
        step = self._step(
            f"training step ({name})", objective, learned, row_length, batches * how.updates, systems=1
        )
        step = replace(step, resident=base)
        yield step
        measured = (how.updates > 1) + bool(how.kl)
        if measured:
            rows, holds = _rows_of(learned, row_length, settings.questions, question=False)
            read = Scoring(Packed(rows, row_length, holds.sources), settings.grad_accum_steps)
            lower = partial(self.lowering.token_logps, read, holds)
            kept = 2 * self.parameters + base
            yield Program(
                f"log-probabilities ({name})", "train", lower, read, step.tokens, step.counted / 3,
                measured * batches, resident=kept,
            )  # fmt: skip

    def _anchor_text(self) -> Program:
        """What the base model writes before the first system is trained."""
        settings = self.config.anchor
        texts = settings.tokens / settings.length
        return self._sampling("anchor text", "anchor", 1, 1, settings.length, settings.batch, texts)

    def _evaluation(self) -> Iterator[Program]:
        """Greedy answers, beams, the truths' probabilities, samples."""
        settings, models = self.config.evaluate, 1 + len(self.config.train.systems)
        asked = models * self.material.asked
        for label, beams in (("evaluation, greedy", 1), ("evaluation, beams", settings.beams)):
            if beams > 1 or label.endswith("greedy"):
                how = settings.template, beams, settings.max_new_tokens, settings.batch
                yield self._answers(label, "evaluate", *how, asked)
        yield self._scoring("evaluation, truths", trees(SAMPLED, settings.template), asked)
        if settings.samples:
            yield self._sampling(
                "evaluation, samples", "evaluate", PROMPTS[settings.template], settings.samples,
                settings.max_new_tokens, settings.batch, models * self.material.own,
            )  # fmt: skip

    def _answers(
        self, name: str, section: str, template: str, beams: int, new: int, batch: int, asked: float
    ) -> Program:
        length = PROMPTS[template]
        load = Decoding(round_up_rows(self.mesh, batch), bucket(length), beams, new, sampled=False)
        return self._decoding(name, section, load, length, asked)

    def _sampling(
        self, name: str, section: str, length: int, samples: int, new: int, batch: int, asked: float,
        resident: float = 0.0,
    ) -> Program:  # fmt: skip
        load = Decoding(round_up_rows(self.mesh, batch), bucket(length), samples, new, sampled=True)
        return self._decoding(name, section, load, length, asked, resident)

    def _decoding(
        self, name: str, section: str, load: Decoding, length: int, asked: float, resident: float = 0.0
    ) -> Program:
        cost, rows = flops(self.shape, 1.0), load.rows
        read, written = rows * length, rows * load.branches * load.turns
        heads = written if load.sampled else rows + written  # a sampler's loop has the first ones, too
        counted = (read + written) * cost.layers + heads * cost.head
        counted += cost.attention * (read * (length + 1) / 2 + written * (length + load.new / 2))
        lower = partial(self.lowering.decoding, load)
        tokens = float(read + written)
        return Program(name, section, lower, load, tokens, counted, asked / rows, resident=resident)

    def _scoring(self, name: str, drawn: Sequence[AnswerTree], asked: float) -> Program:
        rows = round_up_rows(self.mesh, ROWS)
        row_length = max(self.config.train.row_length, *(tree.inputs for tree in drawn))
        needed, holds = _rows_of(drawn, row_length, len(drawn), question=False)
        together = rows * len(drawn) / needed  # trees of an execution
        load = Scoring(Packed(rows, row_length, holds.sources))
        tokens, counted = _counted(self.shape, drawn, False, together / len(drawn))
        lower = partial(self.lowering.scoring, load, holds)
        return Program(name, "", lower, load, tokens, counted, asked / together)


def _alike(objectives: dict[str, ObjectiveConfig]) -> list[list[str]]:
    """Systems by what makes one program: which coefficients there are."""
    same: dict[Any, list[str]] = {}
    for name, objective in objectives.items():
        terms = tuple(sorted((term, *sorted(weights)) for term, weights in objective.coefficients.items()))
        same.setdefault(terms, []).append(name)
    return list(same.values())


def _counted(
    shape: ModelShape, drawn: Sequence[AnswerTree], question: bool, share: float
) -> tuple[float, float]:
    """Tokens, and FLOPs of a forward pass, of so many times these trees."""
    cost = flops(shape, 1.0)
    tokens = share * sum(tree.inputs for tree in drawn)
    sources = share * sum(size(tree, question=question).sources for tree in drawn)
    attention = share * visible(drawn) * cost.attention
    return tokens, tokens * cost.layers + attention + sources * cost.head


def _rows_of(
    drawn: Sequence[AnswerTree], row_length: int, questions: float, question: bool, layout: Layout = "shared"
) -> tuple[int, Capacity]:
    """Rows that so many questions like these take, and what each holds."""
    sizes = [size(tree, layout, question) for tree in drawn]
    laid = plan([taken.inputs for taken in sizes], row_length)
    return max(1, round(questions * len(laid) / len(drawn))), capacity(sizes, laid, row_length)


def _parts(model: Model, mesh: Mesh) -> list[float]:
    """Of each parameter the bytes of its part on one chip, float32."""
    shardings, params = parameter_shardings(model, mesh), nn.unbox(model.abstract())
    parts = jax.tree.map(
        lambda x, sharding: float(FLOAT32 * math.prod(sharding.shard_shape(x.shape))), params, shardings
    )
    return jax.tree.leaves(parts)
