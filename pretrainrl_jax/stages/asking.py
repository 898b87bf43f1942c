"""How questions are put to a model, and what is read of its answers: greedy, beams, samples, stated rules."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pretrainrl_jax.config import EvaluateConfig, MineConfig
from pretrainrl_jax.decoding.among import answers_among, known_answers
from pretrainrl_jax.decoding.answers import Answer, answer_questions, answer_text, read_answers
from pretrainrl_jax.decoding.decode import sample_batch
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.factual import OWN_WORDING, Outcome, Truth, distinct_truths, judge
from pretrainrl_jax.facts.choices import choices, kind_of
from pretrainrl_jax.facts.matching import matches, normalise, truths_of
from pretrainrl_jax.facts.questions import read_templates, reversed_facts
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.splits import hashed
from pretrainrl_jax.knowledge.abstention import Verdict, rule, verdict
from pretrainrl_jax.knowledge.theory import Prompt, prompt_of
from pretrainrl_jax.mining.fingerprint import short_digest
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.shards import in_parts
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.templates import Template, encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

Question = tuple[Fact, str, str]  # with its wording and its group
Search = Callable[[Sequence[Question], Callable[[int], None]], list[list[Answer]]]


def questions_of(context: Context) -> list[Question]:
    """What `evaluate.groups` asks: facts, their paraphrases, those held out, answers the other way round.

    And the head beyond them (`facts.head`). Raises InputError if no fact is left to ask.
    """
    trained = context.asked(context.trained)
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


def ask_all(
    context: Context, loaded: Loaded, questions: Sequence[Question], stage: str
) -> tuple[list[Outcome], list[Prompt]]:
    """Ask every question: greedily, by beam search, and by teacher forcing of the truth.

    Returns:
        What the answers are worth; and of the facts in their own wording (`as_facts`) what theory needs.
    """
    answers_of = _each(
        context,
        loaded,
        questions,
        stage,
        "answers",
        lambda part, advance: answers(context, loaded, part, advance),
        lambda asked, answers: (outcome(context, asked, answers), prompt(context, asked, answers)),
        units=3 if context.config.evaluate.beams > 1 else 2,
        metrics=lambda results: rates([outcome for outcome, _ in results]),
    )
    outcomes = [outcome for outcome, _ in answers_of]
    return outcomes, [prompt for _, prompt in answers_of if prompt]


def _each(
    context: Context,
    loaded: Loaded,
    questions: Sequence[Question],
    stage: str,
    what: str,
    work: Callable[[list[Question], Callable[[int], None]], list[Any]],
    read: Callable[[Question, Any], Any],
    units: int = 1,
    metrics: Callable[[list[Any]], dict[str, float]] = lambda results: {},
    depends: Any = None,
) -> list[Any]:
    """`in_parts` over questions, those of like length together; `units` are what is done of each.

    `depends` is JSON of what the results depend on beside model, template, questions and settings.
    """
    settings = context.config.evaluate
    template = context.template(settings.template)
    facts, wordings = [fact for fact, _, _ in questions], [wording for _, wording, _ in questions]
    lengths = list(map(len, loaded.tokenizer.encode_all(prompts_of(template, questions))))
    made_with = context.fingerprint(loaded, settings.template, facts, settings)
    return in_parts(
        context,
        context.parts(stage) / what,
        [made_with, wordings, depends],
        questions,
        lengths,
        work,
        stage if what == "answers" else f"{stage}/{what}",
        "answers",
        read,
        units,
        metrics,
    )


def prompts_of(template: Template, questions: Sequence[Question]) -> list[str]:
    """How a template puts them."""
    return [template.prefix(wording, fact.category) for fact, wording, _ in questions]


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


def rates(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Shares of questions: greedily right, and right in any beam."""
    hits = [o.rank is not None for o in outcomes]
    return {"ACC": float(np.mean([o.correct for o in outcomes])), "HR": float(np.mean(hits))}


def answers(
    context: Context,
    loaded: Loaded,
    questions: Sequence[Question],
    advance: Callable[[int], None] = lambda n: None,
) -> list[Any]:
    """Of each question its greedy answer, its beams, and the log-probabilities of the truths."""
    settings = context.config.evaluate
    template = context.template(settings.template)
    beams = greedy = beams_of(loaded, settings, template, 1, questions, advance)
    if settings.beams > 1:  # one beam is the greedy answer
        beams = beams_of(loaded, settings, template, settings.beams, questions, advance)
    truths = [list(distinct_truths(fact)) for fact, _, _ in questions]
    encoded = encode_branches(loaded.tokenizer, template, prompts_of(template, questions), truths)
    trees = [
        AnswerTree(fact.id, prefix, tuple(Branch(tokens) for tokens in branches))
        for (fact, _, _), prefix, branches in zip(questions, encoded.prefixes, encoded.branches, strict=True)
    ]
    scores = context.score_answers(loaded, trees, settings.template, advance)
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


def beams_of(
    loaded: Loaded,
    settings: EvaluateConfig | MineConfig,
    template: Template,
    beams: int,
    questions: Sequence[Question],
    advance: Callable[[int], None],
) -> list[list[Answer]]:
    """What a search so wide finds of each question, the most probable answer first."""
    return answer_questions(
        loaded.model,
        loaded.params,
        loaded.tokenizer,
        template,
        prompts_of(template, questions),
        beams=beams,
        max_new_tokens=settings.max_new_tokens,
        batch=settings.batch,
        advance=advance,
    )


def among_known(
    context: Context,
    loaded: Loaded,
    settings: EvaluateConfig | MineConfig,
    setting: str,
    questions: Sequence[Question],
) -> tuple[dict[str, list[str]], Search]:
    """The known answers of each kind that `setting` names, and a search among those of a question's kind."""
    template, tokenizer = context.template(settings.template), loaded.tokenizer
    sets = choices(settings.among, context.facts, setting)

    def asked(part: Sequence[Question]) -> tuple[list[str], list[str]]:
        return prompts_of(template, part), [kind_of(settings.among, fact) for fact, _, _ in part]

    ends = template.terminators(tokenizer, loaded.model.shape.vocabulary)
    known = known_answers(tokenizer, ends, *asked(questions), sets)

    def search(part: Sequence[Question], advance: Callable[[int], None]) -> list[list[Answer]]:
        model, width = (loaded.model, loaded.params, tokenizer), settings.beams
        return answers_among(*model, *asked(part), known, beams=width, batch=settings.batch, advance=advance)

    return sets, search


def ask_samples(
    context: Context, loaded: Loaded, questions: Sequence[Question], stage: str
) -> list[list[tuple[str | None, bool]]]:
    """Answers drawn at temperature 1, normalised, and whether they are right; None has no end.

    What is drawn for a question depends on nothing but the seed and the question.
    """
    settings = context.config.evaluate
    template, tokenizer = context.template(settings.template), loaded.tokenizer
    ends = template.terminators(tokenizer, loaded.model.shape.vocabulary)

    def draw(part: list[Question], advance: Callable[[int], None]) -> list[Any]:
        prompts = tokenizer.encode_all(prompts_of(template, part))
        drawn = sample_batch(
            loaded.model,
            loaded.params,
            [tokenizer.start + prompt for prompt in prompts],
            ends,
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

    return _each(context, loaded, questions, stage, "samples", draw, read)


def ask_choices(
    context: Context, loaded: Loaded, questions: Sequence[Question], stage: str
) -> list[tuple[str, bool, float]]:
    """The most probable of the answers of evaluate.among, whether it is right, and its own probability."""
    settings = context.config.evaluate
    sets, search = among_known(context, loaded, settings, "evaluate.among", questions)
    forms = {kind: frozenset(map(normalise, answers)) for kind, answers in sets.items()}
    truths = [{*map(normalise, f.answers), *context.known_truths.get(w, ())} for f, w, _ in questions]
    kinds = [kind_of(settings.among, fact) for fact, _, _ in questions]
    if lacking := sum(forms[kind].isdisjoint(own) for kind, own in zip(kinds, truths, strict=True)):
        where = f"of {len(questions)} questions have no true answer among those of evaluate.among"
        context.screen.say(f"{stage}: {lacking} {where}")

    def choose(part: list[Question], advance: Callable[[int], None]) -> list[Any]:
        return [[answers[0].text, answers[0].logp] for answers in search(part, advance)]

    def read(question: Question, answer: Any) -> tuple[str, bool, float]:
        text, logp = answer
        return text, is_right(context, question, text), math.exp(logp)

    return _each(context, loaded, questions, stage, "choice", choose, read, depends=short_digest(sets))


def ask_by_rule(
    context: Context, loaded: Loaded, questions: Sequence[Question], penalty: float, stage: str
) -> list[Verdict]:
    """The greedy answers to prompts that state what a mistake costs, and that "I don't know" is allowed."""
    settings = context.config.evaluate
    template = replace(context.template(settings.template), rule=rule(penalty))

    def work(part: list[Question], advance: Callable[[int], None]) -> list[Any]:
        greedy = beams_of(loaded, settings, template, 1, part, advance)
        return [[answers[0].text, answers[0].finished] if answers else ["", False] for answers in greedy]

    def read(asked: Question, answer: Any) -> Verdict:
        text, finished = answer
        return verdict(text, finished and is_right(context, asked, text))

    return _each(context, loaded, questions, stage, f"rubric {penalty:g}", work, read)


def is_right(context: Context, asked: Question, text: str) -> bool:
    """Whether an answer to a question is true, by the rule of the evaluation and all that is known."""
    fact, wording, _ = asked
    truths = truths_of(fact, wording, context.known_truths)
    return matches(text, truths, context.config.evaluate.match)
