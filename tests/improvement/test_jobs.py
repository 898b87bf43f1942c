"""Work beside the main thread: in order, its errors where they are asked for, and no hindrance to an end."""

import threading
import time

import pytest
from helpers.forked import python

from pretrainrl_jax.improvement.jobs import Jobs, Seconds, utilisation


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_each_gives_its_own_result_or_error(workers: int):
    def fails() -> int:
        raise RuntimeError("no")

    with Jobs(workers) as jobs:
        asked = [jobs.submit(lambda i=i: i * i) for i in range(5)]
        wrong = jobs.submit(fails)
        for i, job in enumerate(asked):
            assert jobs.wait(job, 10)
            assert job.result() == i * i
        assert jobs.wait(wrong, 10)
        with pytest.raises(RuntimeError, match="no"):
            wrong.result()


@pytest.mark.parametrize("workers", [1, 2])
def test_so_many_at_once_and_first_asked_first_begun(workers: int):
    running, most, begun, lock = [0], [0], [], threading.Lock()

    def work(i: int) -> None:
        with lock:
            begun.append(i)
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    with Jobs(workers) as jobs:
        every = [jobs.submit(lambda i=i: work(i)) for i in range(8)]
        assert all(jobs.wait(job, 10) for job in every)
    assert most[0] == workers
    assert sorted(begun) == list(range(8))
    assert all(abs(i - at) < workers for at, i in enumerate(begun))


def test_without_threads_work_is_done_by_whoever_waits():
    with Jobs(0) as jobs:
        job = jobs.submit(threading.get_ident)
        assert not job.done()
        assert jobs.wait(job, 0)
        assert job.result() == threading.get_ident()


def test_a_wait_ends_in_time_or_when_it_is_told_to():
    release = threading.Event()
    with Jobs(1) as jobs:
        job = jobs.submit(lambda: release.wait(60))
        assert not jobs.wait(job, 0.05)
        assert not jobs.wait(job, 60, lambda: True)
        later = jobs.submit(lambda: 1)
    release.set()
    assert job.result(10)
    assert not jobs.wait(later, 0.3)  # never begun


def test_work_that_hangs_does_not_keep_python_from_ending():
    code = """
import time
from pretrainrl_jax.improvement.jobs import Jobs
with Jobs(1) as jobs:
    job = jobs.submit(lambda: time.sleep(600))
    assert not jobs.wait(job, 0.2)
print("ended")
"""
    began = time.monotonic()
    assert python(code).out == "ended\n"
    assert time.monotonic() - began < 60


def test_time_is_counted_once_where_two_jobs_run_and_not_where_none_does():
    with Jobs(2) as jobs:
        seconds = Seconds(jobs, on_devices=False)
        every = [jobs.submit(lambda: time.sleep(0.4)) for _ in range(2)]
        with seconds("waiting"):
            assert all(jobs.wait(job, 10) for job in every)
        time.sleep(0.4)
        told = seconds.metrics()
    assert told["seconds_waiting"] == pytest.approx(0.4, abs=0.15)
    assert told["judge_share"] == pytest.approx(0.5, abs=0.15)
    assert told["device_share"] == pytest.approx(0.5, abs=0.15)
    shown = utilisation(told)
    assert shown["device %"] == pytest.approx(100 * told["device_share"])
    assert shown["waited s"] == told["seconds_waiting"]


@pytest.mark.parametrize(("on_devices", "waited"), [(False, 0.2), (True, 0.0)])
def test_one_by_one_the_judge_is_waited_for_unless_the_devices_judge(on_devices: bool, waited: float):
    with Jobs(0) as jobs:
        seconds = Seconds(jobs, on_devices)
        with seconds("judging"):
            jobs.wait(jobs.submit(lambda: time.sleep(0.2)), 0)
        told = seconds.metrics()
    assert told["seconds_waiting"] == pytest.approx(waited, abs=0.1)
    assert told["seconds_judging"] == pytest.approx(0.2, abs=0.1)
    assert told["judge_share"] > 0.8
    assert (told["device_share"] or 0) == pytest.approx(0.0 if waited else 1.0, abs=0.2)
