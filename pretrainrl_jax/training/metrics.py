"""Where training metrics go: metrics.jsonl, one JSON object a line, and TensorBoard events.

To an object in a bucket nothing can be appended: there both are written on this machine, and uploaded.
"""

import json
import logging
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboardX.summary import scalar

from pretrainrl_jax.atomic import disk_errors, write_text
from pretrainrl_jax.storage import in_bucket, upload

UPLOADED = 30.0  # seconds between uploads to a bucket, and before each checkpoint


class MetricsWriter(AbstractContextManager["MetricsWriter", None]):
    """Appends a stage's metrics to `metrics.jsonl` and to TensorBoard events under `tensorboard/<stage>`.

    Lines of the same stage from an earlier run that lie after `start` are removed first, all of them where
    it starts from nothing, so a stage that starts again leaves no step twice.
    """

    def __init__(self, workdir: Path, stage: str, start: int = 0) -> None:
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # warns of each value not finite
        self.stage = stage
        self._workdir, self._published = workdir, time.monotonic()
        self._spool = tempfile.TemporaryDirectory() if in_bucket(workdir) else None
        written = Path(self._spool.name) if self._spool else workdir
        path = workdir / "metrics.jsonl"
        if path.is_file():
            lines = path.read_bytes().decode("utf-8", "replace").splitlines(keepends=True)

            def stays(line: str) -> bool:
                try:
                    values = json.loads(line)
                    return line.endswith("\n") and (values["stage"] != stage or values["step"] <= start > 0)
                except (ValueError, KeyError, TypeError):
                    return False  # a machine that went down may have left half a line, or bytes of no text

            write_text(written / path.name, "".join(filter(stays, lines)))
        self._file = (written / path.name).open("a")
        folder = written / "tensorboard" / stage
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
        if time.monotonic() - self._published > UPLOADED:
            self._published = time.monotonic()
            with suppress(OSError):  # a checkpoint wants it, and says so
                self.publish()

    def publish(self) -> None:
        """Let what was written be where the workdir is, from now on. Raises OSError if it cannot be."""
        if self._spool:
            with disk_errors():
                upload(Path(self._spool.name), self._workdir)
        self._published = time.monotonic()

    def __exit__(self, *error: object) -> None:
        with self._file:  # which is closed also where closing the other fails
            self._events.close()
        if self._spool:
            with self._spool:  # which is removed also where the bucket cannot be reached
                self.publish()
