"""A workdir of an older version opens: its settings mean what they meant, nothing is made again."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.command_line import call, complaint, files, metrics, unfinish

from pretrainrl_jax.config import OBJECTIVES
from pretrainrl_jax.workdir import check_workdir, flat, read_workdir, shown_differences, upgraded

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ["workdir_2026_11"]
# What the older names said, by hand.
MEANT = {
    "dpo": ({"dpo": {"weight": 1.0, "beta": 0.1}}, 0, "base"),
    "ntp": ({"ntp": {"question": 1.0, "answer": 1.0}}, 0, "base"),
    "ntp_answer": ({"ntp": {"answer": 1.0}}, 0, "base"),
    "ntp_weighted": ({"ntp": {"question": 1.0, "answer": 3.0}}, 0, "base"),
    "rpo": ({"ntp": {"answer_mean": 1.0}, "dpo": {"weight": 1.0, "beta": 0.1}}, 2, "renewed"),
    "pretrainrl": (
        {"ntp": {"question": 1.0, "answer": 1.0}, "dpo": {"weight": 1.0, "beta": 1.0}},
        0,
        "base",
    ),
}


@pytest.fixture(params=NAMES)
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / request.param, tmp_path / "older"))


def test_its_settings_mean_what_they_meant(older: Path) -> None:
    config = read_workdir(older)
    objectives = {n: (o.coefficients, o.refresh_every, o.reference) for n, o in config.objectives.items()}
    assert objectives == MEANT
    assert list(objectives) == list(MEANT)  # the order in which they were told
    assert {o.learning_rate for o in config.objectives.values()} == {1e-3}
    for name, objective in config.objectives.items():
        known = OBJECTIVES[name]
        assert (objective.label, objective.words, objective.above) == (known.label, known.words, known.above)
    assert (config.evaluate.every_updates, config.evaluate.choose) == (0, "last")
    assert (config.world.facts, config.train.systems) == (40, ("ntp_answer", "rpo", "pretrainrl"))


def test_it_belongs_to_its_configuration_and_to_no_other(older: Path) -> None:
    words = ("run", "--workdir", older, "--world.facts=40")
    said = complaint(call(*words, "--objectives.pretrainrl.dpo.beta=0.5"))
    assert f"{older} belongs to another configuration" in said
    config = read_workdir(older)
    assert check_workdir(older, config, create=True) is False


@pytest.mark.parametrize("system", ["ntp_answer", "rpo", "pretrainrl"])
def test_what_its_checkpoints_depend_on_has_todays_names(older: Path, system: str) -> None:
    (path,) = (older / "checkpoints" / "train" / system).glob("*/about/metadata")
    before, now = json.loads(path.read_text()), upgraded(json.loads(path.read_text()))
    terms = {f"objectives.{system}.{n}": v for n, v in flat(MEANT[system][0]).items()}
    assert {name: now[name] for name in terms} == terms
    assert not [n for n in now if n.endswith(("_weight", ".preference"))]
    assert {n: v for n, v in now.items() if n in before} == {
        n: v for n, v in before.items() if not n.startswith(f"objectives.{system}.") or n in now
    }
    changed = now | {f"objectives.{system}.dpo.beta": 0.7}
    assert shown_differences(now, changed).startswith(f"objectives.{system}.dpo.beta was ")


def test_nothing_is_made_again_and_it_is_told_as_before(older: Path) -> None:
    before = files(older)
    table = (older / "report" / "summary.json").read_text()
    for verb in ("train", "evaluate", "report"):
        ran = call(verb, "--workdir", older)
        assert ran.code == 0, ran.err
    changed = {name for name, content in files(older).items() if before.get(name) != content}
    assert {name for name in changed if not name.startswith("report/")} <= {"lock"}
    assert json.loads((older / "report" / "summary.json").read_text()) == json.loads(table)
    page = (older / "report" / "index.html").read_text("utf-8")
    for text in ("NTP (answers only)", "Iterative RPO", "NTP(question) + NTP(answer) + DPO(β\u00a0=\u00a01)"):
        assert text in page


def test_an_objective_may_be_added_and_trained(older: Path) -> None:
    ran = call("train", "--workdir", older, "--train.systems=mine", "--objectives.mine.ntp.answer=2")
    assert ran.code == 0, ran.err
    assert metrics(older, "train/mine")
    ran = call("evaluate", "--workdir", older, "--train.systems=mine")  # it is known here now
    assert ran.code == 0, ran.err
    assert read_workdir(older).objectives["mine"].coefficients == {"ntp": {"answer": 2.0}}
    assert call("report", "--workdir", older).code == 0


def test_training_goes_on_from_what_it_was_made_with(older: Path) -> None:
    unfinish(older, lambda stage: stage == "train/pretrainrl", checkpoints=False)
    ran = call("train", "--workdir", older)
    assert ran.code == 0, ran.err
    config = json.loads((older / "config.json").read_text())
    unfinish(older, lambda stage: stage == "train/pretrainrl", checkpoints=False)
    config["objectives"]["pretrainrl"]["beta"] = 0.5
    (older / "config.json").write_text(json.dumps(config))
    assert (
        "of another run: objectives.pretrainrl.dpo.beta was 1.0, now 0.5"
        in call("train", "--workdir", older).err
    )
