import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from pretrainrl_jax.training import profile
from pretrainrl_jax.training.profile import traced

STAGE = "train/dpo"


@jax.jit(donate_argnums=0)
def step(state, add):
    """As a step: it takes the state over, and gives metrics beside the next one."""
    state = jnp.tanh(state @ state) + add
    return state, {"loss": state.sum()}


def train(folder, steps, number, begun=0, said=None):
    """`number` steps after the first `begun`; gives the last state."""
    state = jnp.eye(64)
    with traced(step, begun, steps, folder, STAGE, [].append if said is None else said.append) as call:
        for _ in range(number):
            state, _ = call(state, 0.5)
    return state


def traces(folder):
    return sorted(folder.rglob("*.xplane.pb"))


def events(path):
    """Everything in a trace, one by one; of most nobody reads more than the name."""
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            yield from line.events


def annotated(path):
    return sorted(dict(event.stats)["step_num"] for event in events(path) if event.name == STAGE)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """The trace of steps 10 to 13 of 20, what was said, and the last state."""
    folder, said = tmp_path_factory.mktemp("work") / "profile", []
    state = train(folder, "10:13", 20, said=said)
    (path,) = traces(folder)
    return path, said, state


def test_the_updates_that_are_named_are_annotated_and_no_others(trace):
    assert annotated(trace[0]) == [10, 11, 12, 13]


def test_the_devices_are_done_with_all_of_them_and_with_nothing_else(trace):
    """Each execution ends within the trace, and none of other steps reaches into it."""
    finished = [e for e in events(trace[0]) if e.name.startswith("ThunkExecutor::Execute (wait")]
    assert len(finished) == 4


def test_xprof_finds_it_and_the_user_is_told_how(trace):
    """A folder of its kind below the stage's, which xprof looks for; its viewer has another file."""
    path, said, _ = trace
    folder = path.parents[5]
    assert path.relative_to(folder).parts[:4] == ("train", "dpo", "plugins", "profile")
    (other,) = path.parent.glob("*.trace.json.gz")
    assert json.loads(gzip.decompress(other.read_bytes()))["traceEvents"]
    assert said == [f"train/dpo: traced; to see it: pip install xprof, then xprof {folder}"]


def test_it_changes_no_result(trace, tmp_path):
    assert (train(tmp_path, "", 20) == trace[2]).all()


def test_where_none_is_named_nothing_happens(tmp_path):
    with traced(step, 0, "", tmp_path / "profile", STAGE, pytest.fail) as call:
        assert call is step
    assert not (tmp_path / "profile").exists()


def test_only_the_first_process_is_traced(tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "is_process_0", lambda: False)
    with traced(step, 0, "1:2", tmp_path, STAGE, pytest.fail) as call:
        assert call is step


@pytest.mark.parametrize(("begun", "number", "steps"), [(8, 3, [10, 11]), (11, 9, [12, 13])])
def test_a_training_that_ends_or_goes_on_within_the_span_traces_what_it_has(tmp_path, begun, number, steps):
    train(tmp_path, "10:13", number, begun)
    (path,) = traces(tmp_path)
    assert annotated(path) == steps


@pytest.mark.parametrize(
    ("begun", "number", "had"),
    [(0, 9, "its steps were 1 to 9"), (20, 5, "its steps were 21 to 25")],
)
def test_a_training_without_those_steps_says_so(tmp_path, begun, number, had):
    said = []
    train(tmp_path, "10:13", number, begun, said=said)
    assert said == [f"train/dpo: nothing was traced: profile_steps is 10:13, and {had}"]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "within"), [(KeyboardInterrupt, True), (FloatingPointError, False)])
def test_whatever_ends_the_training_closes_the_trace_and_another_can_be_made(tmp_path, error, within):
    """Within a step the state is gone, taken over and not given back, and nothing waits for it."""
    calls = []

    def fails(state, add):
        calls.append(0)
        if within and len(calls) == 4:
            step(state, add)
            raise error
        return step(state, add)

    def fail():
        state = jnp.eye(64)
        with traced(fails, 0, "2:9", tmp_path / "a", STAGE, [].append) as call:
            for _ in range(3):
                state, _ = call(state, 0.5)
            call(state, 0.5)
            raise error

    with pytest.raises(error):
        fail()
    (path,) = traces(tmp_path / "a")
    assert annotated(path) == [2, 3, 4]
    train(tmp_path / "b", "1:2", 3)
    assert annotated(*traces(tmp_path / "b")) == [1, 2]


def test_a_folder_that_cannot_be_made_is_an_error_of_files(tmp_path):
    (tmp_path / "profile").write_text("")
    with pytest.raises(OSError, match="profile"):
        train(tmp_path / "profile", "1:2", 3)
