"""Whole runs that train several wordings of each question."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.command_line import call, complaint

from pretrainrl_jax.config import Config, FactsConfig, TrainConfig
from pretrainrl_jax.facts.cleaning import NO_REWORDING
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.splits import split
from pretrainrl_jax.facts.world import make_world
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.trees.records import read_trees

FACTS = [
    {"question": f"What is the sign of {name}?", "answer": answer, "subject": name, "category": "sign"}
    | {"paraphrases": [f"Name the sign of {name}.", f"{name} has which sign?"]}
    for name, answer in zip(
        ("Aro", "Bel", "Cim", "Dor", "Eva", "Fio", "Gal", "Hem"),
        ("lion", "bear", "wolf", "hawk") * 2,
        strict=True,
    )
]
SMALL = ("--facts.holdout_every=0", "--train.passes=2", "--train.questions=4", "--evaluate.samples=0")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Facts with two other wordings each."""
    path = tmp_path_factory.mktemp("facts") / "facts.json"
    path.write_text(json.dumps(FACTS))
    return path


def run(file: Path, config: Path, workdir: Path, *words: str):
    given = ("--config", config, f"--facts.path={file}", "--workdir", workdir, *SMALL, *words)
    return call("run", *given)


def prompts(workdir: Path) -> dict[str, list[tuple[int, ...]]]:
    """Of each question the prefixes of its trees."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for tree in read_trees(workdir / "mined" / "trees.array_record"):
        found.setdefault(tree.id, []).append(tree.prefix)
    return found


@pytest.mark.slow
def test_all_objectives_learn_from_all_wordings(
    file: Path, tmp_path: Path, tiny_config: Path, compiled: Path
) -> None:
    systems = "--train.systems=ntp_answer,pretrainrl,rpo,rlvr"
    more = ("--objectives.rpo.remine_every=2", "--objectives.rlvr.grpo.samples=2")
    ran = run(file, tiny_config, tmp_path / "work", systems, "--train.wordings=3", *more)
    assert ran.code == 0, ran.err
    mined = prompts(tmp_path / "work")
    assert len(mined) == len(FACTS)
    assert {len(set(prefixes)) for prefixes in mined.values()} == {3}
    again = next((tmp_path / "work" / "mined" / "rpo").glob("round1.array_record"))
    assert len(read_trees(again)) == 3 * len(FACTS)
    statistics = json.loads((tmp_path / "work" / "mined" / "statistics.json").read_text())
    assert statistics["questions"] == statistics["trees"] == len(FACTS)
    one = run(file, tiny_config, tmp_path / "one", "--train.systems=ntp_answer")
    assert one.code == 0, one.err
    assert {len(prefixes) for prefixes in prompts(tmp_path / "one").values()} == {1}


def test_wordings_that_are_not_there_are_told(file: Path, tmp_path: Path, tiny_config: Path) -> None:
    ran = run(file, tiny_config, tmp_path / "some", "--train.systems=ntp_answer", "--train.wordings=4")
    assert ran.code == 0, ran.err
    assert "8 questions have fewer wordings than train.wordings=4" in ran.out
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps([{k: v for k, v in fact.items() if k != "paraphrases"} for fact in FACTS]))
    said = complaint(run(bare, tiny_config, tmp_path / "none", "--train.wordings=2"))
    assert "train.wordings=2, and no question has another wording" in said
    assert not (tmp_path / "none").exists()
    templates = "--facts.rewordings=Which sign is of {s}?,sign=Tell the {p} of {s}:"
    ran = run(
        bare, tiny_config, tmp_path / "made", "--train.systems=ntp_answer", "--train.wordings=3", templates
    )
    assert ran.code == 0, ran.err
    assert {len(set(prefixes)) for prefixes in prompts(tmp_path / "made").values()} == {3}
    assert "must name the subject" in complaint(
        run(bare, tiny_config, tmp_path / "x", "--facts.rewordings=Which?")
    )


def test_what_is_evaluated_as_unseen_is_no_wording_of_training() -> None:
    """A paraphrase, or a question that is held out, in other letters."""
    config = Config(train=TrainConfig(wordings=3), facts=FactsConfig(holdout_every=3))
    made = make_world(config.world, 0)[:30]
    kept, apart = split(made, 3)
    others = (apart[0].question.lower(), made[5].paraphrase.replace("?", " !"), "One?", "Two?", "Three?")
    facts = [replace(fact, rewordings=others if fact == kept[0] else ()) for fact in made]
    context = Context(config, Path(), None, facts)  # type: ignore[arg-type]
    worded = {fact.id: [asked.question for asked in context.worded(fact)] for fact in context.trained}
    assert worded[kept[0].id] == [kept[0].question, "One?", "Two?"]
    assert worded[kept[1].id] == [kept[1].question]
    one = Context(Config(), Path(), None, facts)  # type: ignore[arg-type]
    assert [asked.question for asked in one.worded(one.trained[0])] == [one.trained[0].question]


def test_what_is_no_wording_is_left_out_and_counted(tmp_path: Path) -> None:
    facts = [dict(fact) for fact in FACTS]
    facts[0]["paraphrases"] = ["what is the sign of ARO", "Tell the sign of Aro.", "tell sign of Aro"]
    facts[1]["paraphrases"] = [{"not": "a text"}, "The sign of Bel?"]
    facts[2]["paraphrases"] = ""
    facts[3]["paraphrases"] = "['Dor has which sign?', None, 'Which is Dor?']"
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(facts))
    reading = read_facts(Config(facts=FactsConfig(path=str(path))))
    assert [fact.rewordings for fact in reading.facts[:4]] == [
        ("Tell the sign of Aro.",), ("The sign of Bel?",), (), ("Dor has which sign?", "Which is Dor?"),
    ]  # fmt: skip
    assert len(reading.facts) == len(FACTS)
    assert reading.repaired[NO_REWORDING] == 1


def test_nothing_is_mined_where_nothing_compares(file: Path, tmp_path: Path, tiny_config: Path) -> None:
    ran = run(file, tiny_config, tmp_path / "work", "--train.systems=ntp_answer", "--mine.sources=")
    assert ran.code == 0, ran.err
    assert "mine: 0 negatives (none) for 0 of 8 questions" in ran.out
    assert "fewer negatives" not in ran.out
    assert "beams" not in ran.out
    said = complaint(run(file, tiny_config, tmp_path / "dpo", "--train.systems=dpo", "--mine.sources="))
    assert "mine.sources is empty, and dpo compares with negatives" in said


def test_only_the_groups_that_are_named_are_asked(file: Path, tmp_path: Path, tiny_config: Path) -> None:
    words = ("--train.systems=ntp_answer", "--mine.sources=", "--facts.holdout_every=3")
    ran = run(file, tiny_config, tmp_path / "work", *words, "--evaluate.groups=trained")
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "work" / "evaluations" / "ntp_answer.json").read_text())
    assert {question["group"] for question in found["questions"]} == {"trained"}
    for wrong in ("paraphrase", "trained,others", "trained,trained"):
        assert "evaluate.groups" in complaint(
            run(file, tiny_config, tmp_path / "no", *words, f"--evaluate.groups={wrong}")
        )
