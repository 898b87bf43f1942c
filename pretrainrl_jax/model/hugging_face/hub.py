"""Models of the Hugging Face hub."""

import re
from pathlib import Path

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.hugging_face.files import FILES
from pretrainrl_jax.progress import SILENT, Screen

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def download(name: str, option: str, screen: Screen = SILENT) -> Path:
    """The folder of a model of the hub, fetched unless it is cached.

    `option` is what named it, for messages. Raises InputError if it cannot be fetched.
    """
    if not HUB_ID.fullmatch(name):
        raise InputError(
            f"{option}={name}: no such folder, and no name of a model such as Qwen/Qwen3-8B-Base"
        )
    from huggingface_hub import snapshot_download

    screen.say(f"{name}: fetching it from the Hugging Face hub")
    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # of many kinds: no network, no such model, no permission
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{option}={name}: no such folder, and it cannot be fetched from the hub ({why}): check the "
            "name, the network, and HF_TOKEN for a model that asks for one"
        ) from None
