"""`mine`: the base model's own high-probability falsehoods, and every reference log-probability.

PretrainRL (arXiv 2602.01875): beam-decode each question, leave out what is true, keep what is believed. One
scoring pass at the end makes a resident reference model unnecessary in training.
"""

import json
from collections import Counter
from dataclasses import replace

from pretrainrl_jax.decoding.answers import answer_questions
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.matching import known_truths
from pretrainrl_jax.objectives.scoring import score_trees
from pretrainrl_jax.progress import track
from pretrainrl_jax.stages.context import BASE, Context, say
from pretrainrl_jax.trees.negatives import REASONS, choose_negatives
from pretrainrl_jax.trees.packing import too_long
from pretrainrl_jax.trees.records import write_trees
from pretrainrl_jax.trees.rows import GOLD, NEGATIVE
from pretrainrl_jax.trees.templates import encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

SCORED_ROWS = 16  # rows scored at a time
EXAMPLES = 12  # questions shown in the report


def mine(context: Context) -> None:
    """Beams, filters, trees, reference scores, files."""
    config, settings = context.config, context.config.mine
    base = context.load(BASE)
    facts = context.asked(context.trained)

    with track("mine/beams", len(facts), "questions") as bar:
        answers = answer_questions(
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

    # Trees are written, scored and trained under the training template, gold answer first.
    texts = [[fact.answer, *(n.text for n in of)] for fact, of in zip(facts, negatives, strict=True)]
    encoded = encode_branches(
        base.tokenizer, context.template(config.train.template), [f.question for f in facts], texts
    )
    trees = [
        AnswerTree(
            fact.id,
            prefix,
            (
                Branch(branches[0], GOLD, fact.answer),
                *(
                    Branch(tokens, NEGATIVE, n.text, beam_logp=n.logp)
                    for tokens, n in zip(branches[1:], of, strict=True)
                ),
            ),
        )
        for fact, of, prefix, branches in zip(
            facts, negatives, encoded.prefixes, encoded.branches, strict=True
        )
    ]
    oversized = too_long(trees, config.train.row_length)
    if oversized:
        names = ", ".join(t.id for t in oversized[:5])
        say(f"mine: {len(oversized)} questions do not fit in train.row_length and are left out: {names} …")
        trees = [t for t in trees if t.inputs <= config.train.row_length]
    if not trees:
        raise InputError("there is no question to train on: raise train.row_length, or give more facts")

    with track("mine/reference", len(trees), "trees") as bar:
        scores = score_trees(
            base.model,
            base.params,
            trees,
            row_length=config.train.row_length,
            rows=context.whole(SCORED_ROWS),
            place=context.place_rows,
            advance=bar.advance,
        )
    trees = [
        replace(
            tree,
            branches=tuple(replace(b, reference_logp=s) for b, s in zip(tree.branches, of, strict=True)),
        )
        for tree, of in zip(trees, scores, strict=True)
    ]

    write_trees(context.workdir / "mined" / "trees.array_record", trees)
    with_negatives = sum(len(t.branches) > 1 for t in trees)
    count = sum(len(t.branches) - 1 for t in trees)
    asked = {fact.id: fact for fact in facts}
    strongest = sorted((t for t in trees if len(t.branches) > 1), key=lambda t: -t.branches[1].reference_logp)
    spread = strongest[:: max(1, len(strongest) // EXAMPLES)][:EXAMPLES]
    statistics = {
        "questions": len(facts),
        "with_negatives": with_negatives,
        "negatives": count,
        "too_long": [t.id for t in oversized],
        "encoded_separately": encoded.separate,
        "dropped": dict(dropped),
        "examples": [
            {
                "question": asked[t.id].question,
                "answer": asked[t.id].answer,
                "negatives": [[b.text, probability(b.reference_logp)] for b in t.branches[1:]],
            }
            for t in spread
        ],
    }
    path = context.workdir / "mined" / "statistics.json"
    path.write_text(json.dumps(statistics, indent=1, ensure_ascii=False))
    taken = ", ".join(f"{name} {n}" for name, n in dropped.items() if n)
    say(f"mine: {count} negatives for {with_negatives} of {len(facts)} questions; dropped: {taken or 'none'}")
    context.finish("mine", negatives=count)


def probability(logp: float) -> float:
    """exp of a log-probability, rounded for reading."""
    import math

    return float(f"{math.exp(logp):.4g}")
