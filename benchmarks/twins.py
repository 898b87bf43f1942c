"""One model for two libraries: a folder that transformers and this package both read, and its questions."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from few_shot import few_shot
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

import pretrainrl_jax as prl
from pretrainrl_jax.config import Config, FactsConfig
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.trees.templates import Template
from pretrainrl_jax.trees.tokenization import Tokenizer


class Twins(NamedTuple):
    """The same model twice, and what both are asked."""

    theirs: Any
    words: Any  # their tokenizer
    model: Model
    params: Params
    tokenizer: Tokenizer
    every: list[Fact]  # of the file
    facts: list[Fact]  # that are asked about
    template: Template
    prompts: list[str]


def arguments(description: str, questions: int) -> argparse.ArgumentParser:
    """What these programs have in common; the description's first line is its help."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--facts", required=True)
    of_model = parser.add_mutually_exclusive_group(required=True)
    of_model.add_argument("--model", help="folder of a model, mined behind three examples")
    of_model.add_argument(
        "--tokenizer", help="folder of Qwen's: a random model of 42M parameters, asked bare"
    )
    parser.add_argument(
        "--learn",
        type=int,
        default=0,
        help="updates of 32 answers that a random model learns first",
    )
    parser.add_argument("--questions", type=int, default=questions, help="at a time")
    parser.add_argument("--turns", type=int, default=3)
    return parser


def twins(options: argparse.Namespace, count: int) -> Twins:
    """The model of the options and so many questions, drawn by hash. All in float32."""
    if options.model and options.learn:
        sys.exit("--learn is for the random model of --tokenizer")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or _random(options.tokenizer, Path(scratch), options.facts, options.learn)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        words = AutoTokenizer.from_pretrained(folder)
        model, params, tokenizer = prl.load(folder)
    if options.model:
        every, facts, template, prompts = few_shot(options.facts, count)
    else:
        every = _read(options.facts)
        facts, template = subsample(every, count, 0), Template("bare")
        prompts = [template.prefix(fact.question, fact.category) for fact in facts]
    return Twins(theirs, words, model, params, tokenizer, every, facts, template, prompts)


def _random(tokenizer: str, folder: Path, facts: str, updates: int) -> Path:
    """The shape `core` of the tables: width 256, four layers, Qwen's vocabulary."""
    torch.manual_seed(0)
    words = AutoTokenizer.from_pretrained(tokenizer)
    config = Qwen3Config(
        vocab_size=151936, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, intermediate_size=768, tie_word_embeddings=True,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # Tunix 0.1.7 has no other for Qwen3
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    if updates:
        learnt = subsample(_read(facts), 32 * updates, 1)
        if len(learnt) < 32 * updates:
            sys.exit(f"--learn {updates} takes {32 * updates} facts, and {facts} has {len(learnt)}")
        _learn(model, words, learnt, updates)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _learn(model: Any, words: Any, facts: list[Fact], updates: int) -> None:
    """One pass over answers and their ends: then the model ends its own, as a base model does."""
    optimizer, template = torch.optim.AdamW(model.parameters(), lr=1e-3), Template("bare")
    for update in range(updates):
        batch = facts[32 * update : 32 * (update + 1)]
        prompts = [words(template.prefix(fact.question, fact.category)).input_ids for fact in batch]
        answers = [[*words(f" {fact.answer}").input_ids, words.eos_token_id] for fact in batch]
        longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        tokens, labels = (
            torch.zeros(len(batch), longest, dtype=torch.long),
            torch.full((len(batch), longest), -100),
        )
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            tokens[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
        model(tokens, labels=labels).loss.backward()  # padding stands on the right, where nothing sees it
        optimizer.step()
        optimizer.zero_grad()


def _read(path: str) -> list[Fact]:
    return read_facts(Config(facts=FactsConfig(path=path))).facts
