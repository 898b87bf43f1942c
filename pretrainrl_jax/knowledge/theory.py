"""From an evaluation's answers to the lower bounds of `bounds`, with everything that they are made of.

Prompts are questions in the trained wording, trained and held out ones. Of each
- p is all on the canonical answer, which is the one that statements give;
- V_c are its true answers, distinct when normalised, each as probable as its spellings together: those that
  were teacher-forced, and those among the finished beams;
- E_c are the category's known answers (of all facts, aliases too) and the question's own false beams, without
  what is true. For the singleton bound they are the known answers alone: the set from which the true one is
  imagined to be drawn;
- what the model says else is `outside`: answers unknown or not found, and those without an end.

What `theory` gives, as JSON (shares in [0, 1]; a bound may be below):

    "questions"         prompts
    "without_errors"    of them, those of which no erroneous answer is known: they are in no bound
    "iiv"               BOUND of all prompts, each weighing the same; null without any. It also has
                        "bound_of_categories", what the categories' bounds come to together
    "categories"        [{"category", …BOUND}], the same of each category alone, the largest first
    "statements"        COUNTS of the training text; null where it is not known
    "singleton"         SINGLETON; null without statements or prompts
    "notes"             sentences: what the numbers assume, and where that does not hold

BOUND: "questions"; "bound" = 2 "err_iiv" - "size_term" - "delta", "vacuous" if it is 0 or less; "err_iiv" =
("gold_missed" + "errors_taken") / 2 and "err_iiv_most", if as many answers that were not found as possible
were above the threshold; "size_term" = "max_valid" / "min_erroneous"; "threshold" = 1 / "min_erroneous";
"delta" = |"p_hat_above" - "p_above"|; measured: "error", what is not valid, and "error_known", what is known
to be erroneous, both of answers drawn at temperature 1, "outside" = "error" - "error_known"; "bound_known" =
"bound" - "outside", what "error_known" is at least; "incomplete", prompts of which an answer above the
threshold may not have been found; "holds", "error" >= "bound".

COUNTS: "source", "texts", "characters", "prompts" (of the facts), "stated" (of them, at least once),
"statements" (N), "false" (of them) and "unknown" (no statement of these prompts), null where nobody looked,
"singletons", "doubletons", "singleton_rate" (null without statements), "missing_mass": {"good_turing",
"interval", "true"}, the probability that a new statement is of a prompt never stated: estimated (it is the
singleton rate), its 95 % interval, and as it is, null where not known.

SINGLETON: "bound" = "singleton_rate" - "size_term" - "sample_term" - "delta"; "vacuous", "size_term" = 2 /
"min_erroneous", "sample_term" = (35 + 6 ln N) / sqrt(N), and "threshold", "delta", "p_hat_above",
"p_above", "error", "error_known", "outside", "bound_known" as above, with other weights and E_c;
"delta_most": "delta" if the answers not found were above the threshold. "weights": "statements" (prompts
weigh what their probability in a statement is) or "equal" (it is not known). "covered": probability of the
prompts that were asked, null for equal weights. "told_more": the model has learned from more than these
statements, so that the theorem says nothing of it and "holds" is null. "guess": how often the category's
commonest answer is right; "guess_uniform": how often it were if answers were drawn evenly, as the theorem
has it.
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
    question: str
    category: str
    answer: str  # the canonical one, normalised
    valid: tuple[float, ...]  # of each true answer, the canonical one before all; not asked and not found: 0
    wrong: tuple[float, ...]  # of each false beam that is an answer of the category
    other: tuple[float, ...]  # of each other false beam
    known: int  # answers of the category that are false here
    unfound: float  # of all that was neither found nor asked

    def answers(self, wrong: Sequence[float]) -> Answers:
        """What bounds need, of erroneous answers with these probabilities; p is all on the canonical one."""
        true = [1.0, *[0.0] * (len(self.valid) - 1)]
        erroneous = self.known + len(wrong) - len(self.wrong)
        return Answers(true, self.valid, wrong, erroneous, self.unfound)


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
    said = math.fsum((*valid.values(), *wrong.values()))
    wrong.pop("", None)  # an answer of nothing is no plausible one
    return Prompt(
        fact.id,
        question,
        fact.category,
        canonical,
        tuple(valid.values()),
        tuple(q for key, q in wrong.items() if answers.has(fact.category, key)),
        tuple(q for key, q in wrong.items() if not answers.has(fact.category, key)),
        answers.false(fact.category, filter(None, map(normalise, truths)), rule),
        max(0.0, 1 - said),
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
    return result | {"notes": list(_notes(result, counts))}


def _iiv(prompts: Sequence[Prompt]) -> Json:
    terms = bounds.measure([prompt.answers((*prompt.wrong, *prompt.other)) for prompt in prompts])
    names = ("gold_missed", "errors_taken", "max_valid", "incomplete")
    return {
        "questions": terms.questions,
        **_bound(terms, bounds.iiv_bound(terms)),
        "err_iiv": terms.err_iiv,
        "err_iiv_most": (terms.gold_missed + terms.errors_taken_most) / 2,
        "size_term": terms.max_valid / terms.min_erroneous,
        **{name: getattr(terms, name) for name in names},
    }


def _singleton(prompts: Sequence[Prompt], counts: Counts, told_more: bool) -> Json | None:
    usable = [prompt for prompt in prompts if prompt.known]
    weights, covered = [1.0] * len(usable), None
    if counts.shares is not None:
        weights = [counts.shares[prompt.fact] for prompt in usable]
        covered = math.fsum(weights)
    if not any(weights):
        return None
    terms = bounds.measure([prompt.answers(prompt.wrong) for prompt in usable], weights)
    bound = bounds.singleton_bound(terms, counts.stated(1), counts.statements)
    guess, uniform = _guesses(usable, weights)
    result = {
        **_bound(terms, bound),
        "singleton_rate": counts.singleton_rate,
        "size_term": 2 / terms.min_erroneous,
        "delta_most": terms.delta_most,
        "sample_term": bounds.sample_term(counts.statements),
        "weights": "equal" if counts.shares is None else "statements",
        "covered": covered,
        "told_more": told_more,
        "guess": guess,
        "guess_uniform": uniform,
    }
    return result | ({"holds": None} if told_more else {})


def _bound(terms: Measured, bound: float) -> Json:
    """What both bounds have."""
    names = (
        "min_erroneous", "threshold", "delta", "p_hat_above", "p_above", "error", "error_known", "outside"
    )  # fmt: skip
    return {
        "bound": bound,
        "vacuous": bound <= 0,
        **{name: getattr(terms, name) for name in names},
        "bound_known": bound - terms.outside,
        "holds": terms.error >= bound - ROUNDING,
    }


def _guesses(prompts: Sequence[Prompt], weights: Sequence[float]) -> tuple[float, float]:
    """How often the category's commonest answer is right, and how often if all were as common."""
    often: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for prompt, weight in zip(prompts, weights, strict=True):
        often[prompt.category][prompt.answer] += weight
    total = math.fsum(weights)
    evenly = (w / (prompt.known + 1) for prompt, w in zip(prompts, weights, strict=True))
    return sum(max(tally.values()) for tally in often.values()) / total, math.fsum(evenly) / total


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


def _notes(result: Json, counts: Counts | None) -> Iterator[str]:
    """What a reader must know of these numbers."""
    iiv, singleton, stated = result["iiv"], result["singleton"], result["statements"]
    if iiv:
        yield (
            "The error is how often an answer drawn from the model at temperature 1 is not true; greedy "
            "answers may be wrong more rarely."
        )
        yield (
            "The theorem assumes that a model says nothing but valid and known erroneous answers; of this "
            f"one's {iiv['outside']:.1%} are neither. The bound holds with these counted as errors; known "
            f"errors alone are at least {iiv['bound_known']:.3f}."
        )
        if iiv["vacuous"]:
            yield "The bound for any model is 0 or less: it says nothing here."
        if iiv["incomplete"]:
            yield (
                f"Of {iiv['incomplete']} questions beam search may have missed an answer above the "
                f"threshold: the bound holds all the same; err_iiv may be up to {iiv['err_iiv_most']:.3f}."
            )
    if without := result["without_errors"]:
        yield f"{without} questions are in no bound: no erroneous answer of them is known."
    if not stated:
        yield "Singletons are not counted: the training text is not known; evaluate.statements may name it."
    elif not stated["statements"]:
        yield "The training text states none of the facts: there is no singleton rate."
    elif stated["false"]:
        share = stated["false"] / stated["statements"]
        yield f"{share:.1%} of the statements are false; the theorems assume that none is."
    if singleton:
        if singleton["vacuous"]:
            yield (
                "The singleton bound is 0 or less: it says nothing here. The correction for "
                f"N = {stated['statements']:,} statements alone is {singleton['sample_term']:.3f}."
            )
        if singleton["told_more"]:
            yield (
                "The singleton bound is of models that learned from the counted statements alone. This one "
                "was told more: it may err less."
            )
        if singleton["weights"] == "equal":
            yield (
                "In the singleton bound all questions weigh the same; the theorem weighs them by how "
                "probable they are in a statement, which is not known."
            )
        elif singleton["covered"] < 1 - ROUNDING:
            yield f"The questions asked are {singleton['covered']:.1%} of what statements are drawn from."
        yield (
            "The singleton bound assumes answers that cannot be guessed, drawn evenly. The commonest of a "
            f"category would then be right in {singleton['guess_uniform']:.1%}; it is in "
            f"{singleton['guess']:.1%}."
        )
    yield from counts.notes if counts else ()
