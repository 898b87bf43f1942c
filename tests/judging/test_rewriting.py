from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax import config
from pretrainrl_jax.documents.world import make_documents
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.facts.world import make_world
from pretrainrl_jax.judging.protocol import RewriteCase
from pretrainrl_jax.judging.rewriting import exact_rewriter

WORLD = make_world(config.WorldConfig(facts=120), 0)
DOCUMENTS = make_documents(
    WORLD, config.DocumentsConfig(count=40, false_share=0.5, held_out=5), config.CorpusConfig(), 0
)
STATEMENTS = Statements(WORLD)
rewrite = exact_rewriter(STATEMENTS)


def verdicts(text, since):
    return [s.verdict for s in STATEMENTS.find(text, since=since)]


@given(st.sampled_from(DOCUMENTS.texts), st.data())
def test_everything_that_a_suffix_completes_is_true_afterwards(text, data):
    cut = data.draw(st.integers(0, len(text)))
    prefix, suffix = text[:cut], text[cut:]
    (rewritten,) = rewrite([RewriteCase(prefix, suffix)])
    before = STATEMENTS.find(text, since=cut)
    if all(s.verdict != "false" for s in before):
        assert rewritten == suffix
    begun = [s for s in before if s.answer_start < cut]  # only what the prefix says already may stay false
    assert verdicts(prefix + rewritten, cut).count("false") <= len(begun)
    assert rewritten.count("\n") == suffix.count("\n")
    assert rewrite([RewriteCase(prefix, rewritten)]) == [rewritten]


def test_the_sentence_that_the_prefix_begins_is_corrected_and_the_rest_copied():
    fact = next(f for f in WORLD if f.category == "capital")
    prefix = f"A lantern moved.\nThe capital of {fact.subject} is"
    case = RewriteCase(prefix, f" Nowhere.\n  It is  {fact.answer}")
    assert rewrite([case]) == [f" {fact.answer}.\n  It is  {fact.answer}"]
    cut = RewriteCase(f"{prefix} No", "where.\nSo.")
    assert rewrite([cut, case]) == ["where.\nSo.", f" {fact.answer}.\n  It is  {fact.answer}"]
    shared = RewriteCase(f"{prefix} {fact.answer[:1]}", "owhere.")
    assert rewrite([shared]) == [f"{fact.answer[1:]}."]
