import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from helpers.models_and_trees import tree, trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.trees.records import digest, from_json, read_trees, refuse_unscored, to_json, write_trees
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Pair

MINED = Path(__file__).parent.parent / "fixtures" / "mined_2026_11.array_record"


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
    made = AnswerTree("\u00e9", (7, 8), (Branch((1, 2), "chosen", "\u5317\u4eac \U0001f30d\n", 0.1, logp),))
    write_trees(tmp_path / "t", [made])
    (read,) = read_trees(tmp_path / "t")
    assert plain([read]) == plain([made])
    assert read.branches[0].reference_logp == logp
    assert math.isnan(read.branches[0].behaviour_logp)


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
    scored, unscored = Branch((1, 2), "chosen", reference_logp=-1.0), Branch((1, 2), "rejected")
    half = replace(unscored, reference_logp=(-1.0, math.nan))
    refuse_unscored([AnswerTree("a", (1,), (scored, scored))])
    refuse_unscored([AnswerTree("a", (1,), (Branch((1, 2), "chosen"),))])  # nothing is compared
    refuse_unscored([AnswerTree("a", (1,), (scored, replace(unscored, reference_logp=(-1.0, -2.0))))])
    refuse_unscored([])
    anyone = replace(unscored, role="candidate")
    for pairs in ((), (Pair(0, 1, 0.0),), (Pair(0, 2),)):
        refuse_unscored([AnswerTree("a", (1,), (scored, unscored, scored), pairs)])
    refused = [(b, None) for b in ((scored, unscored), (unscored, scored), (scored, half))]
    refused += [((scored, anyone), (Pair(0, 1),)), ((scored, anyone), (Pair(1, 0, 0.5),))]
    for branches, pairs in refused:
        with pytest.raises(InputError, match="tree b has a branch without a reference log-probability"):
            refuse_unscored([AnswerTree("a", (1,), (scored,)), AnswerTree("b", (1,), branches, pairs)])


# Files of 2026-11


def test_trees_mined_in_2026_11_are_read_as_they_were():
    made = read_trees(MINED)
    assert len(made) == 37
    beam = {"role": "rejected", "source": "beam"}
    capital = AnswerTree(
        "world1",
        (302, 266, 259, 273, 265, 372, 31),
        (
            Branch((341, 0), "chosen", "Vu", reference_logp=-0.4772462844848633),
            Branch(
                (342, 0),
                text="Del",
                reference_logp=-3.177522659301758,
                behaviour_logp=-3.177523612976074,
                **beam,
            ),
            Branch(
                (221, 280, 31, 330, 0),
                text="en? Tunel",
                reference_logp=-15.013290405273438,
                behaviour_logp=-4.671015739440918,
                **beam,
            ),
            Branch(
                (221, 280, 31, 342, 0),
                text="en? Del",
                reference_logp=-14.864904403686523,
                behaviour_logp=-4.770163536071777,
                **beam,
            ),
        ),
    )
    second = AnswerTree(
        "world2",
        (295, 275, 313, 312, 369, 31),
        (
            Branch((320, 0), "chosen", "Va", reference_logp=-0.3198862075805664),
            Branch(
                (336, 0),
                text="Loge",
                reference_logp=-3.4320449829101562,
                behaviour_logp=-3.43204402923584,
                **beam,
            ),
            Branch(
                (328, 0),
                text="Koger",
                reference_logp=-3.5093984603881836,
                behaviour_logp=-3.509397506713867,
                **beam,
            ),
        ),
    )
    assert plain(made[:2]) == plain([capital, second])
    assert {b.role for t in made for b in t.branches} == {"chosen", "rejected"}
    assert all(t.pairs is None for t in made)


def test_digests_are_those_of_2026_11():
    """Computed then: a workdir that notes the digest of its trees still finds them unchanged."""
    made = read_trees(MINED)
    assert digest(made) == "1e4688ab05b897fc"
    assert digest(made[:1]) == "213b15181a63643f"


def test_a_digest_tells_apart_whatever_training_reads():
    chosen = Branch((1, 2), "chosen", "x", reference_logp=-1.0)
    made = AnswerTree("t", (3, 4), (chosen, replace(chosen, role="rejected")))
    branches = [
        *({name: value} for name in ("weight", "advantage") for value in (2.0, 3.0)),
        {"tokens": (1, 3)},
        *({"role": role} for role in ("rejected", "candidate", "anchor")),
        {"source": "beam"},
        {"weight": 2.0, "advantage": 2.0},
        {"weight": 0.0},
        *(
            {name: each}
            for name in ("reference_logp", "behaviour_logp", "advantage")
            for each in ((-1.0, 0.5), (0.5, -1.0))
        ),
    ]
    others = [replace(made, branches=(replace(chosen, **changes), made.branches[1])) for changes in branches]
    named = [(), (Pair(0, 1),), (Pair(1, 0),), (Pair(0, 1, 2.0),), (Pair(0, 1), Pair(0, 1))]
    others += [replace(made, pairs=pairs) for pairs in named]
    others += [replace(made, prefix=(3,)), replace(made, id="u"), replace(made, branches=made.branches[::-1])]
    digests = [digest([t]) for t in (made, *others)]
    assert len(set(digests)) == len(digests)
    for unread in ({"text": "y"}, {"behaviour_logp": -2.0}):
        assert digest([replace(made, branches=(replace(chosen, **unread), made.branches[1]))]) == digests[0]
    assert digest([made, made]) != digest([made])
