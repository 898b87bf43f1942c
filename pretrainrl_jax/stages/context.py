"""What every stage is given, and the record of what is finished in a workdir."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from jax.sharding import Mesh

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import Config, DocumentsConfig
from pretrainrl_jax.config.stored import settings_of
from pretrainrl_jax.documents.stream import Stream, open_stream
from pretrainrl_jax.documents.world import MadeDocuments, make_documents
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.factual import neighbours
from pretrainrl_jax.evaluation.texts import paragraphs
from pretrainrl_jax.facts.corpus import Corpus, verbalise
from pretrainrl_jax.facts.matching import Truths, known_truths, normalise
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.splits import hashed, split
from pretrainrl_jax.hosts.agree import is_process_0, run_on_process_0
from pretrainrl_jax.knowledge.theory import KnownAnswers
from pretrainrl_jax.memory import peak_memory
from pretrainrl_jax.mining.fingerprint import fingerprint
from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.decoder import PLAIN, Chosen, Model
from pretrainrl_jax.model.lora import lora_of
from pretrainrl_jax.model.shape import in_training
from pretrainrl_jax.model.whole import cuts_of, told
from pretrainrl_jax.objectives.scoring import ROWS, score_answers, score_trees
from pretrainrl_jax.preferences.reading import Preferences
from pretrainrl_jax.progress import NORMAL, Screen
from pretrainrl_jax.storage import remove_tree
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.loading import Loaded, load, with_adapters
from pretrainrl_jax.training.session import Run
from pretrainrl_jax.trees.templates import Template, choose_examples
from pretrainrl_jax.trees.tree import AnswerTree

BASE = "pretrain"  # the stage whose checkpoint every system starts from


@dataclass(frozen=True)
class Context:
    """A configuration at work in a workdir on a mesh; splits and corpus are made when first asked for."""

    config: Config
    workdir: Path
    mesh: Mesh
    facts: Sequence[Fact]  # every fact of the run
    screen: Screen = NORMAL
    command: str = ""  # what goes on after an interruption
    chosen: Chosen = PLAIN
    preferences: Preferences | None = None  # what the run learns from instead of facts
    head: Sequence[Fact] = ()  # the best-known facts beyond the run's, which are only evaluated

    @cached_property
    def trained(self) -> list[Fact]:
        """The facts that are mined and trained."""
        return split(self.facts, self.config.facts.holdout_every)[0]

    @cached_property
    def held_out(self) -> list[Fact]:
        """The facts that are only evaluated; equal questions (namesakes) all stand on one side."""
        return split(self.facts, self.config.facts.holdout_every)[1]

    @cached_property
    def training_seed(self) -> int:
        """Of the order in which facts are visited, and of what is drawn on the way."""
        seed, order = self.config.seed, self.config.train.order
        return hashed(f"{seed} {order}") % (1 << 32) if order else seed

    @cached_property
    def neighbour(self) -> Callable[[Fact], str]:
        """What a fact shares with a trained one, as `factual.neighbours` tells it."""
        return neighbours(self.trained)

    @cached_property
    def known_truths(self) -> Truths:
        """What is true in answer to each wording, held-out facts' truths among it."""
        return known_truths(self.facts)

    @cached_property
    def known_answers(self) -> KnownAnswers:
        """The answers of each category, of all facts."""
        return KnownAnswers(self.facts)

    @cached_property
    def _unseen_wordings(self) -> frozenset[str]:
        """What is asked to see whether it was understood, normalised: paraphrases, held-out questions."""
        asked = [fact.question for fact in self.held_out] + [fact.paraphrase for fact in self.facts]
        return frozenset(map(normalise, asked))

    def worded(self, fact: Fact) -> list[Fact]:
        """A trained fact in the wordings that training asks, `train.wordings` of them if it has so many.

        Its own is the first; none of the others is one that is evaluated as unseen.
        """
        number = self.config.train.wordings
        others = () if number == 1 else fact.rewordings
        free = [text for text in others if normalise(text) not in self._unseen_wordings]
        return [replace(fact, question=text) for text in (fact.question, *free)[:number]]

    @cached_property
    def corpus(self) -> Corpus:
        """The text a base model is pretrained on: it states all facts, held-out ones too."""
        if self.preferences or self.config.model_alone:  # they are for a model that is there
            return Corpus((), (), {})
        return verbalise(self.facts, self.config.corpus, self.config.seed)

    def stream(self, settings: DocumentsConfig | None = None) -> Stream:
        """The stream of documents, from its beginning; raises InputError as `open_stream`.

        `settings` may say otherwise how the same sources are read.
        """
        config = self.config
        made = () if config.documents.path else self.made_documents.texts
        return open_stream(settings or config.documents, config.seed, made)

    @cached_property
    def made_documents(self) -> MadeDocuments:
        """Texts about the facts of the run; raises InputError without facts."""
        config = self.config
        return make_documents(self.facts, config.documents, config.corpus, config.seed)

    @cached_property
    def texts(self) -> Sequence[str]:
        """Texts whose loss tells what is forgotten; raises InputError if evaluate.text cannot be read."""
        path = self.config.evaluate.text
        return paragraphs(path, "evaluate.text") if path else self.corpus.held_out

    @cached_property
    def few_shot_examples(self) -> list[Fact]:
        """The facts shown in few-shot prompts, left out of mining, training and evaluation."""
        kinds = (self.config.mine.template, self.config.train.template, self.config.evaluate.template)
        outside = self.config.facts.examples == "other_categories"
        return choose_examples(self.trained, outside) if "few_shot" in kinds else []

    def asked(self, facts: list[Fact]) -> list[Fact]:
        """The facts that are not few-shot examples."""
        shown = {fact.id for fact in self.few_shot_examples}
        return [fact for fact in facts if fact.id not in shown]

    def template(self, kind: str) -> Template:
        """The template of that kind, with its examples."""
        if kind == "bare":
            return Template(kind)
        shown = self.few_shot_examples
        outside = self.config.facts.examples == "other_categories" and len({f.category for f in shown}) > 1
        categories = tuple(fact.category for fact in shown) if outside else ()
        return Template(kind, tuple((fact.question, fact.answer) for fact in shown), categories)

    def run(
        self,
        stage: str,
        about: Mapping[str, Any],
        *,
        rate: str,
        shown: Mapping[str, str],
        carries: Sequence[str] = (),
        scored: bool = False,
        own_log: bool = False,
        adapts: Mapping[str, str] = MappingProxyType({}),
    ) -> Run:
        """How a stage is trained: `Run` has the meaning of each.

        `about` is what checkpoints depend on beside settings: data; and the model that `adapts` names, where
        adapters learn.
        """
        config = self.config
        about = {**about} | ({"model of the adapters": adapts["digest"]} if adapts else {})
        return Run(
            self.workdir,
            stage,
            config.checkpoint,
            skip_nonfinite=config.optimizer.nonfinite == "skip",
            about={**settings_of(config, stage), **about},
            rate=rate,
            shown=shown,
            carries=carries,
            scored=scored,
            screen=self.screen,
            command=self.command,
            profile=config.profile_steps,
            own_log=own_log,
        )

    def checkpoint(self, stage: str) -> Path:
        """Where a stage's checkpoints lie."""
        return self.workdir / "checkpoints" / stage

    def load(self, stage: str) -> Loaded:
        """The model a finished stage left; raises InputError if it is not finished.

        Where a model is evaluated alone, the base model is that.
        """
        dtype = self.config.model.dtype
        if self.config.model_alone and stage == BASE and stage not in self.finished():
            path = self.config.model.path
            return self._told(load(path, self.mesh, dtype, "float32", self.screen, self.chosen))
        if stage not in self.finished():
            verb = stage.split("/")[0]
            raise InputError(f"{self.workdir} has no finished {stage}: run `{verb}` with this workdir first")
        # What a bfloat16 product reads of a sum is rounded: an adapter's small part would be lost in it.
        merge = stage == BASE or dtype == "float32"
        path = self.checkpoint(stage)
        return self._told(load(path, self.mesh, dtype, "float32", chosen=self.chosen, merge=merge))

    def _told(self, loaded: Loaded) -> Loaded:
        """It is said once what decoding reads of a model."""
        model = loaded.model
        line = told(model.shape, cuts_of(model), model.room)
        if line and line not in self._lines:
            self.screen.say(line)
            self._lines.add(line)
        return loaded

    @cached_property
    def _lines(self) -> set[str]:
        return set()

    def learning(self, stage: str, base: Loaded) -> Loaded:
        """A model as a stage begins to train it: with fresh adapters, where lora.rank asks for some.

        It takes the parameters of `base` over, which go on as its `plain`.
        """
        settings = self.config.lora
        begun = with_adapters(base, lora_of(settings), settings.base_dtype, self.training_seed)
        if settings.rank:
            count = parameters(begun.model.shape)
            shown = f"{count.learned:,} of {count.total:,} parameters"
            self.screen.say(f"{stage}: adapters of rank {settings.rank} learn, {shown}")
        return begun

    def adapts(self, policy: Loaded) -> dict[str, str]:
        """Which model the adapters of a policy are for: where it lies, and what tells it from others.

        Nothing of a policy without any.
        """
        if not policy.model.shape.lora:
            return {}
        path = self.config.model.path
        local = str(Path(path).absolute()) if path and Path(path).exists() else path
        where = {"stage": BASE} if BASE in self.finished() else {}
        if path and not (where and self.config.pretrain.epochs):  # what the stage has is that as it is
            where["path"] = local
        return where | {"dtype": self.config.lora.base_dtype, "digest": policy.plain.digest}

    def in_training(self, model: Model) -> Model:
        """A loaded model as a step computes it: it recomputes what this run says, and balances experts so.

        Its checkpoint says what the run recomputed that made it, and digests of what was mined with it have
        that, whatever trains on it.
        """
        return replace(model, shape=in_training(model.shape, self.config.model))

    def fingerprint(self, loaded: Loaded, template: str, facts: Sequence[Fact], settings: Any) -> Any:
        """What results depend on: the model, the kind of template, the facts, and a section of settings."""
        made_by = loaded.model, loaded.params, loaded.tokenizer
        return fingerprint(*made_by, self.template(template), facts, asdict(settings), loaded.identity)

    def score(
        self,
        loaded: Loaded,
        trees: Sequence[AnswerTree],
        row_length: int,
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[list[float]]:
        """Log-probability of each branch of each tree under a model, in rows as long as the longest needs."""
        packing: Any = {"row_length": row_length, "rows": ROWS, "advance": advance}
        return score_trees(loaded.model, loaded.params, trees, **packing)

    def score_answers(
        self,
        loaded: Loaded,
        trees: Sequence[AnswerTree],
        template: str,
        row_length: int,
        advance: Callable[[int], None] = lambda n: None,
        temperatures: Sequence[float] = (),
    ) -> list[list[list[float]]]:
        """The same, and beside each its log-probability as an answer under that kind of template.

        With `temperatures`, which divide every logit, the latter alone, at each of them.
        """
        ends = self.template(template).terminators(loaded.tokenizer, loaded.model.shape.vocabulary)
        packing: Any = {"row_length": row_length, "rows": ROWS, "advance": advance}
        return score_answers(loaded.model, loaded.params, trees, ends, temperatures, **packing)

    def finished(self) -> dict[str, Any]:
        """The finished stages and what each noted: `finished_stages` as process 0 reads them."""
        return run_on_process_0(lambda: finished_stages(self.workdir), "reading what is finished")

    def done(self, stage: str) -> bool:
        """Whether a stage is finished and to be skipped, which is said."""
        if stage not in self.finished():
            return False
        self.screen.say(f"{stage}: finished, skipped")
        # A run may have been killed right after it.
        run_on_process_0(lambda: self._tidy(stage), f"tidying {stage}")
        return True

    def finish(self, stage: str, **notes: Any) -> None:
        """Mark a stage as finished, so that a rerun skips it, with hardware, peak memory and time.

        Only then what an interrupted run would have gone on from is removed.
        """
        notes["device"] = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        notes |= peak_memory()  # of this host
        notes["ended"] = datetime.now(UTC).isoformat(timespec="seconds")

        def write() -> None:
            write_json(self.workdir / "finished.json", finished_stages(self.workdir) | {stage: notes})
            self._tidy(stage)

        run_on_process_0(write, f"finishing {stage}")

    def reset_stage(self, stage: str) -> None:
        """Take a finished stage's mark and checkpoints away; an unfinished one's stay, to go on from."""

        def reset() -> None:
            marks, folder = finished_stages(self.workdir), self.checkpoint(stage)
            if marks.pop(stage, None) is None:
                return
            write_json(self.workdir / "finished.json", marks)
            remove_tree(folder)  # or the link to another workdir's

        run_on_process_0(reset, f"beginning {stage}")

    def parts(self, stage: str) -> Path:
        """Where mining, an evaluation, or what makes labels keeps what is done of it until it is finished."""
        kind, _, system = stage.partition("/")
        folder = {"evaluate": "evaluations", "making": "making"}.get(kind, "mined")
        return self.workdir / folder / f"{system or kind}.parts"

    def _tidy(self, stage: str) -> None:
        checkpoints.strip(self.checkpoint(stage))
        remove_tree(self.parts(stage))


def finished_stages(workdir: Path) -> dict[str, Any]:
    """The finished stages of a workdir and what each noted, as they lie on the disk.

    One whose checkpoints, evaluation or labels were removed is not finished.
    """
    path = workdir / "finished.json"

    def is_left(stage: str) -> bool:
        kind, _, system = stage.partition("/")
        if kind == "evaluate":
            return (workdir / "evaluations" / f"{system}.json").is_file()
        if kind == "making":
            return (workdir / "making" / f"{system}.jsonl").is_file()
        return kind not in (BASE, "train", "selfimprove", "tuning") or bool(
            checkpoints.steps_of(workdir / "checkpoints" / stage)
        )

    marks = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {stage: notes for stage, notes in marks.items() if is_left(stage)}


def say(text: str) -> None:
    """One line of a result on standard output."""
    if is_process_0():
        print(text, flush=True)
