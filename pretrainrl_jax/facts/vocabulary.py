"""A tokenizer trained on the corpus, for worlds too small to need a published one."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> "Tokenizer":
    """A byte-level BPE tokenizer, as GPT-2's and Qwen's, learnt from the texts.

    At most `vocabulary` tokens: fewer where the texts hold no more to merge. Its one special token is
    "<|endoftext|>", which ends a text and is never added by itself. Any text survives encoding and decoding.
    The same texts give the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: "Tokenizer", folder: str | Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, which `transformers.AutoTokenizer` reads."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = "PreTrainedTokenizerFast"
    settings = {"tokenizer_class": kind, "eos_token": END, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
