"""How much work a configuration is: counted where its data is there; else published or guessed, and said."""

import json
from pathlib import Path

import pytest

from pretrainrl_jax.config import Config, EvaluateConfig, FactsConfig, PreferencesConfig, TrainConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.planning.typical import material, trees, visible
from pretrainrl_jax.trees.tree import AnswerTree, Branch


def test_facts_that_are_there_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("question,answer\n" + "".join(f"What is {i}?,number {i}\n" for i in range(40)))
    read = material(Config(facts=FactsConfig(path=str(path), holdout_every=4)))
    assert 0 < read.trained < 40
    assert read.own == 40  # trained and held out
    assert read.asked == 40  # there is no paraphrase, and nothing to reverse
    assert "facts.csv" in read.source
    trained_alone = EvaluateConfig(groups=("trained",))
    read = material(Config(facts=FactsConfig(path=str(path), holdout_every=0), evaluate=trained_alone))
    assert (read.trained, read.asked, read.own) == (40, 40, 40)


@pytest.mark.parametrize(
    ("facts", "trained", "said"),
    [
        (FactsConfig(path="popQA.tsv", holdout_every=0), 12_518, "as published"),
        (FactsConfig(path="popQA.tsv", holdout_every=10), 12_518 - 1_251, "as published"),
        (FactsConfig(path="entityquestions", limit=17_000, holdout_every=0), 17_000, "as published"),
        (FactsConfig(path="nowhere.csv", holdout_every=0), 10_000, "a guess"),
    ],
)
def test_facts_that_are_not_there_are_taken_as_published_or_guessed_and_it_is_said(
    facts: FactsConfig, trained: int, said: str
) -> None:
    read = material(Config(facts=facts))
    assert read.trained == trained
    assert "is not here" in read.source
    assert said in read.source


def preferences(tmp_path: Path, *answers: tuple[str, str]) -> Config:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i} " + "p" * 38, "chosen": a, "rejected": b} for i, (a, b) in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = PreferencesConfig(path=str(path), holdout_every=0)
    return Config(preferences=settings, train=TrainConfig(row_length=64))


def test_preferences_have_their_own_lengths(tmp_path: Path) -> None:
    read = material(preferences(tmp_path, ("c" * 40, "r" * 80), ("c" * 8, "r" * 8)))
    assert (read.trained, read.referenced, read.asked, read.own) == (2, 2, 2, 0)
    first = read.compared[0]
    assert len(first.prefix) == 11
    assert sorted(len(branch.tokens) for branch in first.branches) == [11, 21]
    assert first.preferences[0][:2] == (0, 1)


def test_preferences_that_fit_in_no_row_are_left_out_or_refused(tmp_path: Path) -> None:
    long = "x" * 400
    assert material(preferences(tmp_path, (long, "short"), ("this one", "or that"))).trained == 1
    with pytest.raises(InputError, match=r"no comparison fits in train\.row_length"):
        material(preferences(tmp_path, (long, "short")))
    with pytest.raises(InputError):
        material(Config(preferences=PreferencesConfig(path=str(tmp_path / "none.jsonl"))))


def test_trees_stand_for_questions_and_their_answers() -> None:
    bare, shown = trees(50, "bare", 5), trees(50, "few_shot", 5)
    assert {len(tree.branches) for tree in bare} == {6}
    assert {tree.branches[0].role for tree in bare} == {"chosen"}
    assert {len(b.prefix) - len(a.prefix) for a, b in zip(bare, shown, strict=True)} == {79}
    sampled = trees(3, "bare", candidates=8, answer=6)
    assert {len(branch.tokens) for tree in sampled for branch in tree.branches} == {6}


def test_what_sees_what() -> None:
    """A prefix of 3: 6 pairs; two branches that read 2 tokens, 4 + 5 pairs, and none."""
    tree = AnswerTree("", (0, 0, 0), (Branch((0, 0, 0)), Branch((0,))))
    assert visible([tree, tree]) == 2 * (6 + 4 + 5)
