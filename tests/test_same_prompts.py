"""A question that several rows ask: what one of them says is never mined, drawn or judged as a falsehood."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import call
from helpers.models_and_trees import fact

from pretrainrl_jax.config import Config
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.mine import known_true
from pretrainrl_jax.trees.records import read_trees
from pretrainrl_jax.trees.tree import AnswerTree, Branch

PLACES = [f"Place{n}" for n in range(16)]
# Each question stands in two relations; what one says is popular in the other, too.
ROWS = [
    {
        "question": f"Where is {place}?",
        "category": kind,
        "subject": place,
        "answer": answer,
        "popularity": n + 1,
    }
    for n, place in enumerate(PLACES)
    for kind, answer in (("town", f"Ville{n % 5}"), ("land", f"Ville{(n + 2) % 5}"))
]

MINE = ("--mine.sources=popularity,pool,beam", "--mine.popular_share=1", "--mine.pool=20")


def namesake(row: dict[str, Any]) -> dict[str, Any]:
    """The same in one relation, of two subjects of one name."""
    return row | {"category": "place", "subject_id": f"{row['category']} {row['subject']}"}


@pytest.mark.parametrize("duplicates", ["merge", "keep"])
def test_a_run(duplicates: str, tmp_path: Path, tiny_config: Path) -> None:
    path, workdir = tmp_path / "facts.jsonl", tmp_path / "run"
    rows = ROWS if duplicates == "merge" else list(map(namesake, ROWS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (f"--facts.path={path}", f"--facts.duplicates={duplicates}", "--facts.holdout_every=0")
    ran = call("pretrain", "--config", tiny_config, "--workdir", workdir, *settings, *MINE)
    assert ran.code == 0, ran.err
    ran = call("mine", "--workdir", workdir)
    assert ran.code == 0, ran.err
    trees = read_trees(workdir / "mined" / "trees.array_record")
    true: dict[str, set[str]] = {}
    for row in rows:
        true.setdefault(row["question"], set()).add(normalise(row["answer"]))
    assert len(trees) == len(rows)
    for mined in trees:
        row = rows[int(mined.id.removeprefix("row")) - 1]
        false = {normalise(branch.text) for branch in mined.branches if branch.role == "rejected"}
        assert false
        assert not false & true[row["question"]]
    dropped = json.loads((workdir / "mined" / "statistics.json").read_text())["dropped"]
    assert dropped["popularity"]["known_true"] == 2 * len(rows)  # its own answer, and the other row's


def test_mined_falsehoods_that_became_true_are_found() -> None:
    texts = {"Florence": "chosen", "Rome": "rejected", "Pisa": "rejected"}
    mined = [AnswerTree("1", (1,), tuple(Branch((2, 3), role, text) for text, role in texts.items()))]
    facts = [fact()]
    context = Context(Config(), Path(), None, facts)  # type: ignore[arg-type]
    assert known_true(context, mined) == []
    twin = fact(("the Rome",), id="2", category="else", subject_key="else")
    (said,) = known_true(replace(context, facts=[*facts, twin]), mined)
    assert said == "'Rome' of 'What is the capital of Arno?'"
