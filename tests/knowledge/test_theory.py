"""From answers to bounds: by hand, and on a small world whose every answer is scored."""

import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.command_line import call
from helpers.counted_texts import of_texts
from helpers.models_and_trees import fact
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.config import Config
from pretrainrl_jax.config.stored import section_as_now
from pretrainrl_jax.decoding.answers import Answer, answer_questions
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.factual import Truth
from pretrainrl_jax.facts.corpus import shares
from pretrainrl_jax.facts.matching import known_truths, matches, normalise
from pretrainrl_jax.facts.world import make_world
from pretrainrl_jax.knowledge.singletons import Counts
from pretrainrl_jax.knowledge.theory import KnownAnswers, Prompt, prompt_of, theory
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.objectives.scoring import score_answers
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.pretrain import of_documents
from pretrainrl_jax.stages.statements import FILE, count_statements, told_more
from pretrainrl_jax.trees.templates import Template, encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch
from pretrainrl_jax.workdir import read_workdir

FACTS = [
    fact(("Florence", "Firenze"), id="1"),
    fact(
        ("Rome", "Roma"), id="2", question="What is the capital of Italy?", subject="Italy", subject_key="Q2"
    ),
    fact(("Bern",), id="3", question="What is the capital of Aare?", subject="Aare", subject_key="Q3"),
]


def answer(text: str, p: float, finished: bool = True, tokens: tuple[int, ...] = ()) -> Answer:
    return Answer(text, tokens or tuple(map(ord, text)), math.log(p), finished)


def forced(*answers: tuple[str, float]) -> list[Truth]:
    return [Truth(text, tuple(map(ord, text)), math.log(p)) for text, p in answers]


def prompt(beams: list[Answer], truths: list[Truth], rule="exact", asked=FACTS[0], facts=FACTS) -> Prompt:
    known = known_truths(facts)
    return prompt_of(asked, asked.question, beams, truths, rule, known, KnownAnswers(facts))


def test_one_question_by_hand():
    beams = [
        answer("Rome", 0.3),
        answer("Florence", 0.2),  # forced, too: counted once
        answer("rome.", 0.1),  # the same answer in another spelling
        answer("the Florence", 0.05),
        answer("Nowhere", 0.04),
        answer("...", 0.03),  # says nothing
        answer("Bern", 0.02, finished=False),
    ]
    told = prompt(beams, forced(("Florence", 0.2), ("Firenze", 0.01)))
    assert told.valid == pytest.approx((0.25, 0.01))
    assert told.wrong == pytest.approx((0.4,))
    assert told.other == pytest.approx((0.04,))
    assert told.known == 3  # Rome, Roma, Bern

    result = theory([told], None, False)
    iiv = result["iiv"]
    assert (iiv["min_erroneous"], iiv["max_valid"], iiv["threshold"]) == (4, 2, 0.25)
    # 0.25 is not above 1/4: the truth is missed, one of four errors is taken.
    assert iiv["err_iiv"] == pytest.approx((1 + 1 / 4) / 2)
    assert iiv["delta"] == pytest.approx(0.4)
    assert iiv["bound"] == pytest.approx(5 / 4 - 2 / 4 - 0.4)
    assert not iiv["vacuous"]
    assert (iiv["error"], iiv["error_known"]) == pytest.approx((0.74, 0.44))
    assert iiv["bound_known"] == pytest.approx(iiv["bound"] - 0.3)
    assert iiv.pop("bound_of_categories") == iiv["bound"]
    assert result["categories"] == [{"category": "capital", **iiv}]
    assert result["statements"] is result["singleton"] is None
    assert any("not known" in note for note in result["notes"])


def test_what_is_right_is_so_by_the_rule_of_the_evaluation():
    beams = [answer("Florence in Italy", 0.5), answer("Rome", 0.1)]
    facts = [*FACTS, fact(("Old Florence",), id="4", question="Which?", subject="It", subject_key="Q4")]
    exact = prompt(beams, forced(("Florence", 0.2)), "exact", facts=facts)
    assert (sum(exact.valid), exact.other, exact.known) == (pytest.approx(0.2), pytest.approx((0.5,)), 4)
    loose = prompt(beams, forced(("Florence", 0.2)), "contains", facts=facts)
    assert (sum(loose.valid), loose.other, loose.known) == (pytest.approx(0.7), (), 3)


names = st.text("ab é.", min_size=1, max_size=5).filter(normalise)


@given(st.lists(st.lists(names, min_size=1, max_size=3), min_size=1, max_size=6), st.booleans())
def test_known_falsehoods_are_counted_as_by_brute_force(answers: list[list[str]], loose: bool):
    facts = [fact(own, id=str(n), subject_key=str(n)) for n, own in enumerate(answers)]
    rule = "contains" if loose else "exact"
    every = {normalise(text) for own in answers for text in own}
    false = [text for text in every if not matches(text, answers[0], rule)]
    known = KnownAnswers(facts)
    assert known.false("capital", map(normalise, answers[0]), rule) == len(false)
    assert all(known.has("capital", text) for text in every)
    assert not known.has("colour", "a")


def test_a_question_without_errors_is_in_no_bound():
    alone = [FACTS[0]]
    told = prompt([answer("Florence", 0.9)], forced(("Florence", 0.9)), facts=alone)
    result = theory([told], Counts("files", {FACTS[0].question: 2}), False)
    assert (result["questions"], result["without_errors"]) == (1, 1)
    assert result["iiv"] is result["singleton"] is None
    assert theory([], None, False)["iiv"] is None


def test_a_small_category_does_not_spoil_the_others():
    answers = "Ulm", "Kiel", "Gera", "Jena", "Köln", "Bonn", "Trier", "Hof"
    many = [fact((a,), id=a, question=a, subject_key=a, category="town") for a in answers]
    few = [fact((a,), id=a, question=a, subject_key=a, category="sex") for a in ("male", "female")]
    told = [prompt([], forced((one.answer, 0.1)), asked=one, facts=many + few) for one in many + few]
    result = theory(told, None, False)
    bounds = {one["category"]: one["bound"] for one in result["categories"]}
    # At 1/7 no truth is seen; at 1/1 none either, and there may be as many valid as erroneous answers.
    assert bounds == pytest.approx({"town": 1 - 1 / 7, "sex": 0})
    assert result["iiv"]["bound"] == pytest.approx(0)
    assert result["iiv"]["bound_of_categories"] == pytest.approx(0.8 * (1 - 1 / 7))
    assert result["iiv"]["error"] == pytest.approx(0.9)


def told_of(asked, truth: float, *beams: Answer) -> Prompt:
    return prompt(list(beams), forced((asked.answer, truth)), asked=asked)


def test_the_singleton_bound_by_hand():
    prompts = [told_of(FACTS[0], 0.9), told_of(FACTS[1], 0.1, answer("Bern", 0.6), answer("Paris", 0.1))]
    times = {FACTS[0].question: 1, FACTS[1].question: 4, FACTS[2].question: 0}
    counts = Counts("corpus", times, 10, 100, 0, 0, {"1": 0.5, "2": 0.25, "3": 0.25}, 0.25)
    result = theory(prompts, counts, False)
    singleton = result["singleton"]
    # Known answers alone: Paris is none. Rome, Roma, Bern; Florence, Firenze, Bern.
    assert singleton["min_erroneous"] == 3
    assert singleton["error"] == pytest.approx((0.1 * 2 + 0.9) / 3)
    assert singleton["error_known"] == pytest.approx(0.6 / 3)
    assert singleton["delta"] == pytest.approx(abs((0.9 * 2 + 0.6) / 3 - 2 / 3))
    correction = (35 + 6 * math.log(5)) / math.sqrt(5)
    assert singleton["sample_term"] == pytest.approx(correction)
    assert singleton["bound"] == pytest.approx(1 / 5 - 2 / 3 - correction - singleton["delta"])
    assert singleton["vacuous"]
    assert singleton["holds"]
    assert (singleton["weights"], singleton["covered"]) == ("statements", 0.75)
    assert result["statements"]["missing_mass"]["true"] == 0.25
    assert (
        result["statements"]["missing_mass"]["good_turing"] == result["statements"]["singleton_rate"] == 0.2
    )
    assert [result["statements"][name] for name in ("prompts", "stated", "statements")] == [3, 2, 5]

    told = theory(prompts, replace(counts, shares=None, missing_mass=None), True)
    assert told["singleton"]["weights"] == "equal"
    assert told["singleton"]["holds"] is told["singleton"]["covered"] is None
    assert told["singleton"]["error"] == pytest.approx(0.5)
    assert any("weigh the same" in note for note in told["notes"])


def test_nothing_stated_has_no_rate():
    result = theory([told_of(FACTS[0], 0.5)], of_texts(FACTS, ["Nobody is in it!"]), False)
    assert result["statements"]["singleton_rate"] is result["statements"]["missing_mass"] is None
    assert result["singleton"] is None


def test_it_is_json():
    def finite(value: object) -> None:
        assert not isinstance(value, float) or math.isfinite(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            finite(inner)

    counts = of_texts(FACTS, [f"{fact.question} {fact.answer}" for fact in FACTS])
    result = theory([told_of(fact, 0.5) for fact in FACTS], counts, False)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    finite(result)


# The small world: everything is known.


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> Context:
    """The tiny world and a base model that has learned much of it, and believes other things as surely."""
    workdir = tmp_path_factory.mktemp("theory") / "run"
    more = ("--pretrain.epochs=40", "--corpus.popularity_power=0.5", "--mesh.data=1")
    ran = call("pretrain", "--config", tiny_config, "--workdir", workdir, *more)
    assert ran.code == 0, ran.err
    config = read_workdir(workdir)
    return Context(config, workdir, make_mesh(config.mesh), make_world(config.world, config.seed))


Candidates = dict[str, tuple[tuple[int, ...], float]]
Scored = tuple[list[list[Answer]], list[Candidates]]


@pytest.fixture(scope="module")
def scored(context: Context) -> Scored:
    """Of each fact of the world its best beams, and tokens and probability of each answer of its relation."""
    loaded, template = context.load("pretrain"), Template("bare")
    prompts = [template.prefix(asked.question) for asked in context.facts]
    base = loaded.model, loaded.params, loaded.tokenizer
    beams = answer_questions(*base, template, prompts, beams=64, max_new_tokens=6, batch=64)
    candidates = defaultdict(list)
    for asked in context.facts:
        candidates[asked.category] += [asked.answer] * (asked.answer not in candidates[asked.category])
    own = [candidates[asked.category] for asked in context.facts]
    encoded = encode_branches(loaded.tokenizer, template, prompts, own)
    trees = [
        AnswerTree(asked.id, prefix, tuple(map(Branch, branches)))
        for asked, prefix, branches in zip(context.facts, encoded.prefixes, encoded.branches, strict=True)
    ]
    ends = template.terminators(loaded.tokenizer, loaded.model.shape.vocabulary)
    logps = score_answers(loaded.model, loaded.params, trees, ends, row_length=64, rows=8)
    return beams, [
        {
            text: (branch.tokens[:-1], math.exp(logp))
            for text, branch, (_, logp) in zip(texts, tree.branches, of_tree, strict=True)
        }
        for texts, tree, of_tree in zip(own, trees, logps, strict=True)
    ]


def of_world(context: Context, scored: Scored, width: int, every: bool = False) -> list[Prompt]:
    """The prompts by so many beams, and the truth teacher-forced, or every answer of its relation."""
    facts, known = context.facts, KnownAnswers(context.facts)
    beams, candidates = scored
    truths = [
        [
            Truth(text, tokens, math.log(p))
            for text, (tokens, p) in own.items()
            if every or text == asked.answer
        ]
        for asked, own in zip(facts, candidates, strict=True)
    ]
    return [
        prompt_of(asked, asked.question, found[:width], own, "exact", context.known_truths, known)
        for asked, found, own in zip(facts, beams, truths, strict=True)
    ]


def masses(context: Context, scored: Scored, width: int) -> list[tuple[str, dict[str, float]]]:
    """Of each fact the truth, and the mass of each answer of its relation, and of the other beams."""
    told = []
    for asked, found, candidates in zip(context.facts, *scored, strict=True):
        by_tokens = {tokens: (text, p) for text, (tokens, p) in candidates.items()}
        for one in found[:width]:
            if one.finished and normalise(one.text):
                by_tokens.setdefault(one.tokens, (one.text, math.exp(one.logp)))
        mass: dict[str, float] = defaultdict(float)
        for text, p in by_tokens.values():
            mass[normalise(text)] += p
        told.append((normalise(asked.answer), mass))
    return told


def enumerated(told: list[tuple[str, dict[str, float]]]) -> dict[str, float]:
    """The terms, answer by answer."""
    fewest, count = min(len(mass) - 1 for _, mass in told), len(told)
    taken = [{text for text, p in mass.items() if p > 1 / fewest} for _, mass in told]
    gold = sum(truth in above for (truth, _), above in zip(told, taken, strict=True)) / count
    false = [len(above - {truth}) / (len(mass) - 1) for (truth, mass), above in zip(told, taken, strict=True)]
    above = sum(mass[text] for (_, mass), own in zip(told, taken, strict=True) for text in own) / count
    return {
        "min_erroneous": fewest,
        "err_iiv": (1 - gold + sum(false) / count) / 2,
        "delta": abs(above - gold),
        "error": 1 - sum(mass[truth] for truth, mass in told) / count,
        "error_known": sum(sum(mass.values()) - mass[truth] for truth, mass in told) / count,
    }


@pytest.mark.parametrize("width", [1, 4, 64])
def test_the_bound_on_a_world_whose_every_answer_is_scored(context: Context, scored: Scored, width: int):
    told = theory(of_world(context, scored, width), None, False)["iiv"]
    whole = enumerated(masses(context, scored, width))
    assert told["questions"] == 60
    assert told["min_erroneous"] == whole["min_erroneous"]
    assert told["error"] == pytest.approx(whole["error"], abs=1e-5)
    assert told["error_known"] <= whole["error_known"] + 1e-5 <= told["error"] + 2e-5
    assert told["err_iiv"] <= whole["err_iiv"] + 1e-9
    size = 1 / whole["min_erroneous"]
    assert whole["error"] >= 2 * whole["err_iiv"] - size - whole["delta"]
    assert told["holds"]
    assert told["bound"] == pytest.approx(2 * told["err_iiv"] - size - told["delta"])
    if width == 64:  # what is above the threshold is among so many
        assert told["err_iiv"] == pytest.approx(whole["err_iiv"])
        assert told["delta"] == pytest.approx(whole["delta"], abs=1e-5)
        assert 0 < told["errors_taken"] < 1
        assert 0 < told["p_above"] < 1


def test_with_all_answers_scored_nothing_is_missed(context: Context, scored: Scored):
    told = theory(of_world(context, scored, 4, every=True), None, False)["iiv"]
    whole = enumerated(masses(context, scored, 4))
    assert {name: told[name] for name in whole} == pytest.approx(whole, abs=1e-6)


def test_the_world_s_singletons(context: Context, scored: Scored):
    counts = count_statements(context, context.load("pretrain").tokenizer)
    assert counts
    mentions = list(context.corpus.mentions.values())
    assert (counts.statements, counts.stated(1)) == (sum(mentions), mentions.count(1))
    drawn = shares(context.facts, context.config.corpus)
    missing = sum(s for s, f in zip(drawn, context.facts, strict=True) if not context.corpus.mentions[f.id])
    assert counts.missing_mass == pytest.approx(missing)
    result = theory(of_world(context, scored, 64), counts, told_more(context, "base"))
    singleton = result["singleton"]
    assert (singleton["told_more"], singleton["vacuous"], singleton["holds"]) == (False, True, True)
    assert singleton["covered"] == pytest.approx(1)
    assert singleton["sample_term"] > 1
    told = masses(context, scored, 64)
    by_hand = [share * (1 - mass[truth]) for share, (truth, mass) in zip(drawn, told, strict=True)]
    assert singleton["error"] == pytest.approx(sum(by_hand), abs=1e-5)
    assert told_more(context, "ntp_answer")


# Which text is counted.


def asking(context: Context, workdir: Path, **changes: dict) -> Context:
    config = context.config
    sections = {name: replace(getattr(config, name), **values) for name, values in changes.items()}
    return Context(replace(config, **sections), workdir, context.mesh, context.facts)


def test_files_are_counted_once(context: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    texts = [f"{fact.question} {fact.answer}" for fact in context.facts[:5] for _ in range(2)]
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join([*texts, texts[0]]))
    asked = asking(context, tmp_path, evaluate={"statements": (str(path),)})
    counts = count_statements(asked, None)
    assert counts == of_texts(context.facts, [*texts, texts[0]])
    assert counts.statements == 11
    assert (tmp_path / FILE).exists()
    assert "counts statements" in capsys.readouterr().out
    assert count_statements(asked, None) == counts
    assert "counts statements" not in capsys.readouterr().out
    path.write_text("\n\n".join(texts))  # other text
    assert count_statements(asked, None).statements == 10
    lines = asking(
        context, tmp_path, evaluate=asked.config.evaluate.__dict__, documents={"separator": "line"}
    )
    assert count_statements(lines, None).statements == 10


def test_files_that_are_not_there_are_refused(context: Context, tmp_path: Path):
    (tmp_path / "docs.pdf").write_text("no")
    (tmp_path / "torn.txt.gz").write_text("no")
    for named, said in (
        ("nowhere.txt", "check evaluate.statements"),
        ("docs.pdf", "evaluate.statements="),
        ("torn.txt.gz", "no documents in"),
    ):
        asked = asking(context, tmp_path, evaluate={"statements": (str(tmp_path / named),)})
        with pytest.raises(InputError, match=said) as raised:
            count_statements(asked, None)
        assert len(str(raised.value).splitlines()) == 1


def test_documents_are_counted_in_one_pass(context: Context, tmp_path: Path):
    made = {"count": 50, "sentences": 4, "false_share": 0.25, "epochs": 3}
    asked = asking(context, tmp_path, pretrain={"text": "documents", "epochs": 1.0}, documents=made)
    counts = count_statements(asked, None)
    whole = of_texts(context.facts, asked.made_documents.texts, "documents")
    assert counts.occurrences == whole.occurrences
    assert counts.false == round(0.25 * counts.statements)
    assert sum(counts.shares.values()) == pytest.approx(1)


def test_of_documents_what_the_steps_read_is_counted(context: Context, tmp_path: Path):
    tokenizer = context.load("pretrain").tokenizer
    pretrain = {"text": "documents", "epochs": 1.0, "steps": 20, "rows": 1, "row_length": 32}
    asked = asking(context, tmp_path, pretrain=pretrain, documents={"count": 2000, "sentences": 4})
    counts = count_statements(asked, tokenizer)
    data = of_documents(asked, tokenizer)
    for _ in data.feed(type("Start", (), {"row": 0, "stream": {}})()):
        pass
    number = data.stream.state["number"]
    assert 0 < counts.texts == number < 2000
    stream = asked.stream()
    assert counts.occurrences == of_texts(context.facts, [d.text for d in stream.take(number)]).occurrences


def test_without_text_of_ours_nothing_is_counted(context: Context, tmp_path: Path):
    assert (
        count_statements(
            asking(context, tmp_path, pretrain={"epochs": 0.0}, model={"path": "somewhere"}), None
        )
        is None
    )
    some = count_statements(asking(context, tmp_path, pretrain={"epochs": 0.5}), None)
    assert some.notes == ("Pretraining read 50% of the sentences that were counted.",)
    taught = asking(context, tmp_path, model={"path": "somewhere"})
    assert told_more(taught, "base")


def test_the_setting_is_on_the_command_line_and_older_workdirs_lack_it():
    assert "statements" in call("--help", "evaluate").out
    assert section_as_now("evaluate", {"beams": 3})["statements"] == []
    assert Config().evaluate.statements == ()
