"""Whole runs that train several wordings of each question."""

import json
from pathlib import Path

import pytest
from helpers.command_line import call, complaint

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
