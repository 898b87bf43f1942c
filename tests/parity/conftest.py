"""How these tests note what they measured; the table is printed by tests/conftest.py."""

from collections.abc import Callable

import pytest
import torch
import transformers
from helpers.peer_measurements import PROPERTY

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # on models this small, threads mostly wait for each other


@pytest.fixture
def measured(record_property) -> Callable[[str, str, float, float], None]:
    """Notes an error for the parity table, and fails where it exceeds the tolerance."""

    def note(model: str, check: str, error: float, tolerance: float) -> None:
        record_property(PROPERTY, (model, check, float(error), tolerance))
        assert error <= tolerance

    return note
