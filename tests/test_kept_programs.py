"""Compiled programs are kept between runs: read again, bounded, in a folder of the processor's own."""

import os
import re
from pathlib import Path

import pytest
from helpers.command_line import Ran
from helpers.forked import python

from pretrainrl_jax.kept_programs import SECONDS, processor

COUNTING = """
import sys
from collections import Counter
import jax
from pretrainrl_jax import kept_programs
from pretrainrl_jax.main import main

seen = Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event.rpartition("/")[2]]))
kept_programs.SECONDS = float(sys.argv[1])
code = main(sys.argv[2:])
print("hits", seen["cache_hits"], "misses", seen["cache_misses"])
sys.exit(code)
"""
FEW = ("--pretrain.epochs=0.2", "--corpus.statements=100", "--tokenizer.vocabulary=300")


def run(
    config: Path, workdir: Path, *words: str, cache: Path, seconds: float = 0.0, **environment: str
) -> Ran:
    """Pretraining that keeps what takes so many seconds to compile."""
    words = ("pretrain", "--config", str(config), "--workdir", str(workdir), *FEW, *words)
    environment = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(cache)} | environment
    ran = python(COUNTING, seconds, *words, **environment)
    assert ran.code == 0, ran.err
    return ran


def counted(ran: Ran) -> tuple[int, int]:
    _, hits, _, misses = ran.out.splitlines()[-1].split()
    return int(hits), int(misses)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*-cache"))


def test_a_second_run_takes_what_the_first_compiled(tiny_config: Path, tmp_path: Path):
    """As a user runs it: compiled well, so that some programs take long enough to be kept."""
    cache, well = tmp_path / "cache", {"JAX_DISABLE_MOST_OPTIMIZATIONS": "false", "seconds": SECONDS}
    ran = run(tiny_config, tmp_path / "one", "--verbose", cache=cache, **well)
    assert re.search(r"^pretrain: first update \d+\.\d s after the command$", ran.out, re.M)
    hits, misses = counted(ran)
    folder = cache / "pretrainrl_jax" / "programs" / processor()
    programs = kept(folder)
    assert misses >= len(programs) > 0
    assert (hits, kept(tmp_path)) == (0, programs)  # nowhere else
    hits, _ = counted(run(tiny_config, tmp_path / "two", cache=cache, **well))
    assert hits >= len(programs)
    assert {*programs} <= {*kept(folder)}  # what compiles slowly on a busy machine may be kept late


def test_none_are_kept_where_none_are_asked_for(tiny_config: Path, tmp_path: Path):
    ran = run(tiny_config, tmp_path / "run", "--platform.programs=none", cache=tmp_path / "cache")
    assert counted(ran)[0] == 0
    assert kept(tmp_path) == []


def test_a_folder_may_be_named_and_has_its_bound(tiny_config: Path, tmp_path: Path):
    words = (f"--platform.programs={tmp_path / 'mine'}", "--platform.programs_gigabytes=1e-4")
    ran = run(tiny_config, tmp_path / "run", *words, cache=tmp_path / "cache")
    programs = kept(tmp_path)
    assert all(path.parent == tmp_path / "mine" / processor() for path in programs)
    assert 0 < sum(path.stat().st_size for path in programs) <= 1e5
    assert len(programs) < counted(ran)[1]


def test_a_folder_that_cannot_be_is_told_and_the_run_goes_on(tiny_config: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    ran = run(tiny_config, tmp_path / "run", f"--platform.programs={tmp_path / 'file'}", cache=tmp_path)
    assert "compiled programs are not kept" in ran.err
    assert "--platform.programs=none" in ran.err


def test_what_jax_was_told_elsewhere_stays(tiny_config: Path, tmp_path: Path):
    there = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "theirs")}
    run(tiny_config, tmp_path / "run", cache=tmp_path / "cache", **there)
    assert {path.parent for path in kept(tmp_path)} == {tmp_path / "theirs"}


@pytest.mark.parametrize("other", ["flags : fpu sse avx512f", "Features : fp asimd sve"])
def test_each_kind_of_processor_has_its_own_folder(tmp_path: Path, other: str):
    one, two, again = (tmp_path / name for name in ("one", "two", "again"))
    one.write_text("model name : x\nflags : fpu sse\nflags : fpu sse\n")
    again.write_text("model name : y\nflags : fpu sse\n")
    two.write_text(f"model name : x\n{other}\n")
    assert processor(one) == processor(again) != processor(two)
    assert processor(tmp_path / "absent") not in (processor(one), processor(two))
    assert os.sep not in processor()
