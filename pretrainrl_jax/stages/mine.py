"""`mine`: falsehoods worth unlearning, and every reference log-probability.

PretrainRL (arXiv 2602.01875): beam-decode the questions, leave out what is true, keep what is believed of the
question itself, or in its whole category (the pool). One scoring pass at the end makes a resident reference
model unnecessary in training.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pretrainrl_jax.decoding.answers import Answer, read_answers
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.choices import choices
from pretrainrl_jax.facts.matching import why_dropped
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.knowledge.signatures import of_mining
from pretrainrl_jax.mining import candidates as falsehoods
from pretrainrl_jax.mining import statistics
from pretrainrl_jax.mining.candidates import Candidate, Rules
from pretrainrl_jax.mining.draw import draw_negatives, longest
from pretrainrl_jax.mining.fingerprint import short_digest
from pretrainrl_jax.mining.pools import Agreement, Tallies, agreement, most_often, tally
from pretrainrl_jax.mining.quality import quality
from pretrainrl_jax.stages.asking import Asker, Question, Search
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.shards import score_in_parts, with_references
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.dataset import Visit, in_turn, one_of_each
from pretrainrl_jax.trees.templates import encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch, places, select

Decoded = list[tuple[Fact, list[Answer]]]


class Mined(NamedTuple):
    """Trees with references, and what there is to say of them."""

    trees: list[AnswerTree]
    statistics: dict[str, Any]
    notes: dict[str, Any]  # of these what is noted of the stage
    made_with: Mapping[str, Any] = MappingProxyType({})  # short digests of all that they depend on
    said: Sequence[str] = ()
    held_out: Sequence[AnswerTree] = ()  # which are not trained


def make_trees(context: Context, base: Loaded) -> Mined:
    """The base model's falsehoods for every trained fact."""
    mined = mine_negatives(context, base, base, context.asked, context.parts("mine"))
    signatures = [f"! mine: {signature.line}" for signature in of_mining(mined.statistics)]
    said = [f"mine: {line(mined.statistics)}", *signatures]
    return mined._replace(said=said, made_with=made_with(context, base))


def made_with(context: Context, base: Loaded) -> dict[str, Any]:
    """Short digests of all that mined trees and their references depend on."""
    facts, settings = context.asked, context.config.mine
    stamp = context.fingerprint(base, context.config.train.template, facts, settings)
    if "constrained" in settings.sources:
        stamp["answers of mine.among"] = short_digest(choices(settings.among, context.facts, "mine.among"))
    if context.config.train.wordings > 1:
        stamp["wordings"] = short_digest([asked.question for fact in facts for asked in context.worded(fact)])
    return stamp


def known_true(context: Context, trees: Sequence[AnswerTree]) -> list[str]:
    """The falsehoods of mined trees that are true by what the facts say now, each with its question."""
    by_id = {fact.id: fact for fact in context.trained}
    return [
        f"{branch.text!r} of {by_id[tree.id].question!r}"
        for tree in trees
        for branch in tree.branches
        if branch.role == "rejected"
        and why_dropped(branch.text, by_id[tree.id], context.known_truths, False) == "known_true"
    ]


def visit(context: Context, trees: Sequence[AnswerTree]) -> Visit:
    """A question in its wordings in turn, each time with negatives drawn of all that were mined."""
    negatives, seed = context.config.mine.negatives, context.training_seed
    return in_turn(trees, lambda tree, epoch: draw_negatives(tree, negatives, seed, epoch))


def name_of(context: Context) -> Callable[[AnswerTree], str]:
    """What a tree is called in messages: its question."""
    questions = {fact.id: fact.question for fact in context.trained}
    return lambda tree: questions[tree.id]


def mine_negatives(
    context: Context,
    policy: Loaded,
    reference: Loaded,
    facts: Sequence[Fact],
    shards: Path,
    label: str = "mine",
) -> Mined:
    """Beams of the policy, pools, filters, trees, scores of the reference.

    An interrupted run goes on from what `shards` has. Raises InputError if no question fits in a row.
    """
    settings = context.config.mine
    known = context.known_truths
    # All questions where each is its own source of negatives, a sample of each category for pools alone.
    chosen = facts if "beam" in settings.sources else []
    if not chosen and "pool" in settings.sources:
        chosen = sample_by_category(context, facts, settings.pool_questions)
    asker = Asker(context, policy, settings)
    provenance, beams = asker.made_with(chosen), partial(asker.beams, settings.beams)
    decoded = searched(asker, chosen, shards / "beams", provenance, f"{label}/beams", beams)
    pools, agreements = collect_pools(context, decoded)
    constrained = []
    if "constrained" in settings.sources:
        sets, search = asker.among("mine.among", as_asked(facts))
        made, found = [asker.made_with(facts), short_digest(sets)], f"{label}/constrained"
        constrained = searched(asker, facts, shards / "constrained", made, found, search)

    rules = Rules(known, settings.drop_overlapping, settings.min_probability, settings.negatives)
    candidates, dropped = choose(context, facts, decoded, constrained, pools, rules)
    worded, candidates = in_wordings(context, facts, candidates, rules)
    trees, left_out = build_trees(context, policy, worded, candidates, dropped)

    def score(part: Sequence[AnswerTree], advance: Callable[[int], None]) -> list[Any]:
        return context.score_answers(reference, part, context.config.train.template, advance)

    # No checksums of the reference: it is the policy, or the base model, which a workdir never changes.
    how = trees, score, f"{label}/reference", "trees"
    scores = score_in_parts(context, shards / "reference", provenance, *how)
    # Training compares branches as they are; what is shown of them counts every terminator.
    trees, believed = (with_references(trees, [[b[i] for b in tree] for tree in scores]) for i in (0, 1))

    believed = one_of_each(believed)
    asked_for = settings.negatives if settings.sources else 0
    left_out["fewer_than_asked"] = sum(len(places(tree, "rejected")) < asked_for for tree in believed)
    shown = context.template(settings.template).examples
    described = statistics.describe(facts, believed, decoded, known, dropped, pools, agreements)
    described["of_examples"] = statistics.share_of([answer for _, answer in shown], believed)
    described["quality"] = quality(believed, context.facts)
    described = left_out | described
    return Mined(trees, described, {"negatives": described["negatives"]})


def sample_by_category(context: Context, facts: Sequence[Fact], number: int) -> list[Fact]:
    """So many questions of each category, as pools are collected from."""
    by_category: dict[str, list[Fact]] = {}
    for fact in facts:
        by_category.setdefault(fact.category, []).append(fact)
    seed = context.config.seed
    return [fact for members in by_category.values() for fact in subsample(members, number, seed)]


def as_asked(facts: Sequence[Fact]) -> list[Question]:
    return [(fact, fact.question, "trained") for fact in facts]


def searched(
    asker: Asker, facts: Sequence[Fact], shards: Path, made_with: Any, label: str, search: Search
) -> Decoded:
    """Each question with what `search` gives for it, in parts."""
    if not facts:
        return []

    def work(part: list[Question], advance: Callable[[int], None]) -> list[Any]:
        return [list(map(vars, answers)) for answers in search(part, advance)]

    told = work, label, "questions", lambda asked, beams: read_answers(beams)
    return list(zip(facts, asker.in_parts(as_asked(facts), shards, made_with, *told), strict=True))


def collect_pools(context: Context, decoded: Decoded) -> tuple[dict[str, list[str]], dict[str, Agreement]]:
    """Each category's pool, and how like it the pool of a smaller sample of its questions is."""
    settings = context.config.mine
    if "pool" not in settings.sources:
        return {}, {}
    facts = [fact for fact, _ in decoded]

    def collect(chosen: Sequence[Fact]) -> tuple[dict[str, Tallies], Counter[str]]:
        ids = {fact.id for fact in chosen}
        tallies = tally(
            ((fact, beams) for fact, beams in decoded if fact.id in ids),
            lambda fact, answer: math.exp(answer.logp) >= settings.min_probability,
        )
        return tallies, Counter(fact.category for fact in chosen)

    full, questions = collect(sample_by_category(context, facts, settings.pool_questions))
    pools = {c: [values[key].text for key in most_often(values, settings.pool)] for c, values in full.items()}
    if short := {category: len(pool) for category, pool in pools.items() if len(pool) < settings.pool}:
        named = ", ".join(f"{category} {n}" for category, n in short.items())
        context.screen.say(
            f"mine: categories where the model gives fewer than mine.pool={settings.pool} values: {named}"
        )
    number = settings.agreement_questions
    sample, sampled = collect(sample_by_category(context, facts, number) if number else [])
    return pools, {
        c: Agreement(sampled[c], questions[c], *agreement(full[c], sample[c], settings.pool))
        for c in full
        if 0 < sampled[c] < questions[c]
    }


def choose(
    context: Context,
    facts: Sequence[Fact],
    decoded: Decoded,
    constrained: Decoded,
    pools: Mapping[str, Sequence[str]],
    rules: Rules,
) -> tuple[list[list[Candidate]], dict[str, Counter[str]]]:
    """Each question's candidates from every source, and how many each rule took of each source's."""
    settings, seed = context.config.mine, context.config.seed
    dropped = {source: Counter(dict.fromkeys(falsehoods.REASONS, 0)) for source in settings.sources}
    searched = {"beam": decoded, "constrained": constrained}
    answers = {source: {fact.id: beams for fact, beams in pairs} for source, pairs in searched.items()}
    popular = falsehoods.popular_values(context.facts, settings.popular_share)
    chosen = []
    for fact in facts:
        by_source: list[list[Candidate]] = []
        for source in settings.sources:
            how = source, fact, rules, dropped[source]
            if source in answers:
                by_source.append(falsehoods.from_beams(answers[source][fact.id], *how))
            elif source == "pool":
                by_source.append(falsehoods.from_values(pools[fact.category], *how))
            else:
                values = falsehoods.some_of(popular[fact.category], settings.pool, fact, seed)
                by_source.append(falsehoods.from_values(values, *how))
        chosen.append(falsehoods.without_repeats(by_source, dropped))
    return chosen, dropped


def in_wordings(
    context: Context, facts: Sequence[Fact], candidates: Sequence[Sequence[Candidate]], rules: Rules
) -> tuple[list[Fact], list[Sequence[Candidate]]]:
    """Each fact in the wordings that `train.wordings` asks for, with its candidates that are false there."""
    number = context.config.train.wordings
    worded = [(fact, kept, context.worded(fact)) for fact, kept in zip(facts, candidates, strict=True)]
    if short := sum(len(wordings) < number for _, _, wordings in worded):
        context.screen.say(f"mine: {short} questions have fewer wordings than train.wordings={number}")

    def false(asked: Fact, candidate: Candidate) -> bool:
        return not why_dropped(candidate.text, asked, rules.known, rules.drop_overlapping)

    pairs = [
        (asked, kept if asked.question == fact.question else [c for c in kept if false(asked, c)])
        for fact, kept, wordings in worded
        for asked in wordings
    ]
    return [asked for asked, _ in pairs], [kept for _, kept in pairs]


def build_trees(
    context: Context,
    policy: Loaded,
    facts: Sequence[Fact],
    candidates: Sequence[Sequence[Candidate]],
    dropped: Mapping[str, Counter[str]],
) -> tuple[list[AnswerTree], dict[str, Any]]:
    """Gold answer and candidates as branches under the training template; what fits in no row is left out.

    A question loses its longest candidates until it fits whichever are drawn; one whose gold answer alone
    does not fit in any wording, or has no tokens, is left out and named. What is dropped is counted of each
    question's first wording.
    """
    train = context.config.train

    def too_wide(tree: AnswerTree) -> bool:
        return longest(tree, context.config.mine.negatives, train.layout) > train.row_length

    texts = [[fact.answer, *(c.text for c in kept)] for fact, kept in zip(facts, candidates, strict=True)]
    template = context.template(train.template)
    prompts = [template.prefix(fact.question, fact.category) for fact in facts]
    encoded = encode_branches(policy.tokenizer, template, prompts, texts)
    trees: list[AnswerTree] = []
    no_tokens, too_long = list[str](), list[str]()
    seen: set[str] = set()
    for fact, kept, prefix, tokens in zip(facts, candidates, encoded.prefixes, encoded.branches, strict=True):
        counted = fact.id not in seen
        seen.add(fact.id)
        branches = [Branch(tokens[0], "chosen", fact.answer)]
        for candidate, branch in zip(kept, tokens[1:], strict=True):
            if len(branch) > 1:
                said, logp = candidate.text, candidate.logp
                found = Branch(branch, "rejected", said, behaviour_logp=logp, source=candidate.source)
                branches.append(found)
            else:  # a terminator alone
                dropped[candidate.source]["empty"] += counted
        tree = AnswerTree(fact.id, prefix, tuple(branches))
        while too_wide(tree) and (beside := places(tree, "rejected")):
            worst = max(beside, key=lambda place: len(tree.branches[place].tokens))
            dropped[tree.branches[worst].source]["too_long"] += counted
            tree = select(tree, set(range(len(tree.branches))) - {worst})
        if len(tokens[0]) == 1:
            no_tokens.append(fact.id)
        elif too_wide(tree):
            too_long.append(fact.id)
        else:
            trees.append(tree)
    kept_ids = {tree.id for tree in trees}
    no_tokens, too_long = (
        [i for i in dict.fromkeys(ids) if i not in kept_ids] for ids in (no_tokens, too_long)
    )
    for what, ids in (("their answer has no tokens", no_tokens), ("longer than train.row_length", too_long)):
        if ids:
            names = ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")
            context.screen.say(f"mine: left out, since {what}: {len(ids)} questions ({names})")
    if not trees:
        raise InputError("there is no question to train on: raise train.row_length, or give more facts")
    return trees, {"too_long": too_long, "no_tokens": no_tokens, "encoded_separately": encoded.separate}


def line(mined: Mapping[str, Any]) -> str:
    """The statistics that a terminal shows; the report has all."""
    sources = ", ".join(f"{source} {n}" for source, n in mined["by_source"].items())
    told = (
        f"{mined['negatives']} negatives ({sources or 'none'}) for {mined['with_negatives']} of "
        f"{mined['questions']} questions"
    )
    if short := mined["fewer_than_asked"]:
        told += f", {short} with fewer than mine.negatives"
    return told + (f", {mined['decoded']} decoded" if mined["decoded"] else "")
