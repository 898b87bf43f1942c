"""What may be wrong with the negatives of a question: how plausible, how whole, and how false they are."""

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pretrainrl_jax.facts.matching import normalise, overlaps
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.mining.statistics import rejected
from pretrainrl_jax.trees.tree import AnswerTree, Branch, total

Json = dict[str, Any]

EXAMPLES = 5  # shown of each fault
SHORT = 2  # characters of a fragment, where the truths of its category are longer
# A truth less probable than this counts as so probable: any nonsense is as probable as the truth of a fact
# that the model has never seen, and what can be gained from a negative is the probability it holds.
LEAST_TRUTH = 0.01


def quality(trees: Sequence[AnswerTree], facts: Sequence[Fact]) -> Json:
    """Of the questions that have negatives, how many have bad ones, as plain values for JSON.

    `odds` counts them by the whole part of log10 of the probability that all negatives of a question hold,
    divided by that of its truth or by `LEAST_TRUTH`. `fragments` and `hidden_truths` count questions of whose
    negatives at least half are fragments, or any is true. `most_believed` is, of each category, the text that
    is the most probable negative of the most questions. Reference log-probabilities of the trees count all
    terminators here; `facts` are all that are known, those of the trees among them.
    """
    by_id = {fact.id: fact for fact in facts}
    asked = [(by_id[tree.id], negatives, tree) for tree in trees if (negatives := rejected(tree))]
    hidden, fragment = _is_hidden(facts), _is_fragment(facts)
    odds, fragments, truths = Counter[int](), list[list[str]](), list[list[str]]()
    commonest: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for fact, negatives, tree in asked:
        held = max(sum(math.exp(total(b.reference_logp)) for b in negatives), 1e-300)
        truth = max(math.exp(total(chosen(tree).reference_logp)), LEAST_TRUTH)
        odds[math.floor(math.log10(held / truth))] += 1
        texts = [b.text for b in negatives]
        commonest[fact.category][normalise(texts[0])] += 1
        parts = [text for text in texts if fragment(fact, text, texts)]
        if 2 * len(parts) >= len(texts):
            fragments.append([fact.question, parts[0]])
        if true := [text for text in texts if hidden(fact, text)]:
            truths.append([fact.question, true[0]])
    return {
        "questions": len(asked),
        "odds": {str(power): count for power, count in sorted(odds.items())},
        "fragments": {"questions": len(fragments), "examples": fragments[:EXAMPLES]},
        "hidden_truths": {"questions": len(truths), "examples": truths[:EXAMPLES]},
        "most_believed": {
            category: {"text": text, "questions": count, "of": counts.total()}
            for category, counts in commonest.items()
            for text, count in counts.most_common(1)
        },
    }


def chosen(tree: AnswerTree) -> Branch:
    """A tree's true answer."""
    return next(branch for branch in tree.branches if branch.role == "chosen")


def _is_fragment(facts: Sequence[Fact]) -> Callable[[Fact, str, Sequence[str]], bool]:
    """Whether a negative, among others of its fact, is a piece of an answer and no answer itself.

    It begins the truth or a longer negative, or has one or two characters where truths have more. What is
    true of another fact of the category is an answer, however short.
    """
    answers = _answers_by(facts, lambda fact: fact.category)
    shortest = {category: min(map(len, known), default=0) for category, known in answers.items()}

    def check(fact: Fact, text: str, beside: Sequence[str]) -> bool:
        text = normalise(text)
        if text in answers[fact.category]:
            return False
        longer = (normalise(other) for other in (*fact.answers, *beside))
        if any(other.startswith(text) and other != text for other in longer):
            return True
        return len(text) <= SHORT and len(text) < shortest[fact.category]

    return check


def _is_hidden(facts: Sequence[Fact]) -> Callable[[Fact, str], bool]:
    """Whether a negative is true after all: by the looser rule, in another spelling, or of a namesake.

    The rule is that one contains the other; spellings differ by accents, spaces and punctuation; a namesake
    is another fact about a subject of this name in the category.
    """
    namesakes = _answers_by(
        (fact for fact in facts if fact.subject), lambda fact: (normalise(fact.subject), fact.category)
    )

    def check(fact: Fact, text: str) -> bool:
        others = namesakes.get((normalise(fact.subject), fact.category), set()) if fact.subject else set()
        if normalise(text) in others:
            return True
        return any(overlaps(text, truth) or _plain(text) == _plain(truth) for truth in fact.answers)

    return check


def _answers_by(facts: Iterable[Fact], key: Callable[[Fact], Any]) -> Mapping[Any, set[str]]:
    answers: defaultdict[Any, set[str]] = defaultdict(set)
    for fact in facts:
        answers[key(fact)].update(filter(None, map(normalise, fact.answers)))
    return answers


def _plain(text: str) -> str:
    """Normalised, without accents and spaces.

    Marks that make another letter of one (combining class to 9: dakuten, nukta, virama) stay.
    """
    apart = unicodedata.normalize("NFKD", normalise(text))
    return "".join(c for c in apart if not c.isspace() and unicodedata.combining(c) <= 9)
