import json
import math
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import tree, trees

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.trees.records import from_json, read_trees, refuse_unscored, to_json, write_trees
from pretrainrl_jax.trees.rows import GOLD, NEGATIVE
from pretrainrl_jax.trees.tree import AnswerTree, Branch


def plain(made: list[AnswerTree]) -> list[str]:
    """Every field, NaN spelt out, so that it compares equal to itself."""
    return [repr(asdict(t)) for t in made]


@settings(deadline=None)
@given(trees())
def test_json_holds_all_of_a_tree(made):
    text = json.dumps(to_json(made), allow_nan=False)
    assert plain([from_json(json.loads(text))]) == plain([made])


@given(st.lists(trees(), max_size=80))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_holds_all_trees_in_order(tmp_path, made):
    path = tmp_path / "mined" / "trees.array_record"
    write_trees(path, iter(made))
    assert plain(read_trees(path)) == plain(made)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_texts_of_any_script_and_exact_numbers_survive(tmp_path):
    logp = -1.2345678901234567
    made = AnswerTree("\u00e9", (7, 8), (Branch((1, 2), GOLD, "\u5317\u4eac \U0001f30d\n", logp, math.nan),))
    write_trees(tmp_path / "t", [made])
    (found,) = read_trees(tmp_path / "t")
    assert plain([found]) == plain([made])
    assert found.branches[0].reference_logp == logp
    assert math.isnan(found.branches[0].beam_logp)


def test_no_trees_are_a_file_too(tmp_path):
    write_trees(tmp_path / "t", [])
    assert read_trees(tmp_path / "t") == []


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "trees.array_record"
    write_trees(path, [tree(3, 2)])

    def breaking():
        yield tree(4, 2)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_trees(path, breaking())
    assert plain(read_trees(path)) == plain([tree(3, 2)])


def test_a_missing_file_names_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"no mined trees at .*run `mine`") as caught:
        read_trees(tmp_path / "missing")
    assert "\n" not in str(caught.value)


def test_unscored_branches_are_refused():
    scored, unscored = Branch((1, 2), GOLD, reference_logp=-1.0), Branch((1, 2), NEGATIVE)
    refuse_unscored([AnswerTree("a", (1,), (scored, scored))])
    refuse_unscored([AnswerTree("a", (1,), (Branch((1, 2), GOLD),))])  # without negatives nothing is compared
    refuse_unscored([])
    for branches in ((scored, unscored), (unscored, scored)):
        with pytest.raises(InputError, match="tree b has a branch without a reference log-probability"):
            refuse_unscored([AnswerTree("a", (1,), (scored, scored)), AnswerTree("b", (1,), branches)])
