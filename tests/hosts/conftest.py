"""Processes that end with their test."""

from pathlib import Path

import pytest
from helpers.host_processes import Processes


@pytest.fixture
def processes(tmp_path: Path):
    made = Processes(tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
            process.wait()
