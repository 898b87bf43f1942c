"""One tiny model twice: as the harness's own transformers backend has it, and as ours."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import transformers
from helpers.models_and_trees import small_tokenizer
from lm_eval.models.huggingface import HFLM

from pretrainrl_jax.evaluation.harness import HarnessLM
from pretrainrl_jax.training.loading import Loaded, load
from pretrainrl_jax.trees.tokenization import Tokenizer

LENGTH = 160


class Twins(NamedTuple):
    """The model in both worlds."""

    torch_model: Any
    loaded: Loaded
    folder: Path

    def theirs(self, batch: int = 1, length: int = LENGTH) -> HFLM:
        """The harness's backend."""
        tokenizer = self.loaded.tokenizer.backend
        return HFLM(
            pretrained=self.torch_model,
            tokenizer=tokenizer,
            device="cpu",
            batch_size=batch,
            max_length=length,
        )

    def ours(self, length: int = LENGTH, tokenizer: Tokenizer | None = None, **engine: Any) -> HarnessLM:
        """Our engines."""
        return HarnessLM(
            self.loaded.model,
            self.loaded.params,
            tokenizer or self.loaded.tokenizer,
            max_length=length,
            **engine,
        )


def twins(folder: Path, family: str) -> Twins:
    """A random model, sure of its next token; Llama's tokenizer adds BOS, Qwen's has none."""
    tokenizer = small_tokenizer(folder, bos=family == "llama")
    settings = {
        "vocab_size": tokenizer.size + 3,  # an embedding may have rows without a token
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": LENGTH,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": list(tokenizer.eos),
        "pad_token_id": None,
    }
    kind = {"qwen3": "Qwen3", "llama": "Llama"}[family]
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0, 0.3) if "norm" in name else weight.normal_(0.0, 0.3)
        model.lm_head.weight.mul_(2.0)
        model.lm_head.weight[tokenizer.size :] = 0.0
    model.eval().save_pretrained(folder)
    return Twins(model, load(folder), folder)


def requests(arguments: list[tuple[Any, ...]]) -> list[Any]:
    """What the harness gives a model."""
    return [SimpleNamespace(args=request, task_name="") for request in arguments]


def greedy(twin: Twins, prompt: list[int], count: int) -> list[int]:
    """The torch model's most probable tokens after a prompt, one forward pass each."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(twin.torch_model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


QUESTIONS = [
    ("What is the capital of Arno?", ["Florence", "Rome", "the capital", "Arno"], 0),
    ("What is Rome?", ["the capital of Rome", "Florence", "Arno", "a"], 0),
    ("the capital of Florence is", ["Arno", "Rome. Rome", "What", "is"], 1),
    ("Is Arno Rome?", ["Florence", "Arno", "capital", "What is"], 3),
    ("of Florence", ["Rome", "Arno is", "the", "Florence"], 2),
    ("Rome", ["Rome is Rome", "Florence is Rome", "is", "Arno"], 1),
]
TASKS = {
    "capitals": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "fewshot_split": "test",
        "num_fewshot": 1,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    },
    "written": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[label]}}",
        "generation_kwargs": {"until": [".", " Ar"], "max_gen_toks": 48, "do_sample": False},
        "filter_list": [
            {
                "name": name,
                "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}],
            }
            for name, pattern in (("strict", "(^.*$)"), ("flexible", "([a-z]+)"))
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "rolled": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
        ],
    },
    "completed": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}} ",
        "doc_to_target": "{{choices[label]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
}


def write_tasks(folder: Path) -> Path:
    """Tasks of every kind in the harness's own YAML (JSON is YAML), with local data; and a group of two."""
    folder.mkdir(parents=True, exist_ok=True)
    # Each place among the choices is right once: whatever a model prefers, it is right now and then.
    rows = [
        {
            "question": question,
            "choices": choices[turn:] + choices[:turn],
            "label": label,
            "text": f"{question} {choices[label]}. " * (turn + 6),
        }
        for question, choices, label in QUESTIONS
        for turn in range(len(choices))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "none.jsonl").unlink(missing_ok=True)
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(folder / "rows.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "metadata": {"version": 2.0},
    }
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **task}))
    absent = {"data_files": {"test": str(folder / "none.jsonl")}, "cache_dir": str(folder / "cache")}
    (folder / "absent.yaml").write_text(
        json.dumps({"task": "absent", **common, **TASKS["capitals"], "dataset_kwargs": absent})
    )
    for name in ("first", "second"):
        (folder / f"{name}.yaml").write_text(
            json.dumps({"task": name, "tag": "ordinals", **common, **TASKS["capitals"]})
        )
    group = {
        "group": "both",
        "task": ["first", "second"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        "metadata": {"version": 1.0},
    }
    (folder / "both.yaml").write_text(json.dumps(group))
    return folder
