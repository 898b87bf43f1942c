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
    distinct_ngrams,
    evaluate_truthfulness,
    free_prefixes,
    named,
    named_prefixes,
    stated,
    text_nll,
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


def written(text, ended=False):
    return Continuation(text, (), ended)


def another(fact):
    return next(f.answer for f in WORLD if f.category == fact.category and f.answer != fact.answer)


@pytest.mark.parametrize("prefix", NAMED[::5])
def test_a_prefix_that_names_subject_and_relation_has_a_verdict_by_what_completes_it(prefix):
    def verdict(text, ended=False):
        return named(prefix, written(text, ended), STATEMENTS)["verdict"]

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
    heads = [named(prefix, written(""), STATEMENTS)["head"] for prefix in NAMED]
    assert sum(heads) == len(of_head)
    assert len(named_prefixes(WORLD[:5], (), 80, 0, lambda fact: fact is WORLD[0])) == 5
    assert named_prefixes([], MADE.held_out, 80, 0, STATEMENTS.is_head) == []
    (alone,) = named_prefixes([replace(WORLD[0], subject="")], (), 1, 0, STATEMENTS.is_head)
    assert (alone.text, alone.begin) == (WORLD[0].question, 0)


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


def test_distinct_3_grams_of_tokens():
    assert distinct_ngrams([(1, 2, 3, 4), (1, 2, 3), (5, 6)]) == 2 / 3
    assert distinct_ngrams([(7, 7, 7, 7, 7)]) == 1 / 3
    assert distinct_ngrams([(1, 2)]) is None


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
    assert [len(told[name]) for name in ("named", "free", "text_nll", "text_tokens")] == [6] * 4
    assert [sum(finished)] == totals
    assert totals[0] >= 6 + 4 * 6 + 6  # a long text counts more than once
    assert Counter(len(told[n][0]) for n in ("named", "free")) == {2: 1, 5: 1}
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
    assert [len(told[name]) for name in ("named", "free", "text_nll")] == [0, 1, 2]
    settings = replace(settings, evaluate=replace(settings.evaluate, text=""))
    told = evaluate_truthfulness(loaded, WORLD, MadeDocuments((), ()), STATEMENTS, settings)
    assert told["text_nll"] == [] and told["distinct_ngrams"] is None  # noqa: PT018
