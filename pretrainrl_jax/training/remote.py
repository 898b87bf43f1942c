"""Checkpoints and models in a bucket: what is read of them, fetched for as long as it is read."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.hugging_face.files import FILES
from pretrainrl_jax.trees.tokenization import TEMPLATES


@contextmanager
def downloaded(path: str | Path) -> Generator[Path]:
    """`path` itself where it is local, else a temporary copy of the model at the URL (s3://bucket/folder).

    Of checkpoints at gs:// no copy is made: they are read where they are.

    Of a workdir and of a stage only the step that would be loaded is fetched, and of that no optimizer state.
    Raises InputError if nothing stands there, or the package that reads such URLs is not installed.
    """
    if "://" not in str(path):
        yield Path(path)
        return
    import fsspec

    url = str(path).rstrip("/")
    try:
        files, remote = fsspec.core.url_to_fs(url)
        exists = files.isdir(remote)
    except (ImportError, ValueError) as error:
        raise InputError(f"cannot read {url}: {error} (gs:// needs the extra `gcs`)") from None
    if not exists:
        raise InputError(f"no folder at {url}: give a workdir, a stage, a step or a Hugging Face folder")
    with tempfile.TemporaryDirectory() as folder:
        yield _fetch(files, remote, Path(folder))


def rank(stage: str, modified: Any) -> tuple[bool, Any]:
    """Of a workdir's stages the one of highest rank is its model: the system trained last, else the base."""
    return stage != "pretrain", modified


def _fetch(files: Any, remote: str, folder: Path) -> Path:
    if files.isdir(f"{remote}/checkpoints"):  # a workdir
        described = [p for p in files.find(f"{remote}/checkpoints") if p.endswith("/model.json")]
        stages = {p.removesuffix("/model.json"): files.modified(p) for p in described}
        remote = max(stages, key=lambda stage: rank(stage.rsplit("/", 1)[-1], stages[stage]), default=remote)
    above, _, step = remote.rpartition("/")
    if step.isdigit():
        remote = above
    else:
        steps = _names(files, remote) if files.isfile(f"{remote}/model.json") else []
        step = max(filter(str.isdigit, steps), key=int, default="")
    local = folder / "model"
    (local / step).mkdir(parents=True)
    if not step:  # of a Hugging Face folder, the files that are read
        for name in _names(files, remote):
            if name == TEMPLATES or any(fnmatch(name, pattern) for pattern in FILES):
                files.get(f"{remote}/{name}", str(local / name), recursive=name == TEMPLATES)
        return local
    files.get(f"{remote}/tokenizer", str(local / "tokenizer"), recursive=True)
    files.get(f"{remote}/model.json", str(local / "model.json"))
    for name in _names(files, f"{remote}/{step}"):
        if name != "training":
            source = f"{remote}/{step}/{name}"
            files.get(source, str(local / step / name), recursive=files.isdir(source))
    return local / step


def _names(files: Any, folder: str) -> list[str]:
    return [path.rstrip("/").rsplit("/", 1)[-1] for path in files.ls(folder, detail=False)]
