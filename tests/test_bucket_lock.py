"""One writer of a folder in a bucket, against a server that enforces preconditions."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.bucket_server import Bucket, Refused, serving

from pretrainrl_jax import bucket_lock
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.storage import place


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with serving(Bucket()) as served:
        for name, value in served.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(bucket_lock, "RENEWED", 0.1)
        monkeypatch.setattr(bucket_lock, "LOST", 1.0)
        monkeypatch.setattr(bucket_lock, "DEAD", 1.5)
        yield served


@pytest.fixture
def path(bucket: Bucket) -> Path:
    return place("gs://bucket/run") / "lock"


def never(why: str) -> None:
    pytest.fail(why)


def test_it_is_there_while_it_is_held(bucket: Bucket, path: Path):
    with bucket_lock.held(path, never):
        first = bucket.objects["run/lock"]
        assert first.data.decode().startswith(f"{bucket_lock.owner()}\n")
        time.sleep(0.5)
        assert bucket.objects["run/lock"].generation > first.generation  # renewed
    assert bucket.names("run/") == []


def test_who_comes_second_is_told_by_whom_it_is_held(bucket: Bucket, path: Path, capsys: Any):
    told = r"gs://bucket/run is in use by process \d+ on .*: wait until"
    with bucket_lock.held(path, never):
        with pytest.raises(InputError, match=told), bucket_lock.held(path, never):
            pytest.fail("two hold it")
        assert "run/lock" in bucket.objects
    assert "waiting up to 1.5 s" in capsys.readouterr().err


def test_one_that_is_given_back_meanwhile_is_taken(bucket: Bucket, path: Path):
    bucket.put("run/lock", b"process 7 on elsewhere\nits key", {})
    began = time.monotonic()
    threading.Timer(0.4, lambda: bucket.objects.pop("run/lock")).start()
    with bucket_lock.held(path, never):
        assert time.monotonic() - began < bucket_lock.DEAD
        assert bucket.objects["run/lock"].data.decode().startswith(bucket_lock.owner())


def race(path: Path, count: int, seconds: float) -> tuple[int, int, int]:
    """So many want it at once, and keep it so long: how many had it at a time, had it, and were refused."""
    inside, most, entered, refused = 0, 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, entered, refused
        try:
            with bucket_lock.held(path, never):
                with guard:
                    inside, entered = inside + 1, entered + 1
                    most = max(most, inside)
                time.sleep(seconds)
                with guard:
                    inside -= 1
        except InputError:
            with guard:
                refused += 1

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most, entered, refused


def test_of_many_that_race_one_has_it_at_a_time(bucket: Bucket, path: Path):
    most, entered, refused = race(path, 4, 0.6)
    assert most == 1
    assert entered + refused == 4
    assert refused >= 1


def test_of_many_that_find_a_dead_one_one_takes_it_over(bucket: Bucket, path: Path, capsys: Any):
    bucket.put("run/lock", b"process 1 on a host that is gone", {})
    assert race(path, 3, 2.5) == (1, 1, 2)  # kept longer than the others watch
    told = capsys.readouterr().err
    assert told.count("process 1 on a host that is gone is gone, and its lock was taken over") == 1


def test_a_holder_that_another_replaced_stops_and_leaves_it(bucket: Bucket, path: Path):
    told: list[str] = []
    with bucket_lock.held(path, told.append):
        bucket.put("run/lock", b"process 7 on elsewhere", {})
        time.sleep(0.5)
    assert told == [f"{path} was taken by process 7 on elsewhere"]
    assert bucket.objects["run/lock"].data == b"process 7 on elsewhere"


def test_a_holder_that_cannot_renew_stops_before_another_may_take_it(bucket: Bucket, path: Path):
    told: list[tuple[str, float]] = []

    def refuse(what: str, name: str) -> None:
        raise Refused(403)

    with bucket_lock.held(path, lambda why: told.append((why, time.monotonic()))):
        began = time.monotonic()
        bucket.before = refuse
        time.sleep(1.4)
        assert len(told) == 1
        assert "could not be renewed for 1 s" in told[0][0]
        assert told[0][1] - began < bucket_lock.DEAD
    assert bucket.names("run/") == ["run/lock"]


def test_a_renewal_whose_answer_was_lost_is_found_again(bucket: Bucket, path: Path):
    lost = []

    def lose(what: str, name: str) -> None:
        if not lost and what == "put":
            lost.append(name)
            bucket.before = lambda what, name: None
            bucket.put(name, bucket.objects[name].data, {})  # it arrived
            raise ConnectionError

    with bucket_lock.held(path, never):
        bucket.before = lose
        time.sleep(0.8)
        assert lost == ["run/lock"]
    assert bucket.names("run/") == []


@pytest.mark.parametrize(
    ("status", "kind"), [(403, InputError), (404, InputError), (501, OSError), (503, OSError)]
)
def test_a_bucket_that_cannot_be_written_is_told(
    bucket: Bucket, path: Path, status: int, kind: type[Exception]
):
    def refuse(what: str, name: str) -> None:
        raise Refused(status)

    bucket.before = refuse
    with pytest.raises(kind, match=str(status)), bucket_lock.held(path, never):
        pytest.fail("it is not held")


def test_another_of_the_same_number_and_host_is_another(bucket: Bucket, path: Path):
    """As the process of a pod that was started again."""
    told: list[str] = []
    with bucket_lock.held(path, told.append):
        bucket.put("run/lock", f"{bucket_lock.owner()}\nanother key\n".encode(), {})
        time.sleep(0.5)
    assert told == [f"{path} was taken by {bucket_lock.owner()}"]


def test_whatever_fails_in_renewing_it_is_lost_in_time(
    bucket: Bucket, path: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[str] = []

    def write(self: object, generation: int) -> None:
        raise bucket_lock.Taken

    def read(self: object) -> None:
        raise KeyError("not what was expected")

    with bucket_lock.held(path, told.append):
        monkeypatch.setattr(bucket_lock._Object, "write", write)
        monkeypatch.setattr(bucket_lock._Object, "read", read)
        time.sleep(1.4)
    assert told == [f"{path} could not be renewed for 1 s ('not what was expected')"]


def test_an_answer_that_never_comes_loses_it_in_time(bucket: Bucket, path: Path):
    told: list[float] = []
    hangs = threading.Event()
    with bucket_lock.held(path, lambda why: told.append(time.monotonic())):
        began = time.monotonic()
        bucket.before = lambda what, name: hangs.wait(10)
        time.sleep(1.4)
        hangs.set()
    assert len(told) == 1
    assert told[0] - began < 1.4 < bucket_lock.DEAD
