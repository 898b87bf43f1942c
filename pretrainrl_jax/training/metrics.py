"""Where training figures go: metrics.jsonl, one JSON object a line, and TensorBoard events."""

import json
from pathlib import Path
from types import TracebackType

from pretrainrl_jax.atomic import write_text


class MetricsWriter:
    """Appends a stage's figures to `metrics.jsonl` and to TensorBoard events under `tensorboard/<stage>`.

    Lines of the same stage from an earlier run that lie after `start` are removed first, so a stage
    that starts again leaves no step twice.
    """

    def __init__(self, workdir: Path, stage: str, start: int = 0) -> None:
        from tensorboardX import SummaryWriter

        self.stage = stage
        path = workdir / "metrics.jsonl"
        if path.is_file():
            lines = path.read_text().splitlines(keepends=True)
            # A run that was killed may have left half a line at the end.
            whole = [(x, json.loads(x)) for x in lines if x.endswith("\n")]
            kept = [x for x, values in whole if values["stage"] != stage or values["step"] <= start]
            write_text(path, "".join(kept))
        self._file = path.open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard" / stage), purge_step=start + 1)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """One line: {"stage", "step", name: value, …}; a figure that is not finite is written as null."""
        finite = {k: v if v - v == 0 else None for k, v in figures.items()}
        self._file.write(json.dumps({"stage": self.stage, "step": step} | finite) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._events.add_scalar(name, value, step)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._events.close()
