"""From an evaluation's answers to the lower bounds of `bounds`, with everything that they are made of.

Prompts are questions in the trained wording, trained and held out ones. Of each
- p is all on the canonical answer, which is the one that statements give;
- V_c are its true answers, distinct when normalised, each as probable as its spellings together: those that
  were teacher-forced, and those among the finished beams;
- E_c are the category's known answers (of all facts, aliases too) and the question's own false beams, without
  what is true. For the singleton bound they are the known answers alone: the set from which the true one is
  imagined to be drawn;
- what the model says else is `outside`: answers unknown or not found, and those without an end.

docs/theory.md lists what `theory` gives, as JSON.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pretrainrl_jax.decoding.answers import Answer
from pretrainrl_jax.evaluation.factual import Truth
from pretrainrl_jax.facts.matching import Truths, matches, normalise, truths_of
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.knowledge import bounds
from pretrainrl_jax.knowledge.bounds import Answers, Measured
from pretrainrl_jax.knowledge.singletons import Counts

Json = dict[str, Any]
Rule = Literal["exact", "contains"]
ROUNDING = 1e-6  # of sums of probabilities


class KnownAnswers:
    """The answers of each category, normalised, aliases among them."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._of: defaultdict[str, set[str]] = defaultdict(set)
        self._with_word: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for fact in facts:
            self._of[fact.category].update(filter(None, map(normalise, fact.answers)))
        for category, answers in self._of.items():
            for answer in answers:
                for word in set(answer.split()):
                    self._with_word[category, word].append(answer)

    def has(self, category: str, answer: str) -> bool:
        """Whether a normalised answer is one of the category."""
        return answer in self._of[category]

    def false(self, category: str, truths: Iterable[str], rule: Rule) -> int:
        """How many of the category's answers no normalised truth makes right."""
        right: set[str] = set()
        for truth in truths:
            may = {truth} if rule == "exact" else self._with_word[category, truth.split()[0]]
            right.update(answer for answer in may if matches(answer, [truth], rule))
        return len(self._of[category]) - len(self._of[category] & right)


@dataclass(frozen=True)
class Prompt:
    """A question with what the model's probabilities are of its answers, each distinct when normalised."""

    fact: str  # id
    category: str
    answer: str  # the canonical one, normalised
    valid: tuple[float, ...]  # of each true answer, the canonical one before all; not asked and not found: 0
    wrong: tuple[float, ...]  # of each false beam that is an answer of the category
    other: tuple[float, ...]  # of each other false beam
    known: int  # answers of the category that are false here

    def answers(self, wrong: Sequence[float]) -> Answers:
        """What bounds need, of erroneous answers with these probabilities; p is all on the canonical one."""
        true = [1.0, *[0.0] * (len(self.valid) - 1)]
        erroneous = self.known + len(wrong) - len(self.wrong)
        return Answers(true, self.valid, wrong, erroneous)


def prompt_of(
    fact: Fact,
    question: str,
    beams: Sequence[Answer],
    forced: Sequence[Truth],
    rule: Rule,
    known: Truths,
    answers: KnownAnswers,
) -> Prompt:
    """What theory needs of a question.

    The arguments are those of `evaluation.factual.judge`, and what is right is so by the same rule; `answers`
    are of all facts. `forced` may hold more answers that were scored, false ones too: with all answers of the
    category nothing of them is missed.
    """
    truths = truths_of(fact, question, known)
    canonical = normalise(fact.answer)
    valid = dict.fromkeys(filter(None, (canonical, *map(normalise, truths))), 0.0)
    every = {truth.tokens: (truth.text, truth.logp) for truth in forced}
    every |= {a.tokens: (a.text, a.logp) for a in beams if a.finished and a.tokens not in every}
    wrong: dict[str, float] = {}
    for text, logp in every.values():
        masses = valid if matches(text, truths, rule) else wrong
        key = normalise(text)
        masses[key] = masses.get(key, 0.0) + math.exp(logp)
    wrong.pop("", None)  # an answer of nothing is no plausible one
    return Prompt(
        fact.id,
        fact.category,
        canonical,
        tuple(valid.values()),
        tuple(q for key, q in wrong.items() if answers.has(fact.category, key)),
        tuple(q for key, q in wrong.items() if not answers.has(fact.category, key)),
        answers.false(fact.category, filter(None, map(normalise, truths)), rule),
    )


def theory(prompts: Sequence[Prompt], counts: Counts | None, told_more: bool) -> Json:
    """The bounds and their terms, as the module says, of `prompt_of` each question in the trained wording.

    `counts` are of the training text, None where it is not known; `told_more`: the model has learned from
    more than that, as every trained system has.
    """
    usable = [prompt for prompt in prompts if prompt.known + len(prompt.other)]
    by_category: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in usable:
        by_category[prompt.category].append(prompt)
    largest = sorted(by_category.items(), key=lambda item: (-len(item[1]), item[0]))
    categories: list[Json] = [{"category": name} | _iiv(own) for name, own in largest]
    each = math.fsum(max(0.0, one["bound"]) * one["questions"] for one in categories)
    result: Json = {
        "questions": len(prompts),
        "without_errors": len(prompts) - len(usable),
        "iiv": _iiv(usable) | {"bound_of_categories": each / len(usable)} if usable else None,
        "categories": categories,
        "statements": _counted(counts) if counts else None,
        "singleton": _singleton(prompts, counts, told_more) if counts and counts.statements else None,
    }
    return result | {"notes": [*_notes(result), *(counts.notes if counts else ())]}


def _iiv(prompts: Sequence[Prompt]) -> Json:
    terms = bounds.measure([prompt.answers((*prompt.wrong, *prompt.other)) for prompt in prompts])
    return _bound(terms, bounds.iiv_bound(terms)) | {"size_term": terms.max_valid / terms.min_erroneous}


def _singleton(prompts: Sequence[Prompt], counts: Counts, told_more: bool) -> Json | None:
    usable = [prompt for prompt in prompts if prompt.known]
    weights, covered = [1.0] * len(usable), None
    if counts.shares is not None:
        weights = [counts.shares[prompt.fact] for prompt in usable]
        covered = math.fsum(weights)
    if not any(weights):
        return None
    terms = bounds.measure([prompt.answers(prompt.wrong) for prompt in usable], weights)
    result = _bound(terms, bounds.singleton_bound(terms, counts.stated(1), counts.statements)) | {
        "singleton_rate": counts.singleton_rate,
        "size_term": 2 / terms.min_erroneous,
        "sample_term": bounds.sample_term(counts.statements),
        "weights": "equal" if counts.shares is None else "statements",
        "covered": covered,
        "told_more": told_more,
    }
    return result | ({"holds": None} if told_more else {})


def _bound(terms: Measured, bound: float) -> Json:
    """What both bounds have."""
    holds, known = terms.error >= bound - ROUNDING, bound - terms.outside
    return {"bound": bound, "vacuous": bound <= 0, "bound_known": known, "holds": holds, **vars(terms)}


def _counted(counts: Counts) -> Json:
    told: Json = {name: getattr(counts, name) for name in ("source", "texts", "characters")}
    told["prompts"] = len(counts.occurrences)
    told["stated"] = len(counts.occurrences) - counts.stated(0)
    told |= {name: getattr(counts, name) for name in ("statements", "false", "unknown")}
    told |= {"singletons": counts.stated(1), "doubletons": counts.stated(2)}
    if not counts.statements:
        return told | {"singleton_rate": None, "missing_mass": None}
    rate, interval = counts.singleton_rate, list(counts.missing_mass_interval())
    missing = {"good_turing": rate, "interval": interval, "true": counts.missing_mass}
    return told | {"singleton_rate": rate, "missing_mass": missing}


def _notes(result: Json) -> Iterator[str]:
    """What a reader must know of these numbers, and no table of them shows."""
    singleton = result["singleton"]
    if result["iiv"]:
        yield (
            "The error is how often an answer drawn from the model at temperature 1 is not true; greedy "
            "answers may be wrong more rarely."
        )
    if not result["statements"]:
        yield "Singletons are not counted: the training text is not known; evaluate.statements may name it."
    if singleton and singleton["covered"] is None:
        yield (
            "In the singleton bound all questions weigh the same; the theorem weighs them by how probable "
            "they are in a statement, which is not known."
        )
    elif singleton and singleton["covered"] < 1 - ROUNDING:
        yield f"The questions asked are {singleton['covered']:.1%} of what statements are drawn from."
