"""The evaluation by choice: with beams enough it is the argmax over every candidate, scored."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.models_and_trees import fact as about_arno

import pretrainrl_jax as prl
from pretrainrl_jax.config import Config, EvaluateConfig
from pretrainrl_jax.facts.choices import category_answers
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.stages.asking import Asker, as_facts, questions_of
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.evaluate import ask_further
from pretrainrl_jax.workdir import read_workdir


def test_a_choice_is_the_most_probable_answer_and_as_sure_as_the_model(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_workdir(workdir)
    facts = read_facts(config).facts
    sets = category_answers(facts)
    assert max(map(len, sets.values())) <= 8
    settings = replace(config.evaluate, among="category", beams=8)
    context = Context(replace(config, evaluate=settings), workdir, make_mesh(config.mesh), facts)
    loaded = context.load("train/ntp_answer")
    asked = as_facts(questions_of(context))[:20]
    chosen = Asker(context, loaded, context.config.evaluate, "evaluate/test").ask_choices(asked)
    assert "no true answer" not in capsys.readouterr().out

    model = loaded.model, loaded.params, loaded.tokenizer
    right = 0
    for (fact, question, _), (text, is_right, confidence) in zip(asked, chosen, strict=True):
        known = sets[fact.category]
        logps = prl.score(*model, [question] * len(known), [f" {a}" for a in known], terminator="eos")
        best = max(zip(logps, known, strict=True))
        assert text == best[1]
        assert confidence == pytest.approx(math.exp(best[0]), rel=1e-4)
        assert is_right == (text == fact.answer)
        right += is_right
    assert 0 < right < len(asked)

    listed = tmp_path / "answers.txt"
    listed.write_text(f"Atlantis\n{asked[0][0].answer}\n")
    of_file = replace(context, config=replace(config, evaluate=replace(settings, among=str(listed))))
    texts = {
        text
        for text, _, _ in Asker(of_file, loaded, of_file.config.evaluate, "evaluate/test").ask_choices(asked)
    }
    assert texts <= {"Atlantis", asked[0][0].answer}
    lacking = sum(fact.answer != asked[0][0].answer for fact, _, _ in asked)
    assert f"{lacking} of 20 questions have no true answer among those of evaluate.among" in (
        capsys.readouterr().out
    )


def test_each_question_about_a_fact_has_its_own_samples_and_choice():
    one, other = about_arno(), about_arno(("Rome",), id="2")
    asked = [(one, one.question, "trained"), (other, "Which?", "paraphrase"), (other, "And?", "held_out")]
    asker: Any = SimpleNamespace(
        ask_samples=lambda listed: [[(f"{w} a", True), (f"{w} b", False)] for _, w, _ in listed],
        ask_choices=lambda listed: [(f"choice of {w}", w == "And?", 0.25) for _, w, _ in listed],
    )
    config = Config(evaluate=EvaluateConfig(samples=2, among="category"))
    context: Any = SimpleNamespace(config=config, neighbour=lambda about: f"neighbour of {about.id}")
    first, reworded, last = ask_further(context, asker, asked)
    assert reworded == {}  # asked in its own wording alone
    assert first == {
        "samples": [f"{one.question} a", f"{one.question} b"], "samples_right": [True, False],
        "choice": f"choice of {one.question}", "choice_right": False, "choice_confidence": 0.25,
    }  # fmt: skip
    assert (last["neighbour"], last["choice"], last["choice_right"]) == (
        "neighbour of 2",
        "choice of And?",
        True,
    )
