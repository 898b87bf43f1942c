"""The answers to choose among: of categories, and of files."""

from pathlib import Path

import pytest
from helpers.models_and_trees import fact

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.choices import CATEGORY, category_answers, choices, kind_of, read_answers


def test_a_categorys_answers_are_its_canonical_ones_each_once() -> None:
    facts = [
        fact(("Rome", "Roma")),
        fact(("U.S.A.", "America"), category="country"),
        fact(("rome",)),
        fact(("Oslo",)),
        fact(("?!",)),  # nothing that could be told apart
        fact(("USA",), category="country"),
    ]
    assert category_answers(facts) == {"capital": ["Rome", "Oslo"], "country": ["U.S.A."]}
    assert choices(CATEGORY, facts, "x") == category_answers(facts)
    assert [kind_of(CATEGORY, facts[1]), kind_of("answers.txt", facts[1])] == ["country", ""]


def test_a_files_answers_are_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_bytes("\ufeffRome \r\n\n  Quebec  City\nRome\nroma\nCafe\u0301\n?\nOs\u200blo".encode())
    expected = ["Rome", "Quebec City", "roma", "Caf\u00e9", "Oslo"]
    assert read_answers(str(path), "x") == expected
    assert choices(str(path), [], "x") == {"": expected}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory; check evaluate.among: give category, or a file of answers"),
        (b"\xff\xfe\x00", "it is no UTF-8 text"),
        (b" \n?\n", "holds no answer: write one a line"),
        (b'{"answer": "Rome"}\n{"answer": "Oslo"}\n', "holds JSON: write plain answers, one a line"),
    ],
)
def test_what_is_no_file_of_answers_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"answers\.txt.*{said}"):
        read_answers(str(path), "evaluate.among")
