"""Progress: what is written, how often, and that device values are fetched only when shown."""

import io

import pytest
from rich.console import Console

from pretrainrl_jax.progress import NORMAL, Screen, duration, short


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=60)


def terminal(width: int = 120) -> Console:
    # A fixed TERM: under TERM=dumb, as in some build machines, rich would not draw a bar.
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm-256color"})


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_plain_line_has_count_rate_time_left_and_metrics() -> None:
    console, clock = plain(), Clock()
    with Screen(clock=clock).track("train/ntp", 186, "steps", console=console) as progress:
        clock.now += 30.0  # compiling: must not spoil the rate
        progress.advance(1, loss=9.0)
        clock.now += 10.0
        progress.advance(95, loss=2.3149, reward_margin=0.5)
        clock.now += 10.0
        progress.advance(90, loss=2.0)
    lines = written(console).splitlines()
    assert lines[0].startswith("train/ntp  1/186 steps")
    assert lines[1] == "train/ntp  96/186 steps  9.5/s  0:09 left  loss 2.31  reward margin 0.5"
    assert lines[-1] == "train/ntp  186/186 steps  9.25/s  0:50 taken  loss 2"
    assert len(lines) == 4  # one at 30, 40 and 50 seconds, and the last


def test_lines_and_lazy_metrics_are_throttled() -> None:
    console, clock = plain(), Clock()
    fetched: list[int] = []

    with Screen(clock=clock).track("mine", 1000, "questions", console=console) as progress:
        for step in range(1000):
            clock.now += 0.1

            def metrics(step: int = step) -> dict[str, float]:
                fetched.append(step)
                return {"loss": float(step)}

            progress.advance(1, metrics)
    lines = written(console).splitlines()
    assert 10 <= len(lines) <= 11
    assert len(fetched) == len(lines)
    assert lines[-1].endswith("loss 999")


def test_a_short_run_writes_one_line_and_nothing_to_do_is_fine() -> None:
    console, clock = plain(), Clock()
    with Screen(clock=clock).track("evaluate", 3, "batches", console=console) as progress:
        for _ in range(3):
            clock.now += 1.0
            progress.advance()
    with Screen(clock=clock).track("evaluate", 0, "batches", console=console):
        pass
    line, second = written(console).splitlines()
    assert line == "evaluate  3/3 batches  1/s  0:03 taken"
    assert second == "evaluate  0/0 batches  0:00 taken"


@pytest.mark.parametrize("console", [plain(), terminal()], ids=["plain", "terminal"])
def test_a_failure_passes_through_without_fetching_metrics(console: Console) -> None:
    def broken() -> dict[str, float]:
        raise RuntimeError("the device is gone")

    def interrupted() -> None:
        with NORMAL.track("train/dpo", 5, "steps", console=console) as progress:
            progress.advance(2, broken)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "2/5 steps" in written(console)
    assert "until stopped" in written(console)
    assert "Traceback" not in written(console)


def test_a_terminal_gets_a_bar_that_fits() -> None:
    console, clock = terminal(width=100), Clock()
    with Screen(clock=clock).track("train/[b]pretrainrl", 4, "steps", console=console) as progress:
        for _ in range(4):
            clock.now += 1.0
            progress.advance(1, loss=2.314)
    text = written(console)
    assert "━" in text
    assert "[b]pretrainrl" in text  # a label is text, never markup
    assert "2/4 steps" in text
    assert "4/4 steps" in text


def test_on_a_narrow_terminal_the_metrics_stay_and_the_bar_goes() -> None:
    console, clock = terminal(width=80), Clock()
    with Screen(clock=clock).track("train/pretrainrl", 353, "steps", console=console) as progress:
        clock.now += 1.0
        progress.advance(1)
        clock.now += 57.0
        progress.advance(352, true=-7.064, false=-8.243)
    lines = written(console).replace("\x1b[2K", "").replace("\x1b[?25h", "").splitlines()
    last = [line for line in lines if line.strip()][-1]
    assert last.startswith("train/pretrainrl 353/353 steps")
    assert last.rstrip().endswith("true -7.06  false -8.24")
    assert len(last.rstrip()) <= 80
    assert "━" not in last


def test_a_terminal_shows_rate_and_metrics_and_takes_a_total_of_zero() -> None:
    console, clock = terminal(), Clock()
    with Screen(clock=clock).track("train/ntp", 2, "steps", console=console) as progress:
        for _ in range(2):
            clock.now += 2.0
            progress.advance(1, lambda: {"loss": 2.314})
    with Screen(clock=clock).track("train/none", 0, "steps", console=console):
        pass
    text = written(console)
    assert "0.5/s" in text
    assert "0:02 left" in text
    assert "loss 2.31" in text
    assert "0/0 steps" in text


def test_numbers_are_short() -> None:
    assert [short(v) for v in (31.24, 1234.5, 0.012345, 0, float("nan"))] == [
        "31.2",
        "1,234",
        "0.0123",
        "0",
        "nan",
    ]
    assert [duration(s) for s in (3, 75, 3723)] == ["0:03", "1:15", "1:02:03"]


def test_what_an_earlier_run_did_says_nothing_of_the_rate() -> None:
    console, clock = plain(), Clock()
    with Screen(clock=clock).track("mine", 100, "questions", console=console) as progress:
        progress.skip(50)
        clock.now += 10.0
        progress.advance(10)
        progress.skip(20)
        clock.now += 10.0
        progress.advance(10, distinct_answers=3.25)
    lines = written(console).splitlines()
    assert lines[0].startswith("mine  60/100 questions  1/s  0:40 left")
    assert lines[1].startswith("mine  90/100 questions  1/s  0:10 left")
    assert lines[-1] == "mine  90/100 questions  1/s  0:20 taken  distinct answers 3.25"


@pytest.mark.parametrize(
    ("screen", "said", "tracked"),
    [
        (Screen(), ["what a stage does"], True),
        (Screen(quiet=True), [], False),
        (Screen(verbose=True), ["what a stage does", "a file was written"], True),
    ],
)
def test_quiet_shows_less_and_verbose_more(
    screen: Screen, said: list[str], tracked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    screen.say("what a stage does")
    screen.detail("a file was written")
    with screen.track("mine", 1, "questions") as bar:
        bar.advance()
    shown = capsys.readouterr()
    assert shown.out.splitlines() == said
    assert ("1/1 questions" in shown.err) is tracked


def test_a_mute_screen_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for screen in (Screen(quiet=True), Screen(mute=True)):
        screen.say("said")
        screen.warn("warned")
    assert capsys.readouterr() == ("", "warned\n")
