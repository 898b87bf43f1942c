"""The loop around the step: when it saves, what stops it, and that it goes on as if nothing had been."""

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.models_and_trees import small_model, tree

from pretrainrl_jax.config import CheckpointConfig, MeshConfig, OptimizerConfig
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.training import checkpoints, session
from pretrainrl_jax.training.checkpoints import BEGINNING, Progress, steps_of
from pretrainrl_jax.training.feed import Feed
from pretrainrl_jax.training.interrupts import Interrupted
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.training.session import Hook, NotFinite, Run, Session, resume
from pretrainrl_jax.training.step import TrainState, compile_step, init_state
from pretrainrl_jax.trees.dataset import PackedRows
from pretrainrl_jax.trees.tree import AnswerTree

TREES = [tree(3, 2, 3, id=str(i), start=1 + 3 * i) for i in range(20)]
NEVER = CheckpointConfig(every_minutes=0.0)
COEFFICIENTS = {"ntp": {"question": 1.0, "answer": 1.0}, "dpo": {"weight": 1.0, "beta": 1.0}}


def rows_of(trees: list[AnswerTree]) -> PackedRows:
    return PackedRows(trees, 12, seed=1, passes=1, rows=1)


def spoilt(*ids: str) -> list[AnswerTree]:
    """The trees with references that are no numbers, so that their loss is none."""
    return [
        replace(t, branches=(replace(t.branches[0], reference_logp=math.nan), *t.branches[1:]))
        if t.id in ids
        else t
        for t in TREES
    ]


def begin() -> TrainState:
    return init_state(small_model()[1], adamw(OptimizerConfig()))


def train(
    run: Run,
    trees: list[AnswerTree] = TREES,
    state: TrainState | None = None,
    progress: Progress = BEGINNING,
    hooks: Callable[[Session], list[Hook]] = lambda training: [],
) -> tuple[TrainState, Progress]:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    step = compile_step(small_model()[0], OptimizerConfig(), "sequence", mesh)
    rows = rows_of(trees)
    feed = Feed(rows, mesh, 1, progress.row, lambda tree: f"Question {tree.id}?")
    schedule = Schedule(1e-2, rows.batches, 0.1, 0.1)
    with Session(run, step, state or begin(), progress, feed, mesh, rows.batches) as training:
        of_training = [training.checkpoint, *hooks(training)]
        for batch in feed:
            training.step(batch, COEFFICIENTS, schedule)
            for hook in training.due(of_training):
                hook.run()
        return training.state, training.progress()


def clock_of(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that sessions read: it stands still within steps, so metrics wait for the last one."""
    clock = [0.0]
    monkeypatch.setattr(session.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(session, "LOG_POINTS", 1)
    return clock


def bits(state: TrainState) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], int]:
    """What training without any interruption gives, and after how many steps."""
    state, progress = train(Run(tmp_path_factory.mktemp("whole"), "train/ntp", checkpoint=NEVER))
    assert progress.row == rows_of(TREES).batches == int(state.step) > 5
    return bits(state), int(state.step)


class Stop(session.MetricsWriter):
    """A signal arrives when this step is written."""

    at = 0

    def write(self, step: int, metrics: dict[str, float]) -> None:
        super().write(step, metrics)
        if step == type(self).at:
            signal.raise_signal(signal.SIGTERM)


def test_stopped_at_any_update_it_goes_on_to_the_same_end(
    expected: tuple[list[bytes], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final, total = expected
    monkeypatch.setattr(session, "MetricsWriter", Stop)
    for at in range(1, total + 1):
        run = Run(tmp_path / str(at), "train/ntp", checkpoint=NEVER)
        monkeypatch.setattr(Stop, "at", at)
        with pytest.raises(Interrupted, match=f"train/ntp stopped after step {at} of {total} and saved"):
            train(run)
        assert steps_of(run.folder) == [at]
        monkeypatch.setattr(Stop, "at", 0)
        state, progress = resume(run, begin())
        assert (int(state.step), progress.row) == (at, at)  # a row a step here
        state, progress = train(run, state=state, progress=progress)
        assert bits(state) == final
        assert progress.row == total


def test_it_saves_by_updates_and_by_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def saved(name: str, **settings) -> list[int]:
        run = Run(tmp_path / name, "pretrain", checkpoint=CheckpointConfig(keep=99, keep_best=0, **settings))
        train(run)
        return steps_of(run.folder)[::-1]

    total = rows_of(TREES).batches
    assert saved("neither", every_minutes=0.0) == []
    assert saved("updates", every_minutes=0.0, every_steps=2) == list(range(2, total, 2))
    assert saved("not yet", every_minutes=60.0) == []
    ticks = iter(range(10**6))
    monkeypatch.setattr(session.time, "perf_counter", lambda: float(next(ticks)))  # a second a look
    few = saved("minutes", every_minutes=0.1)  # six looks
    assert 0 < len(few) < total - 1


def test_a_loss_that_is_not_finite_stops_it_with_its_questions(tmp_path: Path) -> None:
    source = rows_of(TREES)
    at = 6
    bad = TREES[source.plan[at - 1][0]]  # a row a step
    together = {TREES[i].id for i in source.plan[at - 1]}
    run = Run(
        tmp_path,
        "train/dpo",
        checkpoint=CheckpointConfig(every_steps=2),
        rate="objectives.dpo.learning_rate",
    )
    with pytest.raises(NotFinite) as raised:
        train(run, spoilt(bad.id))
    said = str(raised.value)
    assert said.startswith(f"train/dpo: the loss is nan and the gradient's norm nan at step {at}, of: ")
    assert "the checkpoint of step 4 is kept" in said
    assert "Lower objectives.dpo.learning_rate" in said
    assert "--optimizer.nonfinite=skip" in said
    assert "\n" not in said
    assert [f"Question {t.id}?" in said for t in TREES].count(True) == min(len(together), session.NAMED)
    noted = json.loads((tmp_path / "nonfinite.json").read_text())
    assert set(noted["questions"]) == {f"Question {name}?" for name in together}
    assert (noted["stage"], noted["update"], noted["loss"]) == ("train/dpo", at, "nan")
    assert steps_of(run.folder) == [4, 2]
    state, _ = resume(run, begin())
    assert int(state.step) == 4
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_updates_that_are_not_finite_are_skipped_and_counted(tmp_path: Path) -> None:
    plan = rows_of(TREES).plan
    ids = [TREES[plan[at - 1][0]].id for at in (2, 5)]
    run = Run(tmp_path, "train/dpo", checkpoint=replace(NEVER, every_steps=3), skip_nonfinite=True)
    state, progress = train(run, spoilt(*ids))
    assert progress.skipped == 2
    assert int(state.step) == len(plan)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 1, 1, 1] + [2] * (len(plan) - 4)
    assert [line["step"] for line in lines if line["loss"] is None] == [2, 5]
    again, before = resume(run, begin())  # what was skipped before counts on
    assert before.skipped == 2
    final, progress = train(run, spoilt(*ids), again, before)
    assert progress.skipped == 2
    assert bits(final) == bits(state)


def test_a_disk_error_while_saving_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.Saver, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train(Run(tmp_path, "pretrain", checkpoint=replace(NEVER, every_steps=2)))


# Hooks and programs


def test_hooks_run_after_the_updates_they_name(tmp_path: Path) -> None:
    """By number, by a condition, and whether after the last step too; in their order."""
    ran: list[tuple[str, int]] = []
    total = rows_of(TREES).batches

    def hooks(training: Session) -> list[Hook]:
        def note(name: str) -> Callable[[], None]:
            return lambda: ran.append((name, training.global_step))

        return [
            Hook(note("third"), every_steps=3),
            Hook(note("not last"), every_steps=1, last=False),
            Hook(note("fifth"), when=lambda: training.global_step == 5),
            Hook(note("never")),
        ]

    train(Run(tmp_path, "train/x", checkpoint=NEVER), hooks=hooks)
    expected = []
    for step in range(1, total + 1):
        expected += [("third", step)] if step % 3 == 0 else []
        expected += [("not last", step)] if step < total else []
        expected += [("fifth", step)] if step == 5 else []
    assert ran == expected
    assert total > 5


def test_a_hook_by_minutes_counts_from_when_it_last_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = clock_of(monkeypatch)
    ran: list[int] = []

    def hooks(training: Session) -> list[Hook]:
        def tick() -> None:
            clock[0] += 25.0  # seconds after each step

        return [
            Hook(lambda: ran.append(training.global_step), every_minutes=1.0),
            Hook(tick, every_steps=1),
        ]

    train(Run(tmp_path, "train/x", checkpoint=NEVER), hooks=hooks)
    assert ran == list(range(4, rows_of(TREES).batches + 1, 3))  # 75 s after the beginning, and after each


def test_a_hook_by_minutes_runs_once_where_votes_count_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several processes: a vote counts two steps after it was cast."""
    clock = clock_of(monkeypatch)
    monkeypatch.setattr(session, "process_count", lambda: 2)
    ran: list[int] = []

    def hooks(training: Session) -> list[Hook]:
        def tick() -> None:
            clock[0] += 25.0  # seconds after each step

        return [Hook(lambda: ran.append(training.global_step), every_minutes=2.5), Hook(tick, every_steps=1)]

    train(Run(tmp_path, "train/x", checkpoint=NEVER), hooks=hooks)
    assert ran == [9]  # asked for after step 7, 150 s after the beginning
    assert rows_of(TREES).batches > 9


def test_coefficients_may_be_changed_in_place(tmp_path: Path) -> None:
    """As a loop does that lets one of them fall: the next step has the new one."""
    mesh, rows = make_mesh(MeshConfig(), jax.devices()[:1]), rows_of(TREES)
    step, feed = (
        compile_step(small_model()[0], OptimizerConfig(), "sequence", mesh),
        Feed(rows_of(TREES), mesh),
    )
    coefficients = {"ntp": {"answer": 1.0}}
    run, schedule = Run(tmp_path, "train/x", checkpoint=NEVER), Schedule(0.0, rows.batches, 0.1, 0.1)
    with Session(run, step, begin(), BEGINNING, feed, mesh, rows.batches) as training:
        batch = next(feed)
        before = float(training.step(batch, coefficients, schedule)["loss"])
        coefficients["ntp"]["answer"] = 0.5
        assert float(training.step(batch, coefficients, schedule)["loss"]) == before / 2


def test_what_a_hook_does_untimed_is_no_part_of_the_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = clock_of(monkeypatch)

    def hooks(training: Session) -> list[Hook]:
        def look() -> None:
            with training.untimed():
                clock[0] += 1000.0

        def work() -> None:
            clock[0] += 2.0

        return [Hook(look, every_steps=2), Hook(work, every_steps=1)]

    _, progress = train(Run(tmp_path, "train/x", checkpoint=NEVER), hooks=hooks)
    assert progress.seconds == 2.0 * rows_of(TREES).batches
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # The only line stands at the last step, before its hooks.
    assert [line["questions_per_second"] * (progress.seconds - 2.0) for line in lines] == [len(TREES)]


def test_one_program_for_a_set_of_terms_whatever_their_coefficients(tmp_path: Path) -> None:
    """Another learning rate, weight or beta compiles nothing; another set of terms is another program."""
    programs = []
    for number, coefficients in enumerate(
        (
            {"ntp": {"question": 1.0, "answer": 1.0}, "dpo": {"weight": 1.0, "beta": 1.0}},
            {"ntp": {"question": 0.3, "answer": 2.0}, "dpo": {"weight": 0.5, "beta": 0.1}},
            {"ntp": {"question": 0.3, "answer": 2.0}},
            {"ntp": {"question": 7.0, "answer": 0.1}},
        )
    ):
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        step = compile_step(small_model()[0], OptimizerConfig(), "sequence", mesh)
        rows = rows_of(TREES)
        feed = Feed(rows, mesh)
        run = Run(tmp_path / str(number), "train/x", checkpoint=NEVER)
        before = session.compiled.cache_info().misses
        with Session(run, step, begin(), BEGINNING, feed, mesh, rows.batches) as training:
            training.step(next(feed), coefficients, Schedule(1e-2 / (number + 1), rows.batches, 0.1, 0.1))
        programs.append(session.compiled.cache_info().misses - before)
    assert programs[1:] == [0, 1, 0]
