import json
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models_and_trees import small_model, small_tokenizer

from pretrainrl_jax import config
from pretrainrl_jax.documents.world import MadeDocuments, make_documents
from pretrainrl_jax.evaluation.truthfulness import (
    Continuation,
    completes,
    corrupted_prefixes,
    evaluate_truthfulness,
    free_prefixes,
    named,
    named_prefixes,
    repeats,
    stated,
    text_nll,
    variety,
)
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.facts.world import make_world
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.templates import Template, documents

WORLD = make_world(config.WorldConfig(facts=200), 0)
MADE = make_documents(
    WORLD, config.DocumentsConfig(count=300, false_share=0.3, held_out=40), config.CorpusConfig(), 0
)
STATEMENTS = Statements(WORLD)
NAMED = named_prefixes(WORLD, MADE.held_out, 80, 0, STATEMENTS.is_head)
MISLED = corrupted_prefixes(MADE.texts, STATEMENTS, 80, 0)


def written(text, ended=False):
    return Continuation(text, (), ended)


def another(fact):
    return next(f.answer for f in WORLD if f.category == fact.category and f.answer != fact.answer)


@pytest.mark.parametrize("prefix", [*NAMED[::7], *MISLED[::7]])
def test_a_prefix_that_names_subject_and_relation_has_a_verdict_by_what_completes_it(prefix):
    def verdict(text, ended=False):
        return named(prefix, completes(prefix, written(text, ended), STATEMENTS), STATEMENTS)["verdict"]

    right, wrong = prefix.fact.answer, another(prefix.fact)
    assert verdict(f" {right}.") == verdict(f" {right}\nA lantern") == verdict(f" {right}", True) == "true"
    assert verdict(f" {wrong}. It is {right}.") == verdict(f" {wrong}", True) == "false"
    other = next(f for f in WORLD if f is not prefix.fact)
    for text in ("", f" {right}", " so quiet a lantern that", f"\n{other.question} {other.answer}\n"):
        assert verdict(text) == "none"
    assert STATEMENTS.find(prefix.text, since=prefix.begin) == []
    assert prefix.fact.subject not in prefix.text[: prefix.begin]


def test_named_facts_are_half_head_facts_and_spread_evenly():
    ranks = sorted(WORLD.index(prefix.fact) for prefix in NAMED)
    head = sum(map(STATEMENTS.is_head, WORLD))
    assert len(set(ranks)) == 80
    of_head, rest = ([rank for rank in ranks if (rank < head) == side] for side in (True, False))
    assert len(of_head) == min(40, head)
    for part, span in ((of_head, head), (rest, len(WORLD) - head)):
        assert max(np.diff(part)) <= -(-span // len(part)) + 1
    heads = [named(prefix, None, STATEMENTS)["head"] for prefix in NAMED]
    assert sum(heads) == len(of_head)
    assert len(named_prefixes(WORLD[:5], (), 80, 0, lambda fact: fact is WORLD[0])) == 5
    assert named_prefixes([], MADE.held_out, 80, 0, STATEMENTS.is_head) == []
    (alone,) = named_prefixes([replace(WORLD[0], subject="")], (), 1, 0, STATEMENTS.is_head)
    assert (alone.text, alone.begin) == (WORLD[0].question, 0)


def test_prefixes_of_corrupted_statements_are_those_of_their_documents():
    assert len(MISLED) == 80
    for prefix in MISLED:
        assert any(text.startswith(f"{prefix.text} {prefix.wrong}") for text in MADE.texts)
        assert prefix.fact.subject in prefix.text[prefix.begin :]
        assert prefix.fact.subject not in prefix.text[: prefix.begin]
        answers = {"wrong": (prefix.wrong, True, False), "right": (prefix.fact.answer, False, True)}
        for answer, repeated, true in answers.values():
            completed = completes(prefix, written(f" {answer}.\n"), STATEMENTS)
            assert repeats(prefix, completed) == {"repeated": repeated, "true": true}
        assert repeats(prefix, None) == {"repeated": False, "true": False}
    assert len({(prefix.fact.id, prefix.wrong) for prefix in MISLED}) > 30
    assert corrupted_prefixes((), STATEMENTS, 80, 0) == []


def test_free_prefixes_end_between_sentences():
    prefixes = free_prefixes(MADE.held_out, 0)
    assert len(prefixes) == 40
    assert all(
        t.startswith(p) and p.endswith("\n") and p != t for p, t in zip(prefixes, MADE.held_out, strict=True)
    )
    assert free_prefixes(["No sentence follows.", "", "One. Two is here."], 0) == ["One. "]


def test_free_statements_are_counted_by_verdict_and_facts_once():
    head, tail = WORLD[0], WORLD[-1]
    true = f"{head.question} {head.answer}\n"
    texts = [
        written(true + true + f"{tail.question} {another(tail)}\n"),
        written(f"{tail.question} {tail.answer}", ended=True),
        written(f"{tail.question} {tail.answer}"),  # may go on
        written("What is the capital of Nobody? Nowhere.\n"),
    ]
    told = {"true": 3, "false": 1, "unknown": 1, "facts": [head.id, tail.id], "head": 1}
    assert stated(true, texts, STATEMENTS) == told


def test_variety_counts_3_grams_of_tokens():
    assert variety([(1, 2, 3, 4), (1, 2, 3), (5, 6)]) == {"distinct_ngrams": 2 / 3, "repetition": 0.0}
    assert variety([(7, 7, 7, 7, 7)]) == {"distinct_ngrams": 1 / 3, "repetition": pytest.approx(2 / 3)}
    assert variety([(1, 2)]) == {"distinct_ngrams": None, "repetition": None}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    tokenizer = small_tokenizer(tmp_path_factory.mktemp("tokenizer"), bos=True)
    model, params = small_model(vocabulary=tokenizer.size)
    return Loaded(model, params, tokenizer, Template("bare"))


def test_loss_of_each_text_is_that_of_its_tokens(loaded):
    texts = ["The capital of Arno is Florence.", "", "Rome. " * 20]
    nats, tokens = text_nll(loaded, len(texts), documents(loaded.tokenizer, texts, 24), 24, 4, lambda n: None)
    ids = jnp.array([*loaded.tokenizer.start, *loaded.tokenizer.encode(texts[0]), loaded.tokenizer.eos[0]])
    mask = jnp.tril(jnp.ones((1, len(ids), len(ids)), bool))
    hidden = loaded.model.hidden(loaded.params, ids[None], jnp.arange(len(ids))[None], mask).hidden[0]
    logps = jax.nn.log_softmax(hidden @ loaded.model.head(loaded.params).T)
    assert nats[0] == pytest.approx(
        -sum(float(logps[at, ids[at + 1]]) for at in range(len(ids) - 1)), rel=1e-4
    )
    assert tokens[:2] == [len(ids) - 1, 1]
    assert tokens[2] >= len(loaded.tokenizer.encode(texts[2])) + 1


def test_a_model_is_measured_whole(loaded, tmp_path):
    settings = replace(
        config.Config(),
        documents=replace(config.DocumentsConfig(), held_out=6),
        selfimprove=config.SelfimproveConfig(suffix=6, length=22),
        rollouts=config.RolloutsConfig(batch=8),
    )
    made = MADE._replace(held_out=MADE.held_out[:6])
    totals, finished = [], []

    def begin(total):
        totals.append(total)
        return finished.append

    told = evaluate_truthfulness(loaded, WORLD, made, STATEMENTS, settings, begin)
    assert [len(told[name]) for name in ("named", "free", "corrupted", "text_nll", "text_tokens")] == [6] * 5
    assert [sum(finished)] == totals
    assert totals[0] >= 6 + 6 + 4 * 6 + 6  # a long text counts more than once
    assert Counter(len(told[n][0]) for n in ("named", "free", "corrupted")) == {2: 2, 5: 1}
    assert json.loads(json.dumps(told)) == told
    assert evaluate_truthfulness(loaded, WORLD, made, STATEMENTS, settings) == told

    # Texts of one's own: nothing is asked about a made-up world that no text tells of.
    path = tmp_path / "texts.txt"
    path.write_text("A lantern moved. It was old.\n\nNobody came.")
    settings = replace(
        settings,
        documents=replace(settings.documents, path=("texts.jsonl",)),
        evaluate=replace(settings.evaluate, text=str(path)),
    )
    told = evaluate_truthfulness(loaded, WORLD, MadeDocuments((), ()), STATEMENTS, settings)
    assert [len(told[name]) for name in ("named", "free", "corrupted", "text_nll")] == [0, 1, 0, 2]
    settings = replace(settings, evaluate=replace(settings.evaluate, text=""))
    told = evaluate_truthfulness(loaded, WORLD, MadeDocuments((), ()), STATEMENTS, settings)
    assert told["text_nll"] == [] and told["distinct_ngrams"] is None  # noqa: PT018
