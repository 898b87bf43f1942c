"""Checkpoints and models in a bucket: fetched to a local folder for as long as they are read."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretrainrl_jax.errors import InputError


@contextmanager
def fetched(path: str | Path) -> Iterator[Path]:
    """`path` itself where it is local, else a temporary copy of what stands at the URL (gs://bucket/folder).

    Of a step's folder the files beside it are fetched too.

    Raises:
        InputError: if nothing stands there, or the package that reads such URLs is not installed.
    """
    if "://" not in str(path):
        yield Path(path)
        return
    import fsspec

    url = str(path).rstrip("/")
    try:
        files, remote = fsspec.core.url_to_fs(url)
        found = files.isdir(remote)
    except (ImportError, ValueError) as error:
        raise InputError(f"cannot read {url}: {error} (gs:// needs the extra `gcs`)") from None
    if not found:
        raise InputError(f"no folder at {url}: give a workdir, a stage, a step or a Hugging Face folder")
    with tempfile.TemporaryDirectory() as folder:
        stage, name = remote.rsplit("/", 1)
        local = Path(folder, "stage", name)
        if name.isdigit():
            files.get(f"{stage}/tokenizer", str(local.parent / "tokenizer"), recursive=True)
            files.get(f"{stage}/model.json", str(local.parent / "model.json"))
        files.get(remote, str(local), recursive=True)
        yield local
