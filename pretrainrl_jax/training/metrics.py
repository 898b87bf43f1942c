"""Where training metrics go: metrics.jsonl, one JSON object a line, and TensorBoard events."""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboardX.summary import scalar

from pretrainrl_jax.atomic import write_text


class MetricsWriter(AbstractContextManager):
    """Appends a stage's metrics to `metrics.jsonl` and to TensorBoard events under `tensorboard/<stage>`.

    Lines of the same stage from an earlier run that lie after `start` are removed first, all of them where
    it starts from nothing, so a stage that starts again leaves no step twice.
    """

    def __init__(self, workdir: Path, stage: str, start: int = 0) -> None:
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # warns of each value not finite
        self.stage = stage
        path = workdir / "metrics.jsonl"
        if path.is_file():
            lines = path.read_text().splitlines(keepends=True)
            # A run that was killed may have left half a line at the end.
            complete = [(x, json.loads(x)) for x in lines if x.endswith("\n")]
            kept = [x for x, values in complete if values["stage"] != stage or values["step"] <= start > 0]
            write_text(path, "".join(kept))
        self._file = path.open("a")
        folder = workdir / "tensorboard" / stage
        folder.mkdir(parents=True, exist_ok=True)
        # Not a SummaryWriter, whose threads have a log of their own to tell of a full disk.
        self._events = EventsWriter(str(folder / "events"))
        # TensorBoard drops what older files have of later steps.
        began = Event(step=start + 1, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START))
        self._events.write_event(began)

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """One line: {"stage", "step", name: value, …}; null is not finite, or not computed."""
        finite = {k: v if v is not None and v - v == 0 else None for k, v in metrics.items()}
        self._file.write(json.dumps({"stage": self.stage, "step": step} | finite) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if value is not None:
                self._events.write_event(Event(step=step, wall_time=time.time(), summary=scalar(name, value)))
        self._events.flush()

    def __exit__(self, *error: object) -> None:
        with self._file:  # which is closed also where closing the other fails
            self._events.close()
