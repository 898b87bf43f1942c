"""How questions are put to a model, and what is read of its answers: greedy, beams, samples, stated rules."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrainrl_jax.config import EvaluateConfig, MineConfig
from pretrainrl_jax.decoding.among import answers_among, known_answers
from pretrainrl_jax.decoding.answers import Answer, answer_questions, answer_text, distinct, read_answers
from pretrainrl_jax.decoding.decode import sample_batch
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.factual import OWN_WORDING, Outcome, Truth, judge
from pretrainrl_jax.facts.choices import choices, kind_of
from pretrainrl_jax.facts.matching import matches, normalise, truths_of
from pretrainrl_jax.facts.questions import read_templates, reversed_facts
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.splits import hashed
from pretrainrl_jax.knowledge.abstention import Verdict, rule, verdict
from pretrainrl_jax.knowledge.theory import Prompt, prompt_of
from pretrainrl_jax.mining.fingerprint import short_digest
from pretrainrl_jax.stages.context import Context, say
from pretrainrl_jax.stages.shards import in_parts
from pretrainrl_jax.training.loading import Loaded, find, load
from pretrainrl_jax.trees.templates import EXAMPLES, Examples, Template, encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

Question = tuple[Fact, str, str]  # with its wording and its group
Advance = Callable[[int], None]
Search = Callable[[Sequence[Question], Advance], list[list[Answer]]]
Work = Callable[[list[Question], Advance], list[Any]]


def questions_of(context: Context) -> list[Question]:
    """What `evaluate.groups` asks: facts, their paraphrases, those held out, answers the other way round.

    And the head beyond them (`facts.head`). Raises InputError if no fact is left to ask.
    """
    trained = context.asked
    if not trained:
        shown, held_out = len(context.few_shot_examples), len(context.held_out)
        raise InputError(
            f"no fact is left to evaluate: of {len(context.facts)}, {shown} are shown as examples "
            f"(evaluate.template) and {held_out} held out (facts.holdout_every): give more facts"
        )
    templates = read_templates(context.config.facts.reversed, "facts.reversed", "a", "answer")
    questions = [(fact, fact.question, "trained") for fact in trained]
    questions += [(fact, fact.paraphrase, "paraphrase") for fact in trained if fact.paraphrase]
    questions += [(fact, fact.question, "held_out") for fact in context.held_out]
    turned = reversed_facts(trained, context.facts, templates)
    questions += [(fact, fact.question, "reversed") for fact in turned]
    chosen = [question for question in questions if question[2] in context.config.evaluate.groups]
    return chosen + [(fact, fact.question, "head") for fact in context.head]


def as_facts(questions: Sequence[Question]) -> list[Question]:
    """Those about a fact in its own wording, trained or held out: what takes more asking is asked of them."""
    return [question for question in questions if question[2] in OWN_WORDING]


def outcome(context: Context, asked: Question, answers: Mapping[str, Any]) -> Outcome:
    """What the answers to a question are worth."""
    greedy, beams = (read_answers(answers[name]) for name in ("greedy", "beams"))
    return judge(*asked, greedy, beams, _truths(answers), context.config.evaluate.match, context.known_truths)


def prompt(context: Context, asked: Question, answers: Mapping[str, Any]) -> Prompt | None:
    """What the answers to a fact's own question are to theory; None of other wordings."""
    fact, wording, _ = asked
    if not as_facts([asked]):
        return None
    truths, rule = _truths(answers), context.config.evaluate.match
    beams, known = read_answers(answers["beams"]), context.known_truths
    return prompt_of(fact, wording, beams, truths, rule, known, context.known_answers)


def _truths(answers: Mapping[str, Any]) -> list[Truth]:
    return [Truth(t["text"], tuple(t["tokens"]), t["logp"]) for t in answers["truths"]]


def is_right(context: Context, asked: Question, text: str) -> bool:
    """Whether an answer to a question is true, by the rule of the evaluation and all that is known."""
    fact, wording, _ = asked
    return matches(text, truths_of(fact, wording, context.known_truths), context.config.evaluate.match)


class Asker:
    """A model that is asked as `settings` have it; of a stage whose parts keep what was asked (`_each`)."""

    def __init__(
        self, context: Context, loaded: Loaded, settings: EvaluateConfig | MineConfig, stage: str = ""
    ) -> None:
        self._context, self._loaded, self._settings, self._stage = context, loaded, settings, stage
        self._template = context.template(settings.template)
        self._tokenizer = loaded.tokenizer
        self._ends = self._template.terminators(loaded.tokenizer, loaded.model.shape.vocabulary)

    def made_with(self, facts: Sequence[Fact]) -> Any:
        """Digests of what answers to these depend on: the model, the template, the facts, the settings."""
        return self._context.fingerprint(self._loaded, self._settings.template, facts, self._settings)

    def in_parts(
        self, questions: Sequence[Question], folder: Path, made_with: Any, work: Work, *told: Any, **how: Any
    ) -> list[Any]:
        """`in_parts` over questions, those of like length together; `told`, `how`: what else it takes."""
        lengths = list(map(len, self._encoded(questions)))
        return in_parts(self._context, folder, made_with, questions, lengths, work, *told, **how)

    def _prompts(self, questions: Sequence[Question], template: Template | None = None) -> list[str]:
        """How a template puts them, that of the settings if it is not another."""
        template = template or self._template
        return [template.prefix(wording, fact.category) for fact, wording, _ in questions]

    def _encoded(self, questions: Sequence[Question]) -> list[tuple[int, ...]]:
        return self._tokenizer.encode_all(self._prompts(questions))

    def beams(
        self, width: int, questions: Sequence[Question], advance: Advance, template: Template | None = None
    ) -> list[list[Answer]]:
        """What a search so wide finds of each question, the most probable answer first."""
        loaded, settings, template = self._loaded, self._settings, template or self._template
        how: Any = {"max_new_tokens": settings.max_new_tokens, "batch": settings.batch, "advance": advance}
        model, prompts = (loaded.model, loaded.params, self._tokenizer), self._prompts(questions, template)
        return answer_questions(*model, template, prompts, beams=width, **how)

    def among(self, setting: str, questions: Sequence[Question]) -> tuple[dict[str, list[str]], Search]:
        """The known answers of each kind that `setting` names, and a search among a question's kind's."""
        settings, loaded = self._settings, self._loaded
        sets = choices(settings.among, self._context.facts, setting)

        def asked(part: Sequence[Question]) -> tuple[list[str], list[str]]:
            return self._prompts(part), [kind_of(settings.among, fact) for fact, _, _ in part]

        known = known_answers(self._tokenizer, self._ends, *asked(questions), sets)

        def search(part: Sequence[Question], advance: Advance) -> list[list[Answer]]:
            how: Any = {"beams": settings.beams, "batch": settings.batch, "advance": advance}
            return answers_among(loaded.model, loaded.params, self._tokenizer, *asked(part), known, **how)

        return sets, search

    def _each(
        self,
        questions: Sequence[Question],
        what: str,
        work: Work,
        read: Callable[[Question, Any], Any],
        depends: Any = None,
        **how: Any,
    ) -> list[Any]:
        """`in_parts` of the stage; `depends` is JSON of what else the results depend on."""
        wordings, folder = [wording for _, wording, _ in questions], self._context.parts(self._stage) / what
        made_with = [self.made_with([fact for fact, _, _ in questions]), wordings, depends]
        label = self._stage if what == "answers" else f"{self._stage}/{what}"
        return self.in_parts(questions, folder, made_with, work, label, "answers", read, **how)

    def ask_all(self, questions: Sequence[Question]) -> tuple[list[Outcome], list[Prompt]]:
        """Ask every question: greedily, by beam search, and by teacher forcing of the truth.

        Gives what the answers are worth, and of facts in their own wording (`as_facts`) what theory needs.
        """
        context = self._context
        answers_of = self._each(
            questions,
            "answers",
            self.answers,
            lambda asked, answers: (outcome(context, asked, answers), prompt(context, asked, answers)),
            units=3 if self._settings.beams > 1 else 2,
        )
        outcomes = [outcome for outcome, _ in answers_of]
        return outcomes, [prompt for _, prompt in answers_of if prompt]

    def answers(self, questions: Sequence[Question], advance: Advance = lambda n: None) -> list[Any]:
        """Of each question its greedy answer, its beams, and the log-probabilities of the truths."""
        settings = self._settings
        beams = greedy = self.beams(1, questions, advance)
        if settings.beams > 1:  # one beam is the greedy answer
            beams = self.beams(settings.beams, questions, advance)
        truths = [list(dict.fromkeys(fact.answers)) for fact, _, _ in questions]
        encoded = encode_branches(self._tokenizer, self._template, self._prompts(questions), truths)
        laid = zip(questions, encoded.prefixes, encoded.branches, strict=True)
        trees = [AnswerTree(fact.id, prefix, tuple(map(Branch, own))) for (fact, _, _), prefix, own in laid]
        scores = self._context.score_answers(self._loaded, trees, settings.template, advance)
        return [
            {
                "greedy": list(map(vars, best)),
                "beams": list(map(vars, beam)),
                "truths": [
                    Truth(text, branch.tokens[:-1], logp)._asdict()
                    for text, branch, (_, logp) in zip(own, tree.branches, logps, strict=True)
                ],
            }
            for best, beam, own, tree, logps in zip(greedy, beams, truths, trees, scores, strict=True)
        ]

    def ask_samples(self, questions: Sequence[Question]) -> list[list[tuple[str | None, bool]]]:
        """Answers drawn at temperature 1, normalised, and whether they are right; None has no end.

        What is drawn for a question depends on nothing but the seed and the question.
        """
        context, settings, tokenizer = self._context, self._context.config.evaluate, self._tokenizer

        def draw(part: list[Question], advance: Advance) -> list[Any]:
            drawn = sample_batch(
                self._loaded.model,
                self._loaded.params,
                [tokenizer.start + prompt for prompt in self._encoded(part)],
                self._ends,
                samples=settings.samples,
                max_new_tokens=settings.max_new_tokens,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                seed=context.config.seed,
                batch=settings.batch,
                numbers=[hashed(f"{fact.id} {wording}") % (1 << 31) for fact, wording, _ in part],
                advance=advance,
            )
            return [
                [answer_text(tokenizer, one.tokens) if one.finished else None for one in of_question]
                for of_question in drawn
            ]

        def read(asked: Question, texts: list[str | None]) -> list[tuple[str | None, bool]]:
            return [
                (None, False) if text is None else (normalise(text), is_right(context, asked, text))
                for text in texts
            ]

        return self._each(questions, "samples", draw, read)

    def ask_choices(self, questions: Sequence[Question]) -> list[tuple[str, bool, float]]:
        """The most probable answer of evaluate.among, whether it is right, and its own probability."""
        context = self._context
        sets, search = self.among("evaluate.among", questions)
        forms = {kind: frozenset(map(normalise, answers)) for kind, answers in sets.items()}
        truths = [{*map(normalise, f.answers), *context.known_truths.get(w, ())} for f, w, _ in questions]
        kinds = [kind_of(self._settings.among, fact) for fact, _, _ in questions]
        if lacking := sum(forms[kind].isdisjoint(own) for kind, own in zip(kinds, truths, strict=True)):
            where = f"of {len(questions)} questions have no true answer among those of evaluate.among"
            context.screen.say(f"{self._stage}: {lacking} {where}")

        def choose(part: list[Question], advance: Advance) -> list[Any]:
            return [[answers[0].text, answers[0].logp] for answers in search(part, advance)]

        def read(question: Question, answer: Any) -> tuple[str, bool, float]:
            text, logp = answer
            return text, is_right(context, question, text), math.exp(logp)

        return self._each(questions, "choice", choose, read, short_digest(sets))

    def ask_by_rule(self, questions: Sequence[Question], penalty: float) -> list[Verdict]:
        """The greedy answers to prompts that state what a mistake costs, and allow "I don't know"."""
        template = replace(self._template, rule=rule(penalty))

        def work(part: list[Question], advance: Advance) -> list[Any]:
            greedy = self.beams(1, part, advance, template)
            return [[answers[0].text, answers[0].finished] if answers else ["", False] for answers in greedy]

        def read(asked: Question, answer: Any) -> Verdict:
            text, finished = answer
            return verdict(text, finished and is_right(self._context, asked, text))

        return self._each(questions, f"rubric {penalty:g}", work, read)


def ask(context: Context, question: str, kind: str, examples: Examples) -> None:
    """`ask`: the most probable answers of `model.path`, or of the workdir's newest model, with probabilities.

    It is asked as it was trained, or by the kind of template named; a few-shot prompt shows these examples,
    or those it was trained with, or ours.
    """
    screen, settings = context.screen, context.config.evaluate
    path = context.config.model.path or context.workdir
    loaded = load(path, context.mesh, chosen=context.chosen)
    screen.say(f"model {path if context.config.model.path else find(path)[0]}")
    template = loaded.template
    if kind and (examples or kind != template.kind):
        template = Template(kind, (examples or EXAMPLES) if kind == "few_shot" else ())
    (beams,) = answer_questions(
        loaded.model,
        loaded.params,
        loaded.tokenizer,
        template,
        [template.prefix(question.strip())],
        beams=settings.beams,
        max_new_tokens=settings.max_new_tokens,
        batch=1,
    )
    answers = distinct(a for a in beams if a.finished).values()
    for answer in sorted(answers, key=lambda a: -a.logp):
        say(f"{math.exp(answer.logp):7.2%}  {answer.text or '(nothing)'}")
    if not answers:
        screen.say(f"no answer ends within evaluate.max_new_tokens={settings.max_new_tokens} tokens; so far:")
        for begun in beams:
            say(f"{100 * math.exp(begun.logp):7.3g}%  {loaded.tokenizer.decode(begun.tokens).strip()} …")
