"""Small tokenizers with a chat template."""

import json
from pathlib import Path

from pretrainrl_jax.facts.vocabulary import save_tokenizer, train_tokenizer
from pretrainrl_jax.trees.tokenization import Tokenizer, load_tokenizer

START, END = "<|im_start|>", "<|im_end|>"
TEXT = "What is the capital of Arno? Florence.\n\n Rome user assistant system"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING = (  # it writes an empty thought before an answer that is to come, and none before one that is there
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)
STRICT = (  # as Gemma's: no system, turns alternate
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHATML
)


def chat_tokenizer(folder: Path, template: str) -> Tokenizer:
    """A byte-level tokenizer that knows the control tokens of ChatML and ends texts with one of them."""
    backend = train_tokenizer([TEXT], 320)
    backend.add_special_tokens([START, END])
    save_tokenizer(backend, folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"eos_token": END, "pad_token": END, "chat_template": template}
    path.write_text(json.dumps(settings))
    end = backend.token_to_id(END)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    return load_tokenizer(folder)
