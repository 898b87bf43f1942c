"""`mine`: the base model's own high-probability falsehoods, and every reference log-probability.

PretrainRL (arXiv 2602.01875): beam-decode each question, leave out what is true, keep what is believed. One
scoring pass at the end makes a resident reference model unnecessary in training.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pretrainrl_jax.decoding.answers import answer_questions
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.matching import known_truths
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.objectives.scoring import score_trees
from pretrainrl_jax.progress import track
from pretrainrl_jax.stages.context import BASE, SCORED_ROWS, Context, say
from pretrainrl_jax.training.checkpoints import Loaded
from pretrainrl_jax.trees.negatives import REASONS, Answer, choose_negatives
from pretrainrl_jax.trees.packing import too_long
from pretrainrl_jax.trees.records import write_trees
from pretrainrl_jax.trees.rows import GOLD, NEGATIVE
from pretrainrl_jax.trees.templates import encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

EXAMPLES = 12  # questions shown in the report


def mine(context: Context) -> None:
    """Beams, filters, trees, reference scores, files."""
    base = context.load(BASE)
    facts = context.asked(context.trained)

    answers = beam_answers(context, base, facts)
    negatives, dropped = falsehoods(context, facts, answers)
    trees, encoded_separately = build_trees(context, base, facts, negatives)

    row_length = context.config.train.row_length
    oversized = too_long(trees, row_length)
    if oversized:
        names = ", ".join(tree.id for tree in oversized[:5]) + (" …" if len(oversized) > 5 else "")
        say(f"mine: left out, since longer than train.row_length: {len(oversized)} questions ({names})")
    trees = [tree for tree in trees if tree.inputs <= row_length]
    if not trees:
        raise InputError("there is no question to train on: raise train.row_length, or give more facts")

    trees = add_references(context, base, trees)
    write_trees(context.workdir / "mined" / "trees.array_record", trees)

    count = sum(len(tree.branches) - 1 for tree in trees)
    with_negatives = sum(len(tree.branches) > 1 for tree in trees)
    statistics = {
        "questions": len(facts),
        "with_negatives": with_negatives,
        "negatives": count,
        "too_long": [tree.id for tree in oversized],
        "encoded_separately": encoded_separately,
        "dropped": dict(dropped),
        "examples": examples(facts, trees),
    }
    path = context.workdir / "mined" / "statistics.json"
    path.write_text(json.dumps(statistics, indent=1, ensure_ascii=False))
    taken = ", ".join(f"{name} {n}" for name, n in dropped.items() if n)
    say(f"mine: {count} negatives for {with_negatives} of {len(facts)} questions; dropped: {taken or 'none'}")
    context.finish("mine", negatives=count)


def beam_answers(context: Context, base: Loaded, facts: Sequence[Fact]) -> list[list[Answer]]:
    """The base model's beams for each question."""
    settings = context.config.mine
    with track("mine/beams", len(facts), "questions") as bar:
        return answer_questions(
            base.model,
            base.params,
            base.tokenizer,
            context.template(settings.template),
            [fact.question for fact in facts],
            beams=settings.beams,
            max_new_tokens=settings.max_new_tokens,
            batch=context.whole(settings.batch),
            place=context.place,
            advance=bar.advance,
        )


def falsehoods(
    context: Context, facts: Sequence[Fact], answers: Sequence[Sequence[Answer]]
) -> tuple[list[list[Answer]], Counter[str]]:
    """The beams worth unlearning, and how many candidates each rule took."""
    settings = context.config.mine
    known = known_truths(context.facts)
    dropped: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
    negatives = [
        choose_negatives(
            found,
            fact,
            known,
            count=settings.negatives,
            min_probability=settings.min_probability,
            drop_overlapping=settings.drop_overlapping,
            dropped=dropped,
        )
        for fact, found in zip(facts, answers, strict=True)
    ]
    return negatives, dropped


def build_trees(
    context: Context, base: Loaded, facts: Sequence[Fact], negatives: Sequence[Sequence[Answer]]
) -> tuple[list[AnswerTree], int]:
    """Gold answer and negatives as branches under the training template, and how many were encoded apart."""
    texts = [[fact.answer, *(n.text for n in of)] for fact, of in zip(facts, negatives, strict=True)]
    template = context.template(context.config.train.template)
    encoded = encode_branches(base.tokenizer, template, [f.question for f in facts], texts)
    trees = []
    for fact, of, prefix, tokens in zip(facts, negatives, encoded.prefixes, encoded.branches, strict=True):
        gold = Branch(tokens[0], GOLD, fact.answer)
        rest = [Branch(t, NEGATIVE, n.text, beam_logp=n.logp) for t, n in zip(tokens[1:], of, strict=True)]
        trees.append(AnswerTree(fact.id, prefix, (gold, *rest)))
    return trees, encoded.separate


def add_references(context: Context, base: Loaded, trees: Sequence[AnswerTree]) -> list[AnswerTree]:
    """Each branch with its log-probability under the base model: no reference model is needed in training."""
    with track("mine/reference", len(trees), "trees") as bar:
        scores = score_trees(
            base.model,
            base.params,
            trees,
            row_length=context.config.train.row_length,
            rows=context.whole(SCORED_ROWS),
            place=context.place_rows,
            advance=bar.advance,
        )
    return [
        replace(t, branches=tuple(replace(b, reference_logp=s) for b, s in zip(t.branches, of, strict=True)))
        for t, of in zip(trees, scores, strict=True)
    ]


def examples(facts: Sequence[Fact], trees: Sequence[AnswerTree]) -> list[dict[str, Any]]:
    """A few questions with their negatives and probabilities, from the most to the least believed."""
    asked = {fact.id: fact for fact in facts}
    believed = sorted((t for t in trees if len(t.branches) > 1), key=lambda t: -t.branches[1].reference_logp)
    return [
        {
            "question": asked[tree.id].question,
            "answer": asked[tree.id].answer,
            "negatives": [[b.text, float(f"{math.exp(b.reference_logp):.4g}")] for b in tree.branches[1:]],
        }
        for tree in believed[:: max(1, len(believed) // EXAMPLES)][:EXAMPLES]
    ]
