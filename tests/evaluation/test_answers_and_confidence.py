"""How sure a model is of its answers, at any temperature, against its logits in NumPy; samples and rubric."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.command_line import call, complaint, unfinish

import pretrainrl_jax as prl
from pretrainrl_jax.config.stored import changed
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.knowledge.confidence import log_loss
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.progress import SILENT
from pretrainrl_jax.stages import calibrate
from pretrainrl_jax.stages.asking import Asker, as_facts, questions_of
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.workdir import read_workdir


def context_of(workdir: Path, **values) -> Context:
    config = changed(read_workdir(workdir), values)
    return Context(config, workdir, make_mesh(config.mesh), read_facts(config).facts, SILENT)


@pytest.fixture(scope="module")
def asked(finished: Path, tmp_path_factory: pytest.TempPathFactory):
    """A context, its base model, and the outcomes of all questions."""
    context = context_of(finished)
    loaded = context.load("pretrain")
    context = replace(context, workdir=tmp_path_factory.mktemp("asked"))
    return (
        context,
        loaded,
        Asker(context, loaded, context.config.evaluate, "evaluate/base").ask_all(questions_of(context))[0],
    )


def probability(loaded, question: str, spelling: tuple[int, ...], temperature: float) -> float:
    """Of a spelling and any terminator after it, from the model's logits in float64."""
    tokenizer = loaded.tokenizer
    prompt = tokenizer.start + tokenizer.encode(question)
    logits = loaded.model.logits(loaded.params, jnp.array([[*prompt, *spelling]]))[0]
    logits = np.asarray(logits, np.float64)[len(prompt) - 1 :] / temperature
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    ends = np.exp(logp[len(spelling), list(tokenizer.eos)]).sum()
    return math.exp(sum(logp[at, token] for at, token in enumerate(spelling))) * ends


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_confidence_is_the_probability_of_all_spellings_at_any_temperature(asked, temperature):
    context, loaded, outcomes = asked
    some = outcomes[::29]
    found = calibrate.confidences(context, loaded, some, [temperature])[:, 0]
    expected = [
        sum(probability(loaded, o.question, spelling, temperature) for spelling in o.best.spellings)
        for o in some
    ]
    assert found == pytest.approx(expected, abs=1e-5)
    if temperature == 1:
        assert found == pytest.approx([o.best.confidence for o in some], abs=1e-5)


def test_the_best_answer_has_the_most_probability_among_beams_of_equal_text(asked):
    context, loaded, outcomes = asked
    settings = context.config.evaluate
    for outcome in outcomes[::37]:
        (beams,) = prl.beam_search(
            loaded.model,
            loaded.params,
            loaded.tokenizer,
            [outcome.question],
            beams=settings.beams,
            max_new_tokens=settings.max_new_tokens,
        )
        mass: dict[str, float] = {}
        for beam in beams:
            if beam.finished and normalise(beam.text):
                mass[normalise(beam.text)] = mass.get(normalise(beam.text), 0) + math.exp(beam.logp)
        if not mass:  # nothing was said
            assert outcome.best.confidence == 0
            continue
        best = max(mass, key=mass.get)
        assert normalise(outcome.best.text) == best
        assert outcome.best.confidence == pytest.approx(mass[best], rel=1e-3)
        assert [b.confidence for b in outcome.believed] == sorted(
            (b.confidence for b in outcome.believed), reverse=True
        )


def test_the_temperature_has_the_least_log_loss_on_held_out_facts(asked, monkeypatch):
    context, loaded, outcomes = asked
    described, calibrated = calibrate.calibrate(context, loaded, outcomes)
    assert "held out, fewer than" in described["reason"]
    assert calibrated == [None] * len(outcomes)

    monkeypatch.setattr(calibrate, "FEWEST", 5)
    held_out = [o for o in outcomes if o.group == "held_out"]
    # So that something is right and something wrong, whatever this tiny model has learned.
    made = [
        replace(o, believed=(o.best._replace(right=place % 2 == 0),)) if o.group == "held_out" else o
        for place, o in enumerate(outcomes)
    ]
    held_out = [o for o in made if o.group == "held_out"]
    right = np.array([o.best.right for o in held_out])
    described, calibrated = calibrate.calibrate(context, loaded, made)
    losses = [
        log_loss(column, right)
        for column in calibrate.confidences(
            context, loaded, held_out, np.geomspace(*calibrate.RANGE, 60).tolist()
        ).T
    ]
    before, after = described["log_loss"]
    assert after <= min(losses) + 1e-3
    assert before == pytest.approx(log_loss(np.array([o.best.confidence for o in held_out]), right))
    own = [c for c, o in zip(calibrated, made, strict=True) if o.group == "held_out"]
    assert log_loss(np.array(own), right) == pytest.approx(after, abs=1e-4)
    assert described["fitted_on"] == len(held_out)


def test_where_all_held_out_answers_are_wrong_nothing_is_fitted(asked, monkeypatch):
    context, loaded, outcomes = asked
    monkeypatch.setattr(calibrate, "FEWEST", 5)
    wrong = [replace(o, believed=(o.best._replace(right=False),)) for o in outcomes]
    described, _ = calibrate.calibrate(context, loaded, wrong)
    assert described["reason"].startswith("all answers to the")


def test_samples_do_not_depend_on_how_questions_are_divided(asked, tmp_path):
    context, loaded, outcomes = asked
    questions = as_facts(questions_of(context))
    assert {group for _, _, group in questions} == {"trained", "held_out"}
    parts = []
    for number in (7, 512):
        settings = changed(context.config, {"checkpoint.shard_questions": number})
        own = replace(context, config=settings, workdir=tmp_path / str(number))
        parts.append(Asker(own, loaded, own.config.evaluate, "evaluate/base").ask_samples(questions))
    assert parts[0] == parts[1]
    assert all(len(samples) == context.config.evaluate.samples for samples in parts[0])
    truths = {o.question: {*map(normalise, o.fact.answers)} for o in outcomes}
    for (_, wording, _), samples in zip(questions, parts[0], strict=True):
        for text, right in samples:
            if right:
                assert text in truths[wording] | context.known_truths[wording]
            else:
                assert text not in truths[wording]


def test_the_rule_stands_in_the_prompt_and_answers_are_judged(asked, monkeypatch):
    context, loaded, _ = asked
    questions = as_facts(questions_of(context))[:6]
    verdicts = Asker(context, loaded, context.config.evaluate, "evaluate/base").ask_by_rule(questions, 3)
    assert len(verdicts) == 6
    assert {*verdicts} <= {"right", "wrong", "abstained"}
    stated = replace(context.template("bare"), rule="A rule.")
    assert stated.prefix("Who?") == "A rule.\nWho?"
    shown = replace(stated, kind="few_shot").prefix("Who?")
    assert " A rule.\nQuestion: Who?\nAnswer:" in shown


def test_what_an_evaluation_writes_of_confidence(finished: Path):
    told = json.loads((finished / "evaluations" / "base.json").read_text())
    for question in told["questions"]:
        assert 0 <= question["confidence"] <= 1
        assert question["calibrated"] is None
        assert question["truths"] >= 1
        assert question["p_aliases"] >= question["p_truth"] - 1e-9
        assert ("neighbour" in question) == (question["group"] == "held_out")
        if question["group"] in ("trained", "held_out"):
            assert len(question["samples"]) == len(question["samples_right"]) == 4
    assert {"trained", "held_out", "paraphrase", "reversed"} <= {q["group"] for q in told["questions"]}
    held_out = told["groups"]["held_out"]["count"]
    near = [told["groups"].get(n, {"count": 0})["count"] for n in ("neighbour_subject", "neighbour_answer")]
    assert sum(near) + told["groups"].get("distant", {"count": 0})["count"] == held_out


def test_a_rubric_is_asked_where_it_is_named(workdir: Path):
    unfinish(workdir, lambda stage: stage == "evaluate/base")
    ran = call("evaluate", "--workdir", workdir, "--evaluate.rubric=1,9")
    assert ran.code == 2  # evaluated systems of one workdir are asked alike
    settings = json.loads((workdir / "config.json").read_text())
    settings["evaluate"]["rubric"] = [1.0, 9.0]
    (workdir / "config.json").write_text(json.dumps(settings))
    ran = call("evaluate", "--workdir", workdir)
    assert ran.code == 0, ran.err
    told = json.loads((workdir / "evaluations" / "base.json").read_text())
    assert sorted(told["rubric"]["open"]) == ["1", "9"]
    asked = [q for q in told["questions"] if q["group"] in ("trained", "held_out")]
    assert {len(v) for v in (told["rubric"]["closed"], *told["rubric"]["open"].values())} == {len(asked)}
    right = [q["correct"] for q in asked]
    assert [verdict == "right" for verdict in told["rubric"]["closed"]] == right


def test_any_model_is_evaluated_on_a_users_facts(finished: Path, tmp_path: Path):
    path = tmp_path / "facts.csv"
    facts = read_facts(read_workdir(finished)).facts
    rows = [f'"{f.question}","{f.answer}",{f.category},{n % 3}' for n, f in enumerate(facts)]
    path.write_text("\n".join(["question,answer,category,tier", *rows]) + "\n")
    words = (f"--model.path={finished / 'checkpoints' / 'pretrain'}", "--workdir", tmp_path / "out")
    short = ("--evaluate.beams=3", "--evaluate.max_new_tokens=4")
    ran = call("evaluate", *words, f"--facts.path={path}", "--evaluate.by=tier", *short)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1] == f"report: {tmp_path / 'out' / 'report' / 'index.html'}"
    told = json.loads((tmp_path / "out" / "evaluations" / "base.json").read_text())
    assert {q["columns"]["tier"] for q in told["questions"] if q["group"] == "trained"} == {"0", "1", "2"}
    assert told["text_nll"] is None
    assert json.loads((tmp_path / "out" / "config.json").read_text())["evaluate"]["template"] == "few_shot"
    again = call("evaluate", *words, f"--facts.path={path}", "--evaluate.by=tier", *short)
    assert "evaluate/base: finished, skipped" in again.out + again.err
    assert "give --facts.path" in complaint(call("evaluate", *words))
    one = tmp_path / "one.csv"
    one.write_text("question,answer,category\nWho?,Ann,who\n")
    few = call("evaluate", words[0], f"--facts.path={one}", "--workdir", tmp_path / "few")
    said = few.err.splitlines()[-1]
    assert "no fact is left to evaluate: of 1, 0 are shown as examples (evaluate.template)" in said
    assert "1 held out (facts.holdout_every)" in said
    assert few.code == 2
    other = ("--workdir", tmp_path / "other", words[0])
    wrong = call("evaluate", *other, f"--facts.path={path}", "--evaluate.by=tear")
    assert "no column tear (evaluate.by)" in complaint(wrong)
    assert "without facts.path" in complaint(call("run", "--evaluate.by=tier", "--workdir", tmp_path / "w"))
