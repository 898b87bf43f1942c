"""Texts of one's own, which blank lines separate."""

import pytest

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.texts import paragraphs


def test_blank_lines_separate_texts(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffOne,\ntwo.\n\n  \nThrée. \r\n\r\nFour\n".encode())
    assert paragraphs(str(path), "evaluate.text") == ["One,\ntwo.", "Thrée.", "Four"]


@pytest.mark.parametrize(
    ("content", "message"), [(b" \n\n", "holds no text"), (b"\xff\xfe\xff", "no UTF-8 text")]
)
def test_what_holds_no_text_is_refused(tmp_path, content, message):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        paragraphs(str(path), "evaluate.text")
