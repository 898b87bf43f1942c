"""Self-contained Orbax checkpoints: parameters as an item of their own, and all it takes to use them.

<stage>/model.json            shape of the model, how questions are put to it
<stage>/tokenizer/            tokenizer files, BOS and EOS ids
<stage>/<step>/params         parameters, float32: all, or adapters alone, of the model that model.json names
<stage>/<step>/training       optimizer state, absent from a finished stage
<stage>/<step>/about          progress, the settings and data it depends on, checksums of the parameters
"""

import errno
import json
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from pretrainrl_jax.atomic import disk_errors, write_json
from pretrainrl_jax.config import CheckpointConfig
from pretrainrl_jax.config.stored import shown_differences, upgraded
from pretrainrl_jax.errors import InputError, first_line
from pretrainrl_jax.hosts.agree import gather, run_on_process_0
from pretrainrl_jax.model.checksums import checksums
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.shape import to_json
from pretrainrl_jax.storage import in_bucket, names_in, probe, remove_tree, spooled, unreachable
from pretrainrl_jax.training.step import TrainState
from pretrainrl_jax.trees.templates import Template
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.version import STAMP, check_format

Json = dict[str, Any]
PIECE = 32 << 20  # bytes of a parameter's file, at most: who needs a part of it does not read all of it
WHOLE = "commit_success.txt"  # Orbax writes it last
READ_AT_ONCE = 1  # GB: what a restore holds beside the parameters


def describe(
    folder: Path,
    model: Model,
    tokenizer: Tokenizer,
    template: Template,
    origin: Json | None = None,
    base: Json | None = None,
) -> None:
    """Write what stands beside a stage's parameters.

    `template` is how it is asked, `origin` what the Hugging Face model it comes from says of itself, `base`
    which model adapters are for: its stage or path, dtype and digest.
    """
    adapter = {"adapter": asdict(model.shape.lora) | {"base": base}} if model.shape.lora else {}

    def write() -> None:
        with spooled(folder / "tokenizer") as files:
            tokenizer.save(files)
            if in_bucket(folder):  # Orbax removes what looks like a step that is not written to its end
                (files / WHOLE).write_text("complete")
        # Last, since a stage's folder is one that has this file.
        about = {"shape": to_json(model.shape), "template": template.to_json(), "origin": origin or {}}
        write_json(folder / "model.json", STAMP | about | adapter)

    run_on_process_0(write, f"describing {folder.name}")


@dataclass(frozen=True)
class Progress:
    """How far training is, beside the state itself."""

    row: int = 0  # of the packed rows, the next one to train on
    seconds: float = 0.0  # spent on steps
    skipped: int = 0  # steps left out because something was not finite
    loss: float = math.inf  # mean since the checkpoint before
    score: float = math.inf  # of the state itself, where it was evaluated; the lowest is the best
    stream: Json = field(default_factory=dict)  # where a stream of documents stands, which has no row index


BEGINNING = Progress()


@dataclass(frozen=True)
class Saver:
    """Writes a stage's checkpoints while training goes on; opened by `saving`."""

    _folder: Path
    _manager: ocp.CheckpointManager
    _about: Json
    _detail: Callable[[str], None]

    def save(self, state: TrainState, progress: Progress) -> None:
        """Begin to write a checkpoint: returns once the state has left the device, the rest goes on beside.

        Raises OSError if this one or the one before cannot be written.
        """
        self._write(state, progress, {"training": {"step": state.step, "moments": state.opt_state}})

    def finish(self, state: TrainState, progress: Progress = BEGINNING) -> None:
        """Write the parameters of a finished stage; returns when all is written. Raises OSError as `save`."""
        self._write(state, progress, {})
        self.wait()

    def wait(self) -> None:
        """Return when all is written; raises OSError if it cannot be."""
        with disk_errors():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def choose(self, say: Callable[[str], None]) -> None:
        """Remove the checkpoints after the one of the lowest score, which becomes the stage's result."""
        self.wait()
        steps = self._manager.all_steps()
        best = min(steps, key=lambda step: (_about(self._folder, step, "score"), -step))
        self._delete_after(best)
        say(f"{self._folder.name}: of the evaluated steps, {best} is the best and is kept")

    def _write(self, state: TrainState, progress: Progress, items: Json) -> None:
        step = int(state.step)
        if step in self._manager.all_steps():
            if not math.isfinite(progress.score):
                return  # what this run saved, or went on from: `restore_state` leaves none that is not whole
            # It was stopped before it was evaluated; or it is being written, for another reason than this.
            self.wait()
            self._manager.delete(step)
        about = self._about | STAMP | {"step": step, "finished": not items, "progress": asdict(progress)}
        about["checksums"] = checksums(state.params)
        with disk_errors():
            self._delete_after(step)  # those of a run that is not gone on with
            params = ocp.args.PyTreeSave(state.params, _pieces(state.params))
            more = {name: ocp.args.StandardSave(value, _pieces(value)) for name, value in items.items()}
            args = ocp.args.Composite(params=params, about=ocp.args.JsonSave(about), **more)
            self._manager.save(step, args=args, force=True)
        self._detail(f"checkpoint {self._folder.name}: step {step}")

    def _delete_after(self, step: int) -> None:
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)


def _pieces(tree: Any) -> Any:
    return jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=PIECE), tree)


@contextmanager
def saving(
    folder: Path,
    settings: CheckpointConfig,
    about: Json | None = None,
    detail: Callable[[str], None] = lambda text: None,
    best: str = "loss",
) -> Generator[Saver]:
    """Open a stage's folder for checkpoints; what is being written is finished on leaving.

    `about` is what the checkpoints depend on, as `restore_state` compares it; `best` the field of `Progress`
    by which `settings.keep_best` are chosen.
    """
    keep = [policies.LatestN(settings.keep), _Best(folder, best, settings.keep_best)]
    policy = policies.AnyPreservationPolicy(keep)
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, cleanup_tmp_directories=True)
    with disk_errors():
        manager = open_manager(folder, options)
    saver = Saver(folder, manager, about or {}, detail)
    try:
        yield saver
        saver.wait()
    finally:
        with suppress(Exception):  # what could not be written was already said, or is less than what was
            manager.close()


@dataclass(frozen=True)
class _Best(policies.PreservationPolicy):
    """Keeps the `number` checkpoints of lowest loss or score, also those that an earlier process saved."""

    folder: Path
    field: str
    number: int

    def should_preserve(
        self, checkpoints: Sequence[policies.PolicyCheckpointInfo], *, context: policies.PreservationContext
    ) -> Sequence[bool]:
        best = sorted((c.step for c in checkpoints), key=lambda s: _about(self.folder, s, self.field))
        return [c.step in best[: self.number] for c in checkpoints]


def _about(folder: Path, step: int, field: str) -> float:
    """What a checkpoint says of the progress; infinite where it says nothing."""
    try:
        about = json.loads((folder / str(step) / "about" / "metadata").read_text())
        return about["progress"][field]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):  # being written, damaged, or older
        return math.inf


def open_manager(folder: Path, options: ocp.CheckpointManagerOptions | None = None) -> ocp.CheckpointManager:
    """Orbax's manager of a stage's folder.

    Parameters, which hardly compress, are written as they are, each in files of its own: much faster than
    into one compressed database. A lost file reads as zeros then, which their checksums find.
    """
    as_is: Any = {"use_ocdbt": False, "use_compression": False}
    handlers = {
        "params": ocp.PyTreeCheckpointHandler(**as_is, restore_concurrent_gb=READ_AT_ONCE),
        "training": ocp.StandardCheckpointHandler(restore_concurrent_gb=READ_AT_ONCE),
        "about": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers)


def restoring(target: Any) -> ocp.args.PyTreeRestore:
    """How to read arrays of the target's shapes and dtypes, each placed as its sharding says."""
    return ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))


def strip(folder: Path) -> None:
    """Remove what only an unfinished stage needs: optimizer states, and checkpoints that were set aside."""
    for scrap in [*folder.glob("*/training"), *folder.glob("*.damaged")]:
        remove_tree(scrap)


def save(folder: Path, state: TrainState) -> None:
    """Write the parameters of a finished stage, as its only checkpoint; raises OSError as `Saver` does."""
    with saving(folder, CheckpointConfig(keep=1, keep_best=0)) as saver:
        saver.finish(state)


def steps_of(folder: Path) -> list[int]:
    """The steps saved in a stage's folder, the last one first."""
    # In a bucket a step has its name from the beginning.
    named = sorted((int(name) for name in names_in(folder) if name.isdigit()), reverse=True)
    return [step for step in named if not in_bucket(folder) or WHOLE in names_in(folder / str(step))]


def _half_written(folder: Path) -> list[int]:
    """The steps that a run was writing when it was stopped."""
    names = names_in(folder)
    partial = [name.partition(".")[0] for name in names if ".orbax-checkpoint-tmp" in name]
    begun = {int(name) for name in names if name.isdigit()} - {*steps_of(folder)}
    return sorted(begun | {int(step) for step in partial if step.isdigit()})


def latest_step(folder: Path) -> int | None:
    return next(iter(steps_of(folder)), None)


def restore_state(
    folder: Path, like: TrainState, about: Json | None = None, say: Callable[[str], None] = lambda text: None
) -> tuple[TrainState, Progress] | None:
    """The newest training state in a stage's folder that is whole, placed as `like` is; None without one.

    A damaged or half-written checkpoint is passed over, and that is said; a damaged one is renamed, so that
    training can save that step again. The optimizer's state of a finished stage is `like`'s: nothing is
    left to train. Raises InputError, with the differences, if it is of other settings or data than `about`.
    """
    for step in run_on_process_0(lambda: _half_written(folder), f"looking at {folder.name}"):
        say(f"the checkpoint of step {step} was not written to its end, and is passed over")
    for step in run_on_process_0(lambda: steps_of(folder), f"looking for checkpoints of {folder.name}"):
        restored, why = None, None
        try:
            restored = _restore(folder, step, like, about or {})
        except InputError:
            raise
        except Exception as error:  # what a damaged file raises depends on where it is damaged
            unread = why_unread(folder / str(step), error)
            why = [bool(unread), unread or reason(error)]
        # A process may find damage where another one, which reads other parts, finds none.
        reasons = list(filter(None, gather(why, f"restoring step {step}")))
        if not reasons:
            return restored
        if unreadable := [text for is_unread, text in reasons if is_unread]:
            raise OSError(errno.EIO, f"{folder / str(step)} cannot be read: {unreadable[0]}")
        say(f"the checkpoint of step {step} is damaged, and is passed over ({reasons[0][1]})")
        run_on_process_0(lambda step=step: _set_aside(folder, step), f"setting step {step} aside")
    return None


def _set_aside(folder: Path, step: int) -> None:
    aside = folder / f"{step}.damaged"
    remove_tree(aside)
    (folder / str(step)).rename(aside)


def _restore(folder: Path, step: int, like: TrainState, wanted: Json) -> tuple[TrainState, Progress]:
    shapes: TrainState = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    items: Json = {"params": restoring(shapes.params)}
    with open_manager(folder) as manager:
        # First, since another run's arrays may not even have these shapes.
        about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        check_format(folder / str(step), about)
        before = upgraded(about)
        if differ := shown_differences({name: before.get(name) for name in wanted}, wanted):
            raise InputError(
                f"the checkpoint {folder / str(step)} is of another run: {differ}. Choose another --workdir, "
                "or remove that folder"
            )
        if not about["finished"]:
            # "moments" is its name on disk.
            items["training"] = ocp.args.StandardRestore({"step": shapes.step, "moments": shapes.opt_state})
        restored = manager.restore(step, args=ocp.args.Composite(**items))
    params, progress = restored["params"], Progress(**about["progress"])
    refuse_damaged(about, params)
    if about["finished"]:
        return TrainState(jnp.full_like(like.step, step), params, like.opt_state), progress
    return TrainState(restored["training"]["step"], params, restored["training"]["moments"]), progress


def why_unread(step: Path, error: Exception) -> str:
    """Why a step in a bucket cannot be read now, though it may be whole; "" for one that is damaged.

    To TensorStore an array's file that may not be read is one that is not there, and reads as zeros.
    """
    if not in_bucket(step):
        return ""
    if unreachable(error):
        return reason(error)
    try:
        probe(step)
    except Exception as found:  # of several packages
        return first_line(found) if unreachable(found) else ""
    return ""


def refuse_damaged(about: Json, params: Params) -> None:
    """Raises ValueError if parameters are not those that were saved."""
    if about["checksums"] != checksums(params):
        raise ValueError("its parameters are not those that were saved")


def reason(error: Exception) -> str:
    """The first words of what a library says of a damaged file."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line.partition(". ")[0][:120]
