"""What is declared is imported, what is imported is declared, and docs/dependencies.md says why."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_USERS = ("gcs", "data", "eval", "servers")  # extras whose packages are imported here
# What is imported under another name than it is installed by, or by something else.
IMPORTED_AS = {
    "orbax-checkpoint": "orbax", "array-record": "array_record", "google-cloud-storage": "google",
    "tensorflow-datasets": "tensorflow_datasets",
}  # fmt: skip
INDIRECT = {"importlib_resources"}  # tensorflow-datasets imports it
UNDER_OTHERS = {  # parts of those, which they ask for themselves
    "annotated_types": "pydantic", "pydantic_core": "pydantic", "markupsafe": "jinja2",
    "etils": "orbax-checkpoint", "huggingface_hub": "transformers", "ml_dtypes": "jax",
    "requests": "google-cloud-storage",
}  # fmt: skip


def names(requirements: list[str]) -> set[str]:
    """Of the packages, without versions and conditions."""
    return {re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in requirements}


def declared() -> set[str]:
    extras = PROJECT["optional-dependencies"]
    return names(PROJECT["dependencies"]).union(*(names(extras[extra]) for extra in OF_USERS))


def imported() -> set[str]:
    """Top-level modules of others that the package imports, wherever it does."""
    found = set[str]()
    for path in (ROOT / "pretrainrl_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"pretrainrl_jax"}


def test_what_is_declared_is_imported_and_what_is_imported_is_declared() -> None:
    modules = {IMPORTED_AS.get(name, name) for name in declared() - INDIRECT}
    assert modules == imported() - set(UNDER_OTHERS)
    for part, whole in UNDER_OTHERS.items():
        asked = {name.replace("-", "_").lower() for name in names(metadata.requires(whole) or [])}
        assert part in asked, whole


def test_the_docs_give_a_reason_for_each() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    told = {
        name for row in page.split("## Written")[0].splitlines() for name in re.findall(r"`([\w-]+)`", row)
    }
    assert declared() <= told
    assert told - declared() - set(PROJECT["optional-dependencies"]) == set()


def test_what_is_written_here_is_there() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text().split("## Written")[1]
    places = re.findall(r"`([\w/]+(?:\.py|/))`", page)
    assert len(places) >= 14
    assert all((ROOT / "pretrainrl_jax" / place).exists() for place in places)
