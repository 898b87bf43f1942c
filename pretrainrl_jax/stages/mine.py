"""`mine`: falsehoods worth unlearning, and every reference log-probability.

PretrainRL (arXiv 2602.01875): beam-decode the questions, leave out what is true, keep what is believed of the
question itself, or in its whole category (the pool). One scoring pass at the end makes a resident reference
model unnecessary in training.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.decoding.among import answers_among, known_answers
from pretrainrl_jax.decoding.answers import Answer, answer_questions, distinct, read_answers
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.choices import choices, kind_of
from pretrainrl_jax.facts.matching import Truths, why_dropped
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.knowledge.signatures import of_mining
from pretrainrl_jax.mining import statistics
from pretrainrl_jax.mining.candidates import (
    REASONS,
    Candidate,
    Rules,
    from_beams,
    from_values,
    popular_values,
    some_of,
    without_repeats,
)
from pretrainrl_jax.mining.draw import longest
from pretrainrl_jax.mining.fingerprint import probes, short_digest
from pretrainrl_jax.mining.pools import Agreement, Tallies, agreement, most_often, tally
from pretrainrl_jax.mining.quality import quality
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.references import score_references, with_references
from pretrainrl_jax.stages.shards import resumable_map
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.records import digest, write_trees
from pretrainrl_jax.trees.templates import encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch, places, select
from pretrainrl_jax.trees.turns import one_of_each
from pretrainrl_jax.version import STAMP

Decoded = list[tuple[Fact, list[Answer]]]


class Mined(NamedTuple):
    """Trees with references, and what there is to say of them."""

    trees: list[AnswerTree]
    statistics: dict[str, Any]


def mine(context: Context) -> None:
    """The base model's falsehoods for every trained fact, written with what they were made with."""
    began = time.perf_counter()
    base = context.load(BASE)
    facts = context.asked(context.trained)
    folder = context.workdir / "mined"
    mined = mine_negatives(context, base, base, facts, context.parts("mine"))
    stamp = made_with(context, base)

    def write() -> None:
        write_trees(folder / "trees.array_record", mined.trees)
        write_json(folder / "fingerprint.json", STAMP | {"made_with": stamp, "probes": probes(mined.trees)})
        write_json(folder / "statistics.json", mined.statistics)

    run_on_process_0(write, "writing what was mined")
    for line in lines(mined.statistics):
        context.screen.say(f"mine: {line}")
    for signature in of_mining(mined.statistics):
        context.screen.say(f"! mine: {signature.line}")
    seconds = time.perf_counter() - began
    context.finish("mine", negatives=mined.statistics["negatives"], seconds=seconds)


def made_with(context: Context, base: Loaded) -> dict[str, Any]:
    """Short digests of all that mined trees and their references depend on."""
    facts, settings = context.asked(context.trained), context.config.mine
    stamp = context.fingerprint(base, context.config.train.template, facts, settings)
    if "constrained" in settings.sources:
        stamp["answers of mine.among"] = short_digest(choices(settings.among, context.facts, "mine.among"))
    if context.config.train.wordings > 1:
        stamp["wordings"] = short_digest([asked.question for fact in facts for asked in context.worded(fact)])
    return stamp


def truths_among(trees: Sequence[AnswerTree], facts: Sequence[Fact], known: Truths) -> list[str]:
    """The falsehoods of mined trees that are true by what the facts say now, each with its question."""
    by_id = {fact.id: fact for fact in facts}
    return [
        f"{branch.text!r} of {by_id[tree.id].question!r}"
        for tree in trees
        for branch in tree.branches
        if branch.role == "rejected"
        and why_dropped(branch.text, by_id[tree.id], known, False) == "known_true"
    ]


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
    provenance = context.fingerprint(policy, settings.template, chosen, settings)
    decoded = beam_answers(context, policy, chosen, shards / "beams", provenance, label)
    pools, agreements = collect_pools(context, decoded)
    constrained = []
    if "constrained" in settings.sources:
        constrained = constrained_answers(context, policy, facts, shards / "constrained", label)

    rules = Rules(known, settings.drop_overlapping, settings.min_probability, settings.negatives)
    candidates, dropped = choose(context, facts, decoded, constrained, pools, rules)
    worded, candidates = in_wordings(context, facts, candidates, rules)
    trees, left_out = build_trees(context, policy, worded, candidates, dropped)
    # No checksums of the reference: it is the policy, or the base model, which a workdir never changes.
    train = context.config.train
    scores = score_references(
        context,
        trees,
        shards / "reference",
        [provenance, digest(trees)],
        label,
        lambda part, advance: context.score_answers(
            reference, part, train.template, train.row_length, advance
        ),
    )
    # Training compares branches as they are; what is shown of them counts every terminator.
    trees, believed = (with_references(trees, [[b[i] for b in tree] for tree in scores]) for i in (0, 1))

    believed = one_of_each(believed)
    asked_for = settings.negatives if settings.sources else 0
    left_out["fewer_than_asked"] = sum(len(places(tree, "rejected")) < asked_for for tree in believed)
    shown = context.template(settings.template).examples
    described = statistics.describe(facts, believed, decoded, known, dropped, pools, agreements)
    described["of_examples"] = statistics.share_of([answer for _, answer in shown], believed)
    described["quality"] = quality(believed, context.facts)
    return Mined(trees, left_out | described)


def sample_by_category(context: Context, facts: Sequence[Fact], number: int) -> list[Fact]:
    """So many questions of each category, as pools are collected from."""
    by_category: dict[str, list[Fact]] = {}
    for fact in facts:
        by_category.setdefault(fact.category, []).append(fact)
    seed = context.config.seed
    return [fact for members in by_category.values() for fact in subsample(members, number, seed)]


def beam_answers(
    context: Context, policy: Loaded, facts: Sequence[Fact], shards: Path, provenance: Any, label: str
) -> Decoded:
    """The policy's beams for each question."""
    settings = context.config.mine

    def search(part: list[Fact], prompts: list[str], advance: Callable[[int], None]) -> list[list[Answer]]:
        return answer_questions(
            policy.model,
            policy.params,
            policy.tokenizer,
            context.template(settings.template),
            prompts,
            beams=settings.beams,
            max_new_tokens=settings.max_new_tokens,
            batch=settings.batch,
            advance=advance,
        )

    return _searched(context, policy, facts, shards, provenance, f"{label}/beams", search)


def constrained_answers(
    context: Context, policy: Loaded, facts: Sequence[Fact], shards: Path, label: str
) -> Decoded:
    """The policy's beams for each question among known answers, those of mine.among."""
    settings = context.config.mine
    template = context.template(settings.template)
    sets = choices(settings.among, context.facts, "mine.among")
    known = known_answers(
        policy.tokenizer,
        template.terminators(policy.tokenizer, policy.model.shape.vocabulary),
        [template.prefix(fact.question, fact.category) for fact in facts],
        [kind_of(settings.among, fact) for fact in facts],
        sets,
    )

    def search(part: list[Fact], prompts: list[str], advance: Callable[[int], None]) -> list[list[Answer]]:
        return answers_among(
            policy.model,
            policy.params,
            policy.tokenizer,
            prompts,
            [kind_of(settings.among, fact) for fact in part],
            known,
            beams=settings.beams,
            batch=settings.batch,
            advance=advance,
        )

    provenance = [context.fingerprint(policy, settings.template, facts, settings), short_digest(sets)]
    return _searched(context, policy, facts, shards, provenance, f"{label}/constrained", search)


def _searched(
    context: Context,
    policy: Loaded,
    facts: Sequence[Fact],
    shards: Path,
    provenance: Any,
    label: str,
    search: Callable[[list[Fact], list[str], Callable[[int], None]], list[list[Answer]]],
) -> Decoded:
    """Each question with what `search` gives for it and its prompt, in parts."""
    if not facts:
        return []
    template = context.template(context.config.mine.template)
    prompts = {fact.id: template.prefix(fact.question, fact.category) for fact in facts}
    lengths = [len(ids) for ids in policy.tokenizer.encode_all([prompts[fact.id] for fact in facts])]

    def answers(part: list[Fact]) -> list[Any]:
        beams = search(part, [prompts[fact.id] for fact in part], bar.advance)
        return [list(map(vars, answers)) for answers in beams]

    def metrics(beams: list[list[Answer]]) -> dict[str, float]:
        return {
            "distinct_answers": float(np.mean([len(distinct(a)) for a in beams])),
            "top_probability": float(np.mean([math.exp(a[0].logp) if a else 0.0 for a in beams])),
        }

    with context.screen.track(label, len(facts), "questions") as bar:
        beams = resumable_map(
            shards,
            provenance,
            facts,
            lengths,
            context.config.checkpoint.shard_questions,
            answers,
            lambda fact, beams: read_answers(beams),
            bar,
            metrics=metrics,
            screen=context.screen,
        )
    return list(zip(facts, beams, strict=True))


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
    dropped = {source: Counter(dict.fromkeys(REASONS, 0)) for source in settings.sources}
    searched = {"beam": decoded, "constrained": constrained}
    answers = {source: {fact.id: beams for fact, beams in pairs} for source, pairs in searched.items()}
    popular = popular_values(context.facts, settings.popular_share)
    chosen = []
    for fact in facts:
        by_source: list[list[Candidate]] = []
        for source in settings.sources:
            if source in answers:
                beams = answers[source][fact.id]
                by_source.append(from_beams(beams, source, fact, rules, dropped[source]))
                continue
            if source == "pool":
                values = pools[fact.category]
            else:
                values = some_of(popular[fact.category], settings.pool, fact, seed)
            by_source.append(from_values(values, source, fact, rules, dropped[source]))
        chosen.append(without_repeats(by_source, dropped))
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


def lines(mined: Mapping[str, Any]) -> list[str]:
    """The statistics that a terminal shows."""
    sources = ", ".join(f"{source} {n}" for source, n in mined["by_source"].items())
    shown = [
        f"{mined['negatives']} negatives ({sources or 'none'}) for {mined['with_negatives']} of "
        f"{mined['questions']} questions"
    ]
    if mined["decoded"]:
        decoded = (
            f"{mined['decoded']} questions decoded, {mined['distinct_answers']:.1f} distinct answers each"
        )
        shown.insert(0, f"{decoded}, entropy {mined['entropy']:.2f} nats")
    if (leaked := mined["of_examples"]) is not None:
        shown.append(f"{leaked:.1%} of the negatives are the answers of the few-shot examples")
    if short := mined["fewer_than_asked"]:
        shown.append(f"{short} questions have fewer negatives than mine.negatives asks for")
    for source, reasons in mined["dropped"].items():
        taken = ", ".join(f"{reason} {n}" for reason, n in reasons.items() if n)
        shown.append(f"dropped of {source}: {taken or 'none'}")
    if like := mined["pool_agreement"]:
        cosine, spearman = (
            "not defined" if like[name] is None else f"{like[name]:.2f}" for name in ("cosine", "spearman")
        )
        shown.append(
            f"pools of {like['questions']} questions against the full ones, {like['categories']} categories: "
            f"cosine {cosine}, Spearman {spearman}"
        )
    return shown
