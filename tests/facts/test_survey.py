"""The first look at a source: which columns there are, bounded however many there are."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.facts.blocks import blocks
from pretrainrl_jax.facts.columns import PATHS, Survey
from pretrainrl_jax.facts.files import Row
from pretrainrl_jax.facts.written import cells

names = st.text("ab.", min_size=1, max_size=2)
values = st.recursive(
    st.none() | st.integers() | st.text("x[", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
rows = st.lists(st.dictionaries(names, values, max_size=3), max_size=4)


def look(rows: list[dict[str, Any]], *wanted: str) -> Any:
    seen = Survey(frozenset(wanted))
    for block in blocks(Row("f, line", n, row) for n, row in enumerate(rows, start=1)):
        seen.add(block)
    return seen


def leaves(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [] if isinstance(value, dict) else [value]


@given(rows)
def test_every_path_leads_to_what_was_counted_there(rows: list[dict[str, Any]]) -> None:
    seen = look(rows)
    assert seen.rows == len(rows)
    for path, column in seen.columns.items():
        reached = [leaf for row in rows for value in cells(row, path) for leaf in leaves(value)]
        # Two paths may be spelt alike, {"a.b": 1} beside {"a": {"b": 2}}: the name itself goes first.
        assert sum(leaf not in (None, "") for leaf in reached) <= column.filled
        if not any("." in name for row in rows for name in names_in(row)):
            assert sum(leaf not in (None, "") for leaf in reached) == column.filled


def names_in(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for part in value for name in names_in(part)]
    if isinstance(value, dict):
        return [*value, *(name for part in value.values() for name in names_in(part))]
    return []


def test_endlessly_many_names_are_not_all_remembered() -> None:
    ids = [{"question": "Who?", "links": {f"Q{n}": n}} for n in range(2 * PATHS)]
    seen = look([*ids, {"answer": "a", "last": 1}], "answer", "links.Q9000")
    assert len(seen.columns) <= PATHS + 2
    assert {"answer", "links.Q9000"} <= seen.columns.keys()
    assert "last" not in seen.columns
