"""Several processes as one run: they agree, end together, and say why when one of them does not go on."""

import signal
import time

import pytest
from helpers.host_processes import COLLECTIVE, HOST, PATIENCE, Processes

from pretrainrl_jax.hosts import watch

# A busy machine may not run a process for seconds, and needs a minute or more to start several.
DEAD = 5.0  # hosts.dead_seconds where some process is to be found dead, and others are not
LONG, SOON = 250.0, 150.0  # hosts.dead_seconds that must not be waited for, and the bound that tells


@pytest.mark.parametrize("count", [2, 4])
def test_processes_agree_and_leave_together(processes: Processes, count: int) -> None:
    processes.start(
        count,
        "say([process_index(), process_count(), is_process_0()])\n"
        "say(run_on_process_0(lambda: {'by': process_index(), 'pair': (1, 'é')}, 'work'))\n"
        "for n in range(60):\n"
        "    assert run_on_process_0(lambda: n, 'n') == n\n"
        "    assert gather([n, process_index()], 'all') == [[n, i] for i in range(process_count())]\n"
        "time.sleep(0.3 * process_index())\n"
        "came = time.time()\n"
        "barrier('here')\n"
        "say([came, time.time()])\n"
        "say(len(run_on_process_0(lambda: 'x' * 5_000_000, 'much')))\n"
        "say([len(text) for text in gather('y' * (2_000_000 + process_index()), 'much from each')])\n"
        "time.sleep(0.2 * process_index())\n"
        "print(json.dumps('last'))",  # and does not flush it
    )  # fmt: skip
    ended = processes.end()
    assert ended.codes == [0] * count, ended.err
    assert ended.lines() == []
    assert ended.orderly()
    came, went = zip(*(out[3] for out in ended.out), strict=True)
    assert max(came) <= min(went)  # though they came 0.3 s apart
    for index, out in enumerate(ended.out):
        assert out[0:3] == ["joined", [index, count, index == 0], {"by": 0, "pair": [1, "é"]}]
        assert out[4:] == [5_000_000, [2_000_000 + i for i in range(count)], "last"]


def test_keys_are_deleted(processes: Processes) -> None:
    processes.start(
        2,
        "from pretrainrl_jax.hosts.group import current\n"
        "for n in range(300):\n"
        "    run_on_process_0(lambda: n, 'n')\n"
        "    time.sleep(0.005)\n"
        "barrier('here')\n"
        "say(len(current().store._client.key_value_dir_get('hosts/points')))",
        dead_seconds=6.0,
    )
    ended = processes.end()
    assert ended.codes == [0, 0], ended.err
    assert ended.out[0][1] < 10


def test_an_error_of_the_work_arrives_in_all(processes: Processes) -> None:
    processes.start(
        3,
        "def full(): raise OSError(28, 'No space left', '/a/b')\n"
        "def none(): raise FileNotFoundError(2, 'No such file', '/a/c')\n"
        "def bad(): raise InputError('facts.path=x: no such folder')\n"
        "for work in (full, none):\n"
        "    try: run_on_process_0(work, 'write')\n"
        "    except OSError as error: say([type(error).__name__, error.errno, error.filename])\n"
        "barrier('here')\n"
        "try: run_on_process_0(bad, 'read')\n"
        "finally: time.sleep(0 if process_index() else 0.5)",  # so that process 1 leaves before
    )
    ended = processes.end()
    assert ended.codes == [2, 2, 2]
    said = ["joined", ["OSError", 28, "/a/b"], ["FileNotFoundError", 2, "/a/c"]]
    assert ended.out == [said] * 3
    assert ended.lines() == ["error: facts.path=x: no such folder"]
    assert ended.lines()[0] in ended.err[0]
    assert ended.orderly()


def test_other_points_are_an_error(processes: Processes) -> None:
    processes.start(2, "barrier('left' if process_index() else 'right')", dead_seconds=LONG)
    ended = processes.end()
    assert ended.codes == [1, 1]
    assert len(ended.lines()) == 1
    assert "'left'" in ended.lines()[0]
    assert "'right'" in ended.lines()[0]
    assert ended.seconds < SOON  # no process is waited for that might explain it


WAITS = {
    "barrier": ("", "barrier('a point') if process_index() != {gone} else time.sleep(600)"),
    "collective": (
        COLLECTIVE,
        "if process_index() == {gone}: time.sleep(600)\nwith waiting('step 17 of train/dpo'): collective()",
    ),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("gone", [0, 1])
def test_a_killed_process_ends_the_others(processes: Processes, gone: int, wait: str) -> None:
    before, body = WAITS[wait]
    count = 3 if wait == "barrier" else 2
    body = f"{before}\nbarrier('here')\nsay('ready')\n{body.format(gone=gone)}"
    processes.start(count, body, dead_seconds=DEAD if gone else LONG)
    processes.wait_for("ready")
    time.sleep(0.5)
    processes.running[gone].kill()
    ended = processes.end(without=gone)
    assert ended.codes == [1] * (count - 1), ended.err
    assert ended.seconds < SOON
    why = (
        f"nothing was heard of it for {DEAD:g} s (hosts.dead_seconds)"
        if gone
        else "the connection to it broke"
    )
    line = f"failed: host {HOST} (process {gone}) is gone: {why}; what is saved is kept. Go on with: COMMAND"
    assert ended.lines() == [line] * (1 if gone else count - 1), ended.err
    assert line in ended.err[0]  # of process 0; where that is gone each says so


@pytest.mark.parametrize("gone", [0, 1])
def test_a_stopped_process_ends_the_others(processes: Processes, gone: int) -> None:
    count = 2 if gone else 3
    body = "say('ready')\nbarrier('a point') if process_index() != 1 else time.sleep(600)"
    processes.start(count, body, dead_seconds=DEAD)
    processes.wait_for("ready")
    time.sleep(0.5)
    processes.running[gone].send_signal(signal.SIGSTOP)
    ended = processes.end(without=gone)
    assert ended.codes == [1] * (count - 1), ended.err
    assert ended.seconds < SOON
    silent = f"nothing was heard of it for {DEAD:g} s (hosts.dead_seconds)"
    line = f"failed: host {HOST} (process {gone}) is gone: {silent}"
    assert [line in said for said in ended.lines()] == [True] * (1 if gone else count - 1)
    assert line in ended.err[0]
    # Once it goes on it finds itself alone.
    processes.running[gone].send_signal(signal.SIGCONT)
    assert processes.running[gone].wait(PATIENCE) in (1, 143)


def test_a_process_that_is_started_anew_ends_the_run(processes: Processes) -> None:
    """As that of a container which was killed: it cannot take part in a run that has begun."""
    body = "barrier('here')\nsay('ready')\nbarrier('a point') if process_index() != 1 else time.sleep(600)"
    processes.start(2, body, dead_seconds=LONG)
    processes.wait_for("ready")
    processes.running[1].kill()
    processes.start_one(body, index=1, count=2, dead_seconds=LONG)
    ended = processes.end(without=1)
    assert ended.codes[0] == 1, ended.err
    assert ended.codes[1], ended.err  # it only learns that process 0 has ended
    assert ended.seconds < SOON
    assert f"failed: host {HOST} (process 1) is gone: it was started anew" in ended.err[0]


def test_machines_that_all_stood_still_go_on(processes: Processes) -> None:
    processes.start(
        2,
        "barrier('here')\nsay('ready')\nfor n in range(50): barrier('a step'); time.sleep(0.1)",
        dead_seconds=DEAD,
    )
    processes.wait_for("ready")
    for number, seconds in ((signal.SIGSTOP, DEAD + 1), (signal.SIGCONT, 0)):
        for process in processes.running:
            process.send_signal(number)
        time.sleep(seconds)
    ended = processes.end()
    assert ended.codes == [0, 0], ended.err


@pytest.mark.parametrize("slow", [0, 2])
def test_who_works_too_long_is_named(processes: Processes, slow: int) -> None:
    count = 3 if slow else 2
    processes.start(
        count,
        f"if process_index() == {slow}:\n"
        "    with working('reading rows'): time.sleep(600)\n"
        "with waiting('step 17 of train/dpo'): time.sleep(600)",
        stall_seconds=2.0,
        dead_seconds=DEAD,
    )
    ended = processes.end()
    assert ended.codes == [1] * count, ended.err
    assert ended.seconds < SOON
    assert ended.lines() == [
        f"failed: step 17 of train/dpo has waited 2 s (hosts.stall_seconds): host {HOST} (process {slow}) is "
        "at: reading rows; what is saved is kept. Go on with: COMMAND"
    ]
    assert ended.lines()[0] in ended.err[0]
    assert ended.orderly()


def test_a_wait_of_all_is_told_apart(processes: Processes) -> None:
    processes.start(2, "with waiting('step 17'): time.sleep(600)", stall_seconds=2.0, dead_seconds=DEAD)
    ended = processes.end()
    assert ended.codes == [1, 1], ended.err
    assert len(ended.lines()) == 1
    told = "failed: step 17 has waited 2 s (hosts.stall_seconds): all wait there: the communication"
    assert ended.lines()[0].startswith(told)


def test_waits_that_end_are_no_stall(processes: Processes) -> None:
    """What is done in all takes longer than what is allowed with the two heartbeats that may be missed."""
    processes.start(
        2,
        "with waiting('a long loop'):\n"
        "    for n in range(15):\n"
        "        time.sleep(0.5)\n"
        "        barrier('a step')",
        stall_seconds=3.0,
        dead_seconds=DEAD,
    )
    assert processes.end().codes == [0, 0]


@pytest.mark.parametrize(
    ("code", "message", "line"),
    [
        (2, "error: facts.path=x: gone", f"host {HOST} (process 1): error: facts.path=x: gone"),
        (1, "", f"host {HOST} (process 1): failed: it ended with exit code 1; what is saved is kept. Go on "
                "with: COMMAND"),
        (130, "", f"host {HOST} (process 1): interrupted; what is finished is kept. Go on with: COMMAND"),
    ],
)  # fmt: skip
def test_all_end_as_the_one_that_fails(processes: Processes, code: int, message: str, line: str) -> None:
    count = 3 if code == 2 else 2
    processes.start(
        count,
        f"if process_index() == 1: leave({code}, {message!r})\n"
        "if process_index() == 2: time.sleep(600)\n"
        "barrier('a point')",
    )
    ended = processes.end()
    assert ended.codes == [code] * count, ended.err
    assert ended.orderly()
    assert ended.lines() == [line]
    assert line in ended.err[0]


def test_a_collective_that_breaks_is_explained(processes: Processes) -> None:
    """Process 0 gets an error from its devices, and says what happened to process 1."""
    processes.start(
        2,
        f"{COLLECTIVE}\n"
        "if process_index() == 1: leave(2, 'error: rows.path=x: not there')\n"
        "with waiting('step 17'): collective()",
        dead_seconds=LONG,
    )
    ended = processes.end()
    assert ended.codes == [2, 2], ended.err
    assert ended.lines() == [f"host {HOST} (process 1): error: rows.path=x: not there"]
    assert "raised:" in ended.err[0]
    assert ended.seconds < SOON


def test_an_interruption_that_all_planned(processes: Processes) -> None:
    processes.start(
        2,
        "ending.LINGER_SECONDS = 3\n"
        "time.sleep(6 * process_index())\n"
        "leave(130, f'interrupted at step 3 ({process_index()})', planned=True)",
    )
    ended = processes.end()
    assert ended.codes == [130] * 2, ended.err
    assert ended.orderly()
    assert ended.lines() == ["interrupted at step 3 (0)"]


def test_ctrl_c_is_heard_in_a_wait(processes: Processes) -> None:
    processes.start(
        2,
        "try:\n"
        "    if process_index() == 0: time.sleep(600)\n"
        "    say('waits')\n"
        "    barrier('a point')\n"
        "except KeyboardInterrupt:\n"
        "    leave(130)",
    )
    processes.wait_for("waits", process=1)
    processes.running[1].send_signal(signal.SIGINT)
    ended = processes.end()
    assert ended.codes == [130, 130], ended.err
    assert ended.lines() == [
        f"host {HOST} (process 1): interrupted; what is finished is kept. Go on with: COMMAND"
    ]


def test_many_names_are_cut_short() -> None:
    assert watch.some(["a", "b", "c"]) == ["a", "b", "c"]
    assert watch.some(["a", "b", "c", "d", "e"]) == ["a", "b", "c", "2 more"]
