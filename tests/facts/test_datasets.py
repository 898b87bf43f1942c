"""Whole data sets: ArrayRecord without TensorFlow, and folders that the datasets library reads."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.fact_sources import ROW, read, refused, write

ITEMS = [
    {"question": "Wo liegt Köln?", "answers": ["Germany", "Deutschland"], "relation": 1, "popularity": 3.5},
    {"question": "Who ruled Köln?", "answers": ["Konrad"], "relation": 0, "popularity": 1.0},
]
RELATIONS = ["ruler", "country"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two examples in ArrayRecord files, as tensorflow-datasets writes it."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")

    class TinyFacts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "question": tfds.features.Text(),
                "answers": tfds.features.Sequence(tfds.features.Text()),
                "relation": tfds.features.ClassLabel(names=RELATIONS),
                "popularity": tfds.features.Scalar(np.float64),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": enumerate(ITEMS), "test": enumerate(ITEMS[:1])}

        def _generate_examples(self):
            raise NotImplementedError

    folder = tmp_path_factory.mktemp("tfds")
    TinyFacts(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder / "tiny_facts" / "1.0.0"


def test_tfds_by_folder_without_tensorflow(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)  # another test may have imported it
    facts = {fact.question: fact for fact in read(f"tfds:{prepared}").facts}
    assert facts.keys() == {item["question"] for item in ITEMS}
    for item in ITEMS:
        fact = facts[item["question"]]
        assert fact.answers == tuple(item["answers"])
        assert (fact.category, fact.popularity) == (RELATIONS[item["relation"]], item["popularity"])
    assert sorted(fact.id for fact in facts.values()) == ["row1", "row2"]
    assert len(read(f"tfds:{prepared}", split="test").facts) == 1
    assert "tensorflow" not in sys.modules


def test_tfds_by_name(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow_datasets as tfds

    builder = tfds.builder

    def in_folder(name: str, **how: object) -> object:
        return builder(name, data_dir=str(prepared.parents[1]), **how)

    monkeypatch.setattr(tfds, "builder", in_folder)
    assert len(read("tfds:tiny_facts").facts) == 2


def test_what_tfds_cannot_open(prepared: Path, tmp_path: Path) -> None:
    assert "Unknown split 'dev'" in refused(f"tfds:{prepared}", split="dev")
    assert "no such folder" in refused(f"tfds:{tmp_path}/none")
    assert "cannot open tfds:" in refused(f"tfds:{tmp_path}")
    assert "cannot open tfds:no_such_data_set/x" in refused("tfds:no_such_data_set/x")
    assert "write tfds:NAME" in refused("tfds:")
    assert "no column nothing" in refused(f"tfds:{prepared}", columns={"answer": "nothing"})


def test_tfds_examples_that_are_no_text(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow_datasets as tfds

    class Damaged:
        info = tfds.builder_from_directory(str(prepared)).info

        def as_data_source(self, split: str) -> list[dict[str, bytes]]:
            return [{"question": b"Who?", "answer": b"a"}, {"question": b"\xe9", "answer": b"a"}]

    monkeypatch.setattr(tfds, "builder_from_directory", lambda _: Damaged())
    assert "train, example 2: UnicodeDecodeError" in refused(f"tfds:{prepared}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the datasets library may read, and a cache of its own."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_hf_reads_a_folder_as_the_file_itself_is_read(form: str, folder: Path) -> None:
    path = write(folder / f"train.{form}", [ROW, ROW | {"id": "8", "question": "¿Qué?"}])
    facts = read(f"hf:{folder}").facts
    expected = read(path).facts
    assert [(f.id, f.question, f.answers, f.subject_key, f.popularity) for f in facts] == [
        (f.id, f.question, f.answers, f.subject_key, f.popularity) for f in expected
    ]
    assert [fact.row for fact in facts] == [1, 2]


def test_hf_names_classes(folder: Path) -> None:
    import datasets

    kinds = {"question": "string", "answers": datasets.List(datasets.Value("string"))}
    features = datasets.Features(
        {n: datasets.Value(k) if isinstance(k, str) else k for n, k in kinds.items()}
        | {"relation": datasets.ClassLabel(names=RELATIONS), "popularity": datasets.Value("float64")}
    )
    datasets.Dataset.from_list([*ITEMS, ITEMS[0] | {"question": "?!", "relation": -1}], features).to_parquet(
        folder / "train.parquet"
    )
    facts = read(f"hf:{folder}").facts
    assert [fact.category for fact in facts] == ["country", "ruler", ""]
    assert facts[0].answers == ("Germany", "Deutschland")


def test_what_hf_cannot_open(folder: Path) -> None:
    write(folder / "train.jsonl", [ROW])
    assert "Unknown split" in refused(f"hf:{folder}", split="dev")
    assert "'other' not found" in refused(f"hf:{folder}", subset="other")
    assert "no such folder" in refused(f"hf:{folder}/none")
    assert "write hf:NAME" in refused("hf:")


@pytest.mark.parametrize(("kind", "package"), [("hf", "datasets"), ("tfds", "tensorflow_datasets")])
def test_missing_packages(kind: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = refused(f"{kind}:{tmp_path}")
    assert "pip install 'pretrainrl_jax[data]'" in said
    assert package.replace("_", "-") in said
