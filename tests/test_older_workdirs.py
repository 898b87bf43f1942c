"""A workdir of an older version opens: its settings mean what they meant, nothing is made again."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import call, complaint, files, metrics, python, unfinish

import pretrainrl_jax
from pretrainrl_jax.config import OBJECTIVES
from pretrainrl_jax.config.stored import flat, shown_differences, upgraded
from pretrainrl_jax.version import STAMP
from pretrainrl_jax.workdir import check_workdir, read_workdir

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
    objectives = {n: (o.coefficients, o.remine_every, o.reference) for n, o in config.objectives.items()}
    assert objectives == MEANT
    assert list(objectives) == list(MEANT)  # the order in which they were told
    assert {o.learning_rate for o in config.objectives.values()} == {1e-3}
    for name, objective in config.objectives.items():
        known = OBJECTIVES[name]
        assert (objective.label, objective.words, objective.above) == (known.label, known.words, known.above)
    assert (config.evaluate.every_steps, config.evaluate.choose) == (0, "last")
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
    assert not [n for n in now if n.startswith("objectives.") and n.endswith(("_weight", ".preference"))]
    same = {name for name in before if name in now and not name.startswith("objectives.")}
    assert same >= {"seed", "train.passes", "model.layers"}
    assert {name: now[name] for name in same} == {name: before[name] for name in same}
    assert (now["model.d_model"], now["model.d_ff"]) == (before["model.width"], before["model.mlp_width"])
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
    now = json.loads((older / "report" / "summary.json").read_text())
    told = {name: system.pop("knowledge") for name, system in now["systems"].items()}  # newer than it
    assert now == json.loads(table) | {"signatures": []}
    assert all("states" not in of_system["trained"] for of_system in told.values())
    page = (older / "report" / "index.html").read_text("utf-8")
    for text in ("NTP (answers only)", "Iterative RPO", "NTP(question) + NTP(answer) + DPO(β\u00a0=\u00a01)"):
        assert text in page


@pytest.mark.slow
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


def test_every_verb_runs_on_it(older: Path, tmp_path: Path) -> None:
    for words in (
        ["mine"],
        ["train"],
        ["evaluate"],
        ["report"],
        ["report", "--compare", str(older), str(older)],
        ["ask", "What is the capital of Arno?"],
        ["facts"],
        ["export", "--to", str(tmp_path / "exported")],
        ["import", "--model", str(tmp_path / "exported"), "--workdir", str(tmp_path / "imported")],
    ):
        own = [] if "--workdir" in words else ["--workdir", str(older)]
        ran = call(*words, *own)
        assert ran.code == 0, (words, ran.err)


def alike(one: Any, other: Any) -> bool:
    """The same but for the rounding of numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return math.isclose(one, other, rel_tol=1e-3) if isinstance(one, float) else one == other


def test_mining_again_finds_what_was_found(older: Path) -> None:
    before = json.loads((older / "mined" / "statistics.json").read_text())
    unfinish(older, lambda stage: stage == "mine", checkpoints=False)
    assert call("mine", "--workdir", older).code == 0
    now = json.loads((older / "mined" / "statistics.json").read_text())
    for later in ("of_examples", "quality"):  # not counted at that time
        now.pop(later)
    assert alike(now, before)


# What the sources have beside today's settings, and a workdir made before knows nothing of.
ADDED = '    invented: NonNegativeInt = setting(7, "a setting of a later version", before=3)\n'
LATER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from pretrainrl_jax.main import main
from pretrainrl_jax.workdir import read_workdir
print(read_workdir(Path(sys.argv[1])).train.invented)
sys.exit(main(["train", "--workdir", sys.argv[1]]) or main(["report", "--workdir", sys.argv[1]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("unfinished", [False, True])
def test_a_later_version_with_another_setting_opens_it(older: Path, tmp_path: Path, unfinished: bool) -> None:
    """What is missing has the value it had before the setting existed, in checkpoints and mined data too."""
    package = Path(
        shutil.copytree(Path(pretrainrl_jax.__file__).parent, tmp_path / "later" / "pretrainrl_jax")
    )
    source = package / "config" / "stages.py"
    text = source.read_text()
    for section in ("TrainConfig", "MineConfig", "EvaluateConfig"):
        start = text.index("    template:", text.index(f"class {section}("))
        text = text[:start] + ADDED + text[start:]
    source.write_text(text)
    if unfinished:
        unfinish(older, lambda stage: stage == "train/pretrainrl", checkpoints=False)
    ran = python("-c", LATER, older, package.parent)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0] == "3"
    assert "finished, skipped" in ran.out + ran.err


def test_what_a_later_version_wrote_is_said_to_be_of_it(older: Path) -> None:
    path = older / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"format": 99, "version": "9.1.0"}))
    said = complaint(call("report", "--workdir", older))
    assert "config.json was written by pretrainrl_jax 9.1.0 (format 99)" in said
    path.write_text(json.dumps(settings | {"format": 2, "version": "0.3.0", "invented": 3}))
    said = complaint(call("train", "--workdir", older))
    assert "config.json, of 0.3.0: there is no setting invented" in said


@pytest.mark.parametrize(
    "name", ["checkpoints/pretrain/model.json", "mined/fingerprint.json", "checkpoints/train/pretrainrl"]
)
def test_a_stamp_of_a_later_version_is_said(older: Path, name: str) -> None:
    unfinish(older, lambda stage: stage == "train/pretrainrl", checkpoints=False)
    path = older / name
    if path.is_dir():
        (path,) = path.glob("*/about/metadata")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99, "version": "9.1.0"}))
    said = complaint(call("train", "--workdir", older))
    assert "was written by pretrainrl_jax 9.1.0 (format 99)" in said


def test_what_is_written_carries_its_version(finished: Path) -> None:
    for path in ("config.json", "mined/fingerprint.json", "checkpoints/pretrain/model.json"):
        assert json.loads((finished / path).read_text()).items() >= STAMP.items()
    for path in finished.glob("checkpoints/*/**/about/metadata"):
        assert json.loads(path.read_text()).items() >= STAMP.items()
