"""Labelled texts: what a line must be, what is counted, and what is held out together."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.improvement.labels import digest_labels, read_labels, split_labels

VERDICTS = {"quality": ("A", "B"), "safety": ("safe", "unsafe"), "factuality": ("none", "definite")}
REWRITE = {"rewrite": ("safe", "unsafe")}
PAIR = {"part": "quality", "prefix": "p", "first": " a", "second": " b", "label": "A"}
SAFE = {"part": "safety", "suffix": " s", "label": "safe"}


def written(folder: Path, *lines: Any) -> list[str]:
    path = folder / "labels.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return [str(path)]


def test_lines_are_read_and_counted(tmp_path: Path):
    false = {"part": "factuality", "prefix": "p", "suffix": " x", "reference": " r", "label": "none"}
    turned = PAIR | {"first": " b", "second": " a", "label": "B"}
    other = SAFE | {"suffix": " t"}
    paths = written(
        tmp_path, PAIR, turned, "", PAIR | {"source": "mine"}, SAFE, SAFE | {"label": "unsafe"}, other, false
    )
    labels = read_labels(paths, {name: VERDICTS[name] for name in ("quality", "safety")}, "data")
    assert [(one.part, one.texts, one.label) for one in labels.examples] == [
        ("quality", ("p", " a", " b"), "A"),
        ("quality", ("p", " b", " a"), "B"),
        ("safety", (" t",), "safe"),
    ]
    assert labels.lines == 7
    assert labels.left_out == {
        "repeated": 1,
        "whose texts have another label elsewhere": 2,
        "of parts that are not asked for": 1,
    }
    assert labels.told.startswith("7 lines: quality 1 A, 1 B; safety 1 safe; ")
    assert labels.examples[2].where.endswith("labels.jsonl, line 7")
    assert digest_labels(labels.examples) != digest_labels(labels.examples[:2])


@pytest.mark.parametrize(
    ("line", "verdicts", "said"),
    [
        ("[]", VERDICTS, "a list where an object"),
        ("[" * 100_000, VERDICTS, "JSON that cannot be read"),
        (PAIR | {"prefix": "\ud800"}, VERDICTS, "prefix holds half of a surrogate pair"),
        (PAIR | {"second": " a"}, VERDICTS, "the same text"),
        (PAIR | {"label": "C"}, VERDICTS, "label is 'C'; of quality they are A, B"),
        (PAIR | {"label": ["A"]}, VERDICTS, "label is ['A']"),
        (PAIR | {"first": 1}, VERDICTS, "first is 1, and must be a text"),
        ({"part": "quality", "prefix": "p", "label": "A"}, VERDICTS, "first is missing"),
        ({"part": "rewrite", "prefix": "", "suffix": "x"}, VERDICTS, "part is 'rewrite'"),
        ({"part": ["quality"]}, VERDICTS, "part is ['quality']"),
        ({"prefix": "p", "suffix": " s", "safe": "yes"}, REWRITE, "safe is 'yes'"),
        ({"prefix": "p", "suffix": " ", "safe": True}, REWRITE, "suffix is empty"),
    ],
)
def test_a_line_that_is_not_as_it_must_be_is_refused(line: Any, verdicts: Any, said: str, tmp_path: Path):
    with pytest.raises(InputError) as error:
        read_labels(written(tmp_path, "", line), verdicts, "data")
    assert "labels.jsonl, line 2" in str(error.value)
    assert said in str(error.value)


def test_a_file_of_other_parts_alone_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="nothing to learn"):
        read_labels(written(tmp_path, PAIR), {"safety": VERDICTS["safety"]}, "data")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_both_orders_of_a_pair_are_on_one_side(share: float, tmp_path: Path):
    lines = []
    for n in range(40):
        pair = PAIR | {"prefix": "", "first": f" {n}"}
        lines += [pair, pair | {"first": pair["second"], "second": pair["first"], "label": "B"}]
    examples = read_labels(written(tmp_path, *lines), VERDICTS, "data").examples
    learned, held_out = split_labels(examples, share)
    assert sorted(learned + held_out) == sorted(examples)
    assert len(held_out) == 2 * min(39, round(40 * share))
    assert not {one.key for one in learned} & {one.key for one in held_out}
    assert split_labels(examples[::-1], share)[1] == held_out[::-1]  # by what they say, not by their order


def test_what_shares_a_prefix_cannot_be_split(tmp_path: Path):
    examples = read_labels(written(tmp_path, PAIR, PAIR | {"second": " c"}), VERDICTS, "data").examples
    with pytest.raises(InputError, match="share a prefix"):
        split_labels(examples, 0.1)
