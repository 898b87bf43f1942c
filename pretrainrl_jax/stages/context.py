"""What every stage is given, and the record of what is finished in a workdir."""

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import Config, DocumentsConfig
from pretrainrl_jax.documents.stream import Stream
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
from pretrainrl_jax.model.decoder import PLAIN, Chosen
from pretrainrl_jax.model.whole import cuts_of, told
from pretrainrl_jax.objectives.scoring import ROWS, score_answers, score_trees
from pretrainrl_jax.preferences.reading import Preferences
from pretrainrl_jax.progress import NORMAL, SILENT, Screen
from pretrainrl_jax.storage import remove_tree
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.loading import Loaded, load
from pretrainrl_jax.trees.templates import Template, choose_examples
from pretrainrl_jax.trees.tree import AnswerTree

BASE = "pretrain"  # the stage whose checkpoint every system starts from
Notes = dict[str, Any]  # what is kept of a finished stage, as JSON


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
    _said: set[str] = field(default_factory=set, init=False)  # once

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
        """The stream of documents, from its beginning; raises InputError as `Stream`.

        `settings` may say otherwise how the same sources are read.
        """
        return Stream(settings or self.config.documents, self.config.seed, self.made_documents.texts)

    @cached_property
    def made_documents(self) -> MadeDocuments:
        """Texts about the facts of the run, none where there are others to read; InputError without facts."""
        config = self.config
        if config.documents.path:
            return MadeDocuments((), ())
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

    @cached_property
    def asked(self) -> list[Fact]:
        """The facts that are trained and not shown as few-shot examples."""
        shown = {fact.id for fact in self.few_shot_examples}
        return [fact for fact in self.trained if fact.id not in shown]

    def template(self, kind: str) -> Template:
        if kind == "bare":
            return Template(kind)
        shown = self.few_shot_examples
        outside = self.config.facts.examples == "other_categories" and len({f.category for f in shown}) > 1
        categories = tuple(fact.category for fact in shown) if outside else ()
        return Template(kind, tuple((fact.question, fact.answer) for fact in shown), categories)

    def checkpoint(self, stage: str) -> Path:
        return self.workdir / "checkpoints" / stage

    def load(self, stage: str) -> Loaded:
        """The model a finished stage left; raises InputError if it is not finished.

        Where a model is evaluated alone, the base model is that.
        """
        dtype, path, screen = self.config.model.dtype, self.checkpoint(stage), SILENT
        if stage not in self.finished():
            if not (self.config.model_alone and stage == BASE):
                otherwise = f"run `{stage.split('/')[0]}` with this workdir first"
                raise InputError(f"{self.workdir} has no finished {stage}: {otherwise}")
            path, screen = self.config.model.path, self.screen
        # What a bfloat16 product reads of a sum is rounded: an adapter's small part would be lost in it.
        merge = stage == BASE or dtype == "float32"
        loaded = load(path, self.mesh, dtype, "float32", screen, self.chosen, merge)
        model = loaded.model
        if line := told(model.shape, cuts_of(model), model.room):  # what decoding reads of it
            self.say_once(line)
        return loaded

    def say_once(self, line: str) -> None:
        if line not in self._said:
            self.screen.say(line)
            self._said.add(line)

    def fingerprint(self, loaded: Loaded, template: str, facts: Sequence[Fact], settings: Any = None) -> Any:
        """What results depend on: the model, the kind of template, the facts, and a section of settings."""
        made_by, named = (loaded.model, loaded.params, loaded.tokenizer), asdict(settings) if settings else {}
        return fingerprint(*made_by, self.template(template), facts, named, loaded.identity)

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
        advance: Callable[[int], None] = lambda n: None,
        temperatures: Sequence[float] = (),
    ) -> list[list[list[float]]]:
        """The same in rows of training, and beside each its log-probability as an answer under that template.

        With `temperatures`, which divide every logit, the latter alone, at each of them.
        """
        ends = self.template(template).terminators(loaded.tokenizer, loaded.model.shape.vocabulary)
        packing: Any = {"row_length": self.config.train.row_length, "rows": ROWS, "advance": advance}
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

    @contextmanager
    def working(self, stage: str) -> Generator[Notes]:
        """Within it a stage works, and notes what is to be kept of it; then it is marked as finished.

        A rerun skips it, and only then what an interrupted run would have gone on from is removed. Its time,
        hardware and peak memory are noted, too.
        """
        began, noted = time.perf_counter(), Notes()
        yield noted
        device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        notes = {"seconds": time.perf_counter() - began} | noted | {"device": device}
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
        files = {"evaluate": f"evaluations/{system}.json", "making": f"making/{system}.jsonl"}
        if kind in files:
            return (workdir / files[kind]).is_file()
        return kind not in (BASE, "train", "selfimprove", "tuning") or bool(
            checkpoints.steps_of(workdir / "checkpoints" / stage)
        )

    marks = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {stage: notes for stage, notes in marks.items() if is_left(stage)}


def say(text: str) -> None:
    """One line of a result on standard output."""
    if is_process_0():
        print(text, flush=True)


def read_json(path: Path) -> Any:
    """What a file holds; None where there is none, or nothing that can be read."""
    with suppress(FileNotFoundError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def kept_json(path: Path) -> Any:
    """The same, as process 0 reads it for all."""
    return run_on_process_0(lambda: read_json(path), f"reading {path.name}")


def keep_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Let process 0 write a file of JSON; `indent` as `write_json` has it."""
    run_on_process_0(lambda: write_json(path, value, indent), f"writing {path.name}")


def stage_of(system: str) -> str:
    """The stage that made a system: the base model, or one trained."""
    return BASE if system == "base" else f"train/{system}"
