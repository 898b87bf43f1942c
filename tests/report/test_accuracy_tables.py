"""Groups, tables and what got worse, against what evaluation itself counts and against counts made here."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.made_workdirs import asked, by_system, parse, question, table, write, write_workdir

from pretrainrl_jax.config import OBJECTIVES
from pretrainrl_jax.evaluation import factual
from pretrainrl_jax.evaluation.factual import Outcome
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.report.formats import brief
from pretrainrl_jax.report.outcomes import changes, flips, grouped
from pretrainrl_jax.report.page import write_report
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.tables import SHOWN, VALUES, Worse, divided, divisions, worse

KNOWN = Systems(OBJECTIVES)


def outcome(index: int, right: bool, group: str, popularity: float) -> Outcome:
    fact = Fact(f"f{index}", f"{index}?", ("Rome",), f"c{index % 3}", "", "", popularity, 0)
    return Outcome(
        fact, fact.question, group, "Rome", right, None, None, 0.1, 0.1, None, None, 1, (), 0, 1, 0, 0.0
    )


def evaluated(system: str, outcomes: list[Outcome], bins: int) -> dict[str, Any]:
    """An evaluation file as the stage writes it, through JSON."""
    trained = [o for o in outcomes if o.group == "trained"]
    evaluation = {
        "system": system,
        "groups": factual.groups(
            outcomes, lambda fact: False, lambda fact: fact.popularity >= 5, lambda fact: ""
        ),
        "by_popularity": factual.by_popularity(trained, bins),
        "questions": [factual.to_json(o) for o in outcomes],
    }
    return json.loads(json.dumps(evaluation))


def parts(head: str, *evaluations: dict[str, Any]) -> list[list[str]]:
    """The cells of a division's table; none where nothing is divided by it."""
    return {name: made.texts() for name, made in divided(by_system(list(evaluations)), KNOWN)}.get(head, [])


@pytest.mark.parametrize("count", [1, 4, 23, 60])
def test_bins_are_those_of_the_evaluation(count: int) -> None:
    # Popularity with ties, so that ids decide; more bins than questions once.
    outcomes = [outcome(i, i * i % 7 < 3, "trained", float(i * 5 % 7)) for i in range(count)]
    outcomes += [outcome(i, True, "paraphrase", float(i)) for i in range(count)]
    evaluation = evaluated("base", outcomes, 5)
    rows = parts("popularity", evaluation)
    assert [row[:2] for row in rows] == [
        [f"{brief(own['low'])} to {brief(own['high'])}", str(own["count"])]
        for own in evaluation["by_popularity"]
    ]
    assert [row[2] for row in rows] == [f"{100 * own['acc']:.1f}" for own in evaluation["by_popularity"]]


def test_the_best_known_held_out_facts_are_those_that_were_counted() -> None:
    outcomes = [outcome(i, i % 2 == 0, "held_out", float(i * 5 % 7)) for i in range(40)]
    evaluation = evaluated("base", outcomes, 5)
    head = grouped(evaluation)["held_out_head"].values()
    assert {q["id"] for q in head} == {o.fact.id for o in outcomes if o.fact.popularity >= 5}
    measured = evaluation["groups"]["held_out_head"]
    assert sum(q["correct"] for q in head) / len(head) == pytest.approx(measured["acc"])


def test_no_popularity_no_bins() -> None:
    flat = [outcome(i, True, "trained", 0.0) for i in range(20)]
    assert parts("popularity", evaluated("base", flat, 5)) == []
    assert divided({"base": {}}, KNOWN) == []


def test_small_categories_are_put_together() -> None:
    # Category k has k questions; the system is right where base is not, and so by 1 - 1/k.
    places = [(k, i) for k in range(1, VALUES + 6) for i in range(k)]
    both = [
        [question(1000 * k + i, right(i), category=f"c{k:02}") for k, i in places]
        for right in (lambda i: i == 0, lambda i: i > 0)
    ]
    rows = parts("category", asked("base", both[0]), asked("ntp", both[1]))
    assert [int(row[1]) for row in rows[:-1]] == list(range(VALUES + 5, 5, -1))
    assert rows[0][0] == f"c{VALUES + 5}"
    assert rows[-1] == ["5 others", "15", "33.3", "66.7"]


def test_one_category_is_no_division() -> None:
    assert parts("category", asked("base", [question(i, True) for i in range(9)])) == []
    unnamed = [question(i, True, category=c) for i, c in enumerate(["", "river", ""])]
    assert [row[0] for row in parts("category", asked("base", unnamed))] == ["(none)", "river"]


def test_a_system_asked_something_else_has_no_rate() -> None:
    base = asked("base", [question(i, True, category=f"c{i % 2}") for i in range(4)])
    other = asked("ntp", [question(i, True, category="c0") for i in (0, 2)])
    assert parts("category", base, other) == [["c0", "2", "100.0", "100.0"], ["c1", "2", "100.0", "–"]]


def test_flips_are_sorted_by_popularity() -> None:
    pairs = [(question(i, i % 3 == 0), question(i, i % 2 == 0)) for i in range(12)]
    gained, lost = flips(pairs)
    assert [one["id"] for one, _ in gained] == ["f10", "f8", "f4", "f2"]  # the larger, the less popular
    assert [one["id"] for one, _ in lost] == ["f9", "f3"]


def test_ten_examples_are_spread_over_all_flips() -> None:
    before = asked("base", [question(i, False) for i in range(95)])
    after = asked("ntp", [question(i, True) for i in range(95)])
    flipped = changes(before, after)
    assert (flipped["gained"]["count"], flipped["gained"]["of"]) == (95, 95)
    numbers = [int(row["question"].split()[-1].rstrip("?")) for row in flipped["gained"]["rows"]]
    assert len(numbers) == 10
    gaps = Counter(a - b for a, b in pairwise(numbers))
    assert set(gaps) <= {9, 10}
    assert numbers[0] == 94
    row = flipped["gained"]["rows"][0]
    assert (row["before"], row["after"], row["p_before"], row["p_after"]) == ("Rome", "Florence", 0.01, 0.4)
    assert flipped["lost"] == {"count": 0, "of": 0, "rows": []}


# What got worse


def fallen(before: dict[str, Any], after: dict[str, Any]) -> Worse:
    return worse(before, after, divisions({"base": before, "ntp": after}), ["base", "NTP"])


def world(system: str, right: dict[str, int], **changes: Any) -> dict[str, Any]:
    """Of 100 questions a category, and as many held-out ones, the first so many are answered right."""
    questions = []
    for place, (name, hits) in enumerate(right.items()):
        group = "held_out" if name == "held_out" else "trained"
        questions += [question(1000 * place + i, i < hits, group, category=name) for i in range(100)]
    return asked(system, questions, **changes)


def test_what_fell_is_listed_and_what_did_not_is_not() -> None:
    before = world("base", {"river": 50, "city": 50, "king": 50, "held_out": 40}, text_nll=1.5)
    after = world("ntp", {"river": 30, "city": 49, "king": 90, "held_out": 39}, text_nll=1.75)
    decline = fallen(before, after)
    (row,) = decline.falls.texts()
    assert row[:4] == ["category river", "100", "50.0", "30.0"]
    assert row[4].startswith("−20.0 [")
    # Categories, trained and held-out facts. 20 of river, one of city, one held out: from 40 % to 1 %.
    assert [told for _, told in decline.found] == [
        "on 1 of 5 sets of questions (groups, popularity, categories)",
        "1.500 → 1.750",
        "in 22 of 400 questions, trained and held out",
    ]
    assert len(decline.lost.rows) == SHOWN


def test_the_largest_loss_of_probability_comes_first() -> None:
    before = asked("base", [question(i, True, p_truth=0.9) for i in range(30)])
    after = asked("ntp", [question(i, True, p_truth=0.9 - 0.01 * i) for i in range(30)])
    decline = fallen(before, after)
    assert [row[0].split()[-1] for row in decline.lost.texts()] == [f"{i}?" for i in range(29, 19, -1)]
    assert decline.found[-1][1].startswith("in 29 of 30 questions")


def test_parts_of_one_popularity_are_sets_of_their_own() -> None:
    """Most facts have no popularity: two of five parts are called "0 to 0", and one of them falls."""
    popular = {"popularity": 0.0}
    sides = [
        asked(s, [question(i, i < hits, **(popular if i < 50 else {})) for i in range(100)])
        for s, hits in (("base", 20), ("ntp", 0))
    ]
    for side in sides:
        side["by_popularity"] = [{}] * 5
    decline = fallen(*sides)
    fell = ["trained facts", "popularity 0 to 0", "popularity 0 to 0.0012"]
    assert [row[0] for row in decline.falls.texts()] == fell
    assert decline.found[0][1].startswith("on 3 of 6 sets")


def test_nothing_worse() -> None:
    before, after = (world(s, {"river": n, "held_out": 40}) for s, n in (("base", 20), ("ntp", 60)))
    decline = fallen(before, after)
    # One category is no division; no text was measured.
    assert [told.split(" of ")[0] for _, told in decline.found] == ["on 0", "in 0"]
    assert "on 0 of 2 sets" in decline.found[0][1]
    assert decline.falls.rows == decline.lost.rows == []
    assert fallen({"system": "base"}, {"system": "ntp"}).found == []


# On the page


def put(path: Path, *evaluations: dict[str, Any]) -> Any:
    """The page of a workdir with these evaluations and no others."""
    write_workdir(path)
    for old in (path / "evaluations").iterdir():
        old.unlink()
    for evaluation in evaluations:
        write(path / "evaluations" / f"{evaluation['system']}.json", evaluation)
    return parse(write_report(path).read_text("utf-8"))


def test_the_page_shows_the_tables(tmp_path: Path) -> None:
    before = world("base", {"river": 50, "city": 50, "held_out": 40}, text_nll=1.5)
    after = world("ntp", {"river": 30, "city": 90, "held_out": 40}, text_nll=1.75)
    before["by_popularity"] = after["by_popularity"] = [{}] * 2
    tags = put(tmp_path, before, after)
    # Wilson's intervals of 50, 30 and 90 of 100.
    assert table(tags, "category", "questions", "base") == [
        ["city", "100", "50.0 40.4–59.6", "90.0 82.6–94.5"],
        ["river", "100", "50.0 40.4–59.6", "30.0 21.9–39.6"],
    ]
    (_, categories) = divided(by_system([before, after]), KNOWN)
    assert [row[-1].tone for row in categories[1].rows] == ["up", "down"]
    assert len(table(tags, "popularity", "questions", "base")) == 2
    # River is the more popular half of the trained facts: ranks 1 to 100, and 100 ** -1.5 is 0.001.
    fell = [row[0] for row in table(tags, "accuracy on", "questions")]
    assert fell == ["popularity 0.001 to 1", "category river"]
    assert "What got worse with NTP" in tags.text
    assert len(table(tags, "question", "truth", "base said", "NTP said", "fact is")) == SHOWN


@pytest.mark.parametrize("system", ["base", "ntp"])
def test_one_system_alone(tmp_path: Path, system: str) -> None:
    tags = put(tmp_path, world(system, {"river": 50, "city": 20}))
    assert table(tags, "category", "questions") == [
        ["city", "100", "20.0 13.3–28.9"],
        ["river", "100", "50.0 40.4–59.6"],
    ]
    assert "What got worse" not in tags.text
