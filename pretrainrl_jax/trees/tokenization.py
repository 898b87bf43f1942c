"""Text to tokens and back: BOS, EOS, terminators, and where a prefix ends and its branch begins."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pretrainrl_jax.errors import InputError

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
FILES = (
    *VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer with what models and templates must know of it."""

    backend: Any  # transformers.PreTrainedTokenizerBase
    bos: int | None  # put before every prefix if, and only if, the model's tokenizer adds it
    eos: tuple[int, ...]  # every id that ends a text; the first is the canonical one
    files: Mapping[str, bytes] = field(default_factory=dict)  # as read: they go with every copy of the model

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, no special tokens added."""
        return tuple(self.backend.encode(text, add_special_tokens=False))

    def encode_all(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text, no special tokens added: one call, much faster than many."""
        if not texts:
            return []
        return [tuple(ids) for ids in self.backend(list(texts), add_special_tokens=False)["input_ids"]]

    def encode_rendered(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of texts that spell control tokens, as a chat template writes them; none is added."""
        if not texts:
            return []
        return [tuple(ids) for ids in self.backend(list(texts), add_special_tokens=False)["input_ids"]]

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """What control tokens look like in a text that is to be rendered."""
        added = self.backend.added_tokens_decoder.values()
        return tuple({*self.backend.all_special_tokens, *(token.content for token in added if token.special)})

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special tokens left out."""
        return self.backend.decode(list(tokens), skip_special_tokens=True)

    @property
    def start(self) -> tuple[int, ...]:
        """What stands before every text: BOS or nothing."""
        return () if self.bos is None else (self.bos,)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(max(self.backend.get_vocab().values()), *self.eos, self.bos or 0) + 1

    @cached_property
    def newline(self) -> int:
        """The id of a line break alone: the canonical terminator under a few-shot template."""
        ids = self.encode("\n")
        if not ids:
            raise InputError("this tokenizer has no token for a line break: use the bare template")
        return ids[-1]

    @cached_property
    def has_newline(self) -> np.ndarray:
        """bool [tokenizer size]: tokens whose text contains a line break."""
        mask = np.zeros(self.size, bool)
        ids = sorted(self.backend.get_vocab().values())
        texts = self.backend.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
        mask[ids] = ["\n" in text for text in texts]
        return mask

    def save_files(self, folder: Path) -> None:
        """Write the tokenizer's files, byte for byte those it was read from."""
        if not self.files:
            self.backend.save_pretrained(str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, and the BOS and EOS ids that go with them."""
        self.save_files(folder)
        (folder / "special_ids.json").write_text(json.dumps({"bos": self.bos, "eos": self.eos}))


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer in a folder, with BOS and EOS as the model's files state them.

    EOS ids come from generation_config.json, then config.json; a tokenizer's own EOS may be a chat token and
    is used only where neither file is there. A folder written by `Tokenizer.save` states both itself.

    Raises:
        InputError: if the folder holds no tokenizer, or no EOS id is stated anywhere.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no tokenizer folder at {folder}: check the path")
    if not any((folder / name).is_file() for name in VOCABULARIES):  # transformers would make an empty one up
        raise InputError(f"no tokenizer in {folder}: it needs tokenizer.json or another vocabulary")
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        backend = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"no tokenizer can be read from {folder}: {str(error).splitlines()[0]}") from None
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    if (stated := folder / "special_ids.json").is_file():
        ids = json.loads(stated.read_text())
        return Tokenizer(backend, ids["bos"], tuple(ids["eos"]), files)
    eos = stated_eos(folder)
    if not eos and backend.eos_token_id is not None:
        eos = (backend.eos_token_id,)
    if not eos:
        raise InputError(f"no EOS id in {folder}: state eos_token_id in generation_config.json")
    probe = backend.encode("a")
    adds_bos = backend.bos_token_id is not None and probe[:1] == [backend.bos_token_id]
    return Tokenizer(backend, backend.bos_token_id if adds_bos else None, eos, files)


def stated_eos(folder: Path) -> tuple[int, ...]:
    """EOS ids from generation_config.json, else config.json, else none.

    Raises:
        InputError: if one of them is no JSON object.
    """
    for name in ("generation_config.json", "config.json"):
        if (path := folder / name).is_file():
            try:
                ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            except (ValueError, AttributeError) as error:
                raise InputError(f"cannot read {path}: {error}") from None
            if ids not in (None, []):
                return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()
