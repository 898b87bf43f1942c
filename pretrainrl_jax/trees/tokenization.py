"""Text to tokens and back: BOS, EOS, terminators, and where a prefix ends and its branch begins."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pretrainrl_jax.errors import InputError

CONFIG = "config.json"  # of the model: transformers takes the class of its tokenizer for its architecture
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
TEMPLATES = "additional_chat_templates"  # a folder, of more than one chat template
FILES = (
    *VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "tekken.json", CONFIG,
)  # fmt: skip

SEAM = 8  # tokens before a continuation that its text is read with: a first space, half a character


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer with what models and templates must know of it."""

    backend: Any  # transformers.PreTrainedTokenizerBase
    bos: int | None  # put before every prefix if, and only if, the model's tokenizer adds it
    eos: tuple[int, ...]  # every id that ends a text; the first is the canonical one
    files: Mapping[str, bytes] = field(default_factory=dict)  # as read: they go with every copy of the model

    def copy(self) -> "Tokenizer":
        """The same for another thread: a backend refuses two at once ("Already borrowed")."""
        return replace(self, backend=deepcopy(self.backend))

    def without_end(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens of a text without one that ends it."""
        return tokens[:-1] if tokens and tokens[-1] in self.eos else tokens

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, which is plain: "</s>" in it is four characters. No special token is added.

        Raises InputError if this tokenizer has no other way to write a part of it than a control token.
        """
        ids = self.backend.encode(text, add_special_tokens=False, split_special_tokens=True)
        return self._without_control(text, tuple(ids))

    def encode_all(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """`encode` of each text: one call, much faster than many."""
        if not texts:
            return []
        encoded = self.backend(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [self._without_control(text, tuple(ids)) for text, ids in zip(texts, encoded, strict=True)]

    def encode_rendered(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of texts that a chat template or a harness wrote: control tokens in them are meant.

        Never give it what users' data hold as it is: a control token's name in it would become that token.
        """
        if not texts:
            return []
        return [tuple(ids) for ids in self.backend(list(texts), add_special_tokens=False)["input_ids"]]

    def _without_control(self, text: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        if not self.control.isdisjoint(ids):
            token = self.backend.convert_ids_to_tokens(next(i for i in ids if i in self.control))
            shown = text if len(text) <= 60 else f"{text[:60]}…"
            raise InputError(
                f"the text {shown!r} holds {token!r}, a control token that this tokenizer cannot write as "
                "plain text: leave it out, or choose another tokenizer"
            )
        return ids

    @cached_property
    def control(self) -> frozenset[int]:
        """Ids that no text may become: BOS, EOS, padding, chat tokens; not the one for unknown characters."""
        added = self.backend.added_tokens_decoder
        ends = {self.bos, *self.eos, self.backend.bos_token_id, self.backend.eos_token_id}
        special = {i for i, token in added.items() if token.special} | {*self.backend.all_special_ids}
        unknown = {self.backend.unk_token_id} - ends  # GPT-2's is its EOS
        return frozenset(special - unknown | (ends & added.keys()))

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

    @cached_property
    def used(self) -> frozenset[int]:
        """The ids that stand in what a model reads or writes: of texts, BOS and EOS.

        Facts are text: an added control token is never made of them.
        """
        added = self.backend.added_tokens_decoder.items()
        control = {number for number, token in added if token.special}
        return frozenset({*self.backend.get_vocab().values()} - control | {*self.start, *self.eos})

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
        """Write the tokenizer's files, byte for byte those it was read from; none of the model's own."""
        if not self.files:
            self.backend.save_pretrained(str(folder))
        for name in self.files.keys() - {CONFIG}:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(self.files[name])

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, and the BOS and EOS ids that go with them."""
        self.save_files(folder)
        if CONFIG in self.files:
            (folder / CONFIG).write_bytes(self.files[CONFIG])
        (folder / "special_ids.json").write_text(json.dumps({"bos": self.bos, "eos": self.eos}))


def tokenizer_folder(*folders: str) -> str:
    """The first of the folders that holds a vocabulary; "" where none does. Blank ones are left out."""
    there = (f for f in folders if f and any((Path(f) / name).is_file() for name in VOCABULARIES))
    return next(there, "")


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer in a folder, with BOS and EOS as the model's files state them.

    EOS ids come from generation_config.json, then config.json; a tokenizer's own EOS may be a chat token and
    is used only where neither file is there. A folder written by `Tokenizer.save` states both itself. Raises
    InputError if the folder holds no tokenizer, or no EOS id is stated anywhere.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no tokenizer folder at {folder}: check the path")
    if not tokenizer_folder(str(folder)):  # transformers would make an empty one up
        raise InputError(f"no tokenizer in {folder}: it needs tokenizer.json or another vocabulary")
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        backend = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of many kinds
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"no tokenizer can be read from {folder}: {why}") from None
    templates = [str(path.relative_to(folder)) for path in sorted((folder / TEMPLATES).glob("*.jinja"))]
    files = {n: (folder / n).read_bytes() for n in (*FILES, *templates) if (folder / n).is_file()}
    if (stated := folder / "special_ids.json").is_file():
        try:
            ids = json.loads(stated.read_text())
            return Tokenizer(backend, ids["bos"], tuple(ids["eos"]), files)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{stated} is damaged: it names a checkpoint's BOS and EOS ids") from None
    eos = stated_eos(folder)
    if not eos and backend.eos_token_id is not None:
        eos = (backend.eos_token_id,)
    if not eos:
        raise InputError(f"no EOS id in {folder}: state eos_token_id in generation_config.json")
    probe = backend.encode("a")
    adds_bos = backend.bos_token_id is not None and probe[:1] == [backend.bos_token_id]
    return Tokenizer(backend, backend.bos_token_id if adds_bos else None, eos, files)


def stated_eos(folder: Path) -> tuple[int, ...]:
    """EOS ids from generation_config.json, else config.json, or none; InputError if one has others."""
    for name in ("generation_config.json", "config.json"):
        if (path := folder / name).is_file():
            try:
                ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            except (ValueError, AttributeError) as error:
                raise InputError(f"cannot read {path}: {error}") from None
            if ids not in (None, []):
                stated = tuple(ids) if isinstance(ids, list) else (ids,)
                if not all(type(i) is int and i >= 0 for i in stated):
                    raise InputError(f"{path}: eos_token_id is {ids!r}: write an id, or a list of ids")
                return stated
    return ()


def text_after(tokenizer: Tokenizer, prefix: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that tokens add to a prefix's, its first space included."""
    seam = list(prefix[-SEAM:])
    before, both = tokenizer.decode(seam), tokenizer.decode([*seam, *tokens])
    return both[len(before) :] if both.startswith(before) else tokenizer.decode(tokens)


def tokens_after(tokenizer: Tokenizer, prefix: Sequence[int], text: str) -> tuple[int, ...]:
    """The tokens of a text that continues a prefix; apart from it where the two do not join.

    Raises InputError as `Tokenizer.encode` does.
    """
    own = tuple(prefix[len(tokenizer.start) :])
    joint = tokenizer.encode(tokenizer.decode(own) + text)
    if own and joint[: len(own)] == own:
        return joint[len(own) :]
    return tokenizer.encode(text)
