"""The recipes of CONTRIBUTING.md name what is there: each file, and each name in a file of its recipe."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = {
    title: text
    for title, text in re.findall(r"^## (A .*)\n((?:(?!^## ).*\n?)*)", TEXT, re.M)
    if "1. " in text
}
# What a recipe gives as an example of a value, or as a place for the reader's own name.
OTHERS = {"config.json", "model_type", "NAME_prompt", "0", "contrasts = True"}


def quoted(recipe: str) -> list[str]:
    return [word for words in re.findall(r"`([^`]+)`", recipe) for word in words.split(": ")]


def found(place: str) -> Path | None:
    """A path is of the project, the package, or the tests' folder that the sentence before named."""
    folders = (ROOT, ROOT / "pretrainrl_jax", ROOT / "tests", *(ROOT / "tests").glob("*/"))
    return next((folder / place for folder in folders if (folder / place).exists()), None)


def is_place(word: str) -> bool:
    return bool(re.fullmatch(r"[\w./-]+(\.(py|md|json)|/)", word))


def test_there_is_a_recipe_for_each_thing_that_is_added():
    assert sorted(RECIPES) == ["A family of models", "A judge", "A reader of facts", "A term of a loss"]


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_has_at_most_ten_steps_and_a_page_that_shows_it_done(title: str):
    assert 4 <= len(re.findall(r"^\d+\. ", RECIPES[title], re.M)) <= 10
    page, heading = re.search(r"\[More\]\((docs/[\w-]+\.md)#([\w-]+)\)", RECIPES[title]).groups()
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.M)
    assert heading in {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headings}


@pytest.mark.parametrize("title", RECIPES)
def test_each_file_it_names_is_there(title: str):
    places = [word for word in quoted(RECIPES[title]) if is_place(word) and word not in OTHERS]
    assert len(places) > 3
    assert [place for place in places if found(place) is None] == []


@pytest.mark.parametrize("title", RECIPES)
def test_each_name_stands_in_a_file_of_its_recipe(title: str):
    words = [word for word in quoted(RECIPES[title]) if word not in OTHERS]
    files = [path for word in words if is_place(word) for path in [found(word)] if path]
    texts = [
        source.read_text() for path in files for source in (path.rglob("*.py") if path.is_dir() else [path])
    ]
    named = [word for word in words if not is_place(word)]
    assert len(named) > 3
    lost = [
        name
        for name in named
        if not all(
            any(re.search(rf"\b{re.escape(part)}\b", text) for text in texts) for part in name.split(".")
        )
    ]
    assert lost == []
