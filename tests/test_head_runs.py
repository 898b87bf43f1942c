"""A run that asks the best-known facts beyond its own: they are told apart, and never trained."""

import json
from pathlib import Path

from helpers.command_line import call, summary

from pretrainrl_jax.trees.records import read_trees


def test_the_head_is_asked_and_never_trained(tmp_path: Path, tiny_config: Path, compiled: Path) -> None:
    rows = [f"{n},Who leads Land {n}?,Leader {n % 7},leader,{n}" for n in range(40)]
    facts = tmp_path / "facts.csv"
    facts.write_text("\n".join(["id,question,answer,category,popularity", *rows]))
    words = ("--config", tiny_config, "--workdir", tmp_path / "work", f"--facts.path={facts}")
    ran = call("run", *words, "--facts.limit=20", "--facts.head=6", "--train.systems=ntp_answer")
    assert ran.code == 0, ran.err

    evaluated = json.loads((tmp_path / "work" / "evaluations" / "ntp_answer.json").read_text())
    asked = {group: set[str]() for group in ("trained", "held_out", "head")}
    for question in evaluated["questions"]:
        asked.get(question["group"], set()).add(question["id"])
    assert (len(asked["head"]), len(asked["trained"] | asked["held_out"])) == (6, 20)
    beyond = {str(n) for n in range(40)} - asked["trained"] - asked["held_out"]
    assert asked["head"] == set(sorted(beyond, key=int)[-6:])
    mined = {tree.id for tree in read_trees(tmp_path / "work" / "mined" / "trees.array_record")}
    assert mined.isdisjoint(asked["head"])
    for system in summary(tmp_path / "work")["systems"].values():
        assert system["groups"]["head"]["count"] == 6

    words = ("--config", tiny_config, "--workdir", tmp_path / "other", f"--facts.path={facts}")
    again = call("run", *words, "--facts.limit=20", "--facts.head=21")
    assert again.code == 2
    assert "has 20 facts beyond facts.limit; give fewer" in again.err
