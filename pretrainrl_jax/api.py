"""The package from Python, for notebooks and scripts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrainrl_jax.decoding.among import answers_among, known_answers
from pretrainrl_jax.decoding.answers import Answer, Sample, read_answer, read_sample
from pretrainrl_jax.decoding.decode import decode, sample_batch
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.objectives.scoring import score_answers, score_trees
from pretrainrl_jax.training import loading
from pretrainrl_jax.trees.templates import Template, encode_continuations, ends_at
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch


def load(path: str | Path, dtype: str = "") -> tuple[Model, Params, Tokenizer]:
    """Model, parameters and tokenizer of an Orbax checkpoint or a Hugging Face folder.

    Args:
        path: a workdir, a stage's folder, a step's folder, or a Hugging Face folder with safetensors;
            local, or gs:// with the extra `gcs`.
        dtype: "float32" or "bfloat16", of the parameters and of what is computed; empty takes them as they
            were saved.

    Raises:
        InputError: if there is nothing to load, or it is damaged.
    """
    if dtype not in ("", "float32", "bfloat16"):
        raise InputError(f"dtype is {dtype!r}: it must be 'float32', 'bfloat16' or empty")
    loaded = loading.load(path, dtype=dtype, params_dtype=dtype)
    return loaded.model, loaded.params, loaded.tokenizer


def beam_search(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    beams: int = 20,
    max_new_tokens: int = 16,
    newline_ends: bool = False,
    batch: int = 64,
    among: Sequence[str] | Sequence[Sequence[str]] | None = None,
) -> list[list[Answer]]:
    """The most probable continuations of each prompt, best first, unfinished ones last.

    With `among` nothing but the answers there can be decoded. Their log-probabilities are the model's own,
    as `score` gives them with a terminator, and not divided by what all of them have together. With as many
    beams as answers all of them come, in order; with fewer the best may be missed.

    Args:
        prompts: texts; BOS is added iff the model's tokenizer adds it. Spaces at the end belong to the
            answers, as in `score`.
        beams: beam width; 1 is greedy decoding.
        max_new_tokens: longest answer, terminator included; with `among` their own length counts instead.
        newline_ends: an answer also ends at a line break, as under a few-shot prompt.
        batch: prompts decoded at a time.
        among: the answers that are allowed: one list for all prompts, or one for each. A space comes before
            an answer that does not begin with whitespace.

    Returns:
        For each prompt its answers: Answer(text, tokens, logp, finished, token_logps, score). logp is the
        summed log-probability in nats of the tokens and, where finished, of all terminators together at
        their end, as `score` gives it; token_logps is what is summed. Beams are ranked by score, which
        counts the most probable terminator alone; with `among` by logp, and text is its entry, stripped.

    Raises:
        InputError: if a prompt has no tokens, a number is out of its range, a list in `among` is empty, or an
            answer in it is blank, or holds what ends an answer.
    """
    _check_texts("prompts", prompts)
    prompts = [prompt.rstrip(" ") or prompt for prompt in prompts]
    encoded = _prefixes(tokenizer, tokenizer.encode_all(prompts))
    terminators = ends_at(tokenizer, model.shape.vocabulary, newline=newline_ends)
    if among is not None:
        kinds, sets = _sets(among, len(prompts))
        if not prompts:
            return []
        known = known_answers(tokenizer, terminators, prompts, kinds, sets)
        batch = min(batch, len(prompts))
        return answers_among(model, params, tokenizer, prompts, kinds, known, beams=beams, batch=batch)
    decoded = decode(
        model,
        params,
        encoded,
        terminators,
        beams=beams,
        max_new_tokens=max_new_tokens,
        batch=min(batch, max(1, len(encoded))),
    )
    return [[read_answer(tokenizer, h) for h in beams] for beams in decoded]


def sample(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    samples: int = 16,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    newline_ends: bool = False,
    batch: int = 16,
) -> list[list[Sample]]:
    """Random continuations of each prompt. They depend on the seed and the prompt's place, not on `batch`.

    As in transformers, temperature comes first, then top-k, then top-p; tokens equally probable as the last
    one kept are all kept.

    Args:
        prompts: texts; BOS is added iff the model's tokenizer adds it.
        samples: how many to draw for each prompt.
        max_new_tokens: longest sample, terminator included.
        temperature: divides the logits; 0 is greedy decoding.
        top_p: draw from the smallest set of most probable tokens that has this probability; 1 is off.
        top_k: draw from this many most probable tokens; 0 is off.
        seed: of all randomness.
        newline_ends: a sample also ends at a line break, as under a few-shot prompt.
        batch: prompts decoded at a time.

    Returns:
        For each prompt its samples: Sample(text, tokens, logp, sampled_logp, finished, token_logps,
        sampled_token_logps). logp is the summed log-probability in nats of the model as it is, sampled_logp
        that of the distribution drawn from (0 at temperature 0); where finished both include the terminator
        that was drawn, whichever it was. The last two are what is summed.

    Raises:
        InputError: if a prompt has no tokens, or a number is out of its range.
    """
    _check_texts("prompts", prompts)
    encoded = _prefixes(tokenizer, tokenizer.encode_all(prompts))
    drawn = sample_batch(
        model,
        params,
        encoded,
        ends_at(tokenizer, model.shape.vocabulary, newline=newline_ends),
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        batch=min(batch, max(1, len(encoded))),
    )
    return [[read_sample(tokenizer, d) for d in samples] for samples in drawn]


def score(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    terminator: str | None = None,
    row_length: int = 512,
    rows: int = 8,
) -> list[float]:
    """Summed log-probability (nats) of each continuation after its prompt.

    Args:
        prompts: one text for each continuation. Whitespace at its end belongs to the continuation, as in the
            lm-evaluation-harness: tokens begin with a space, few end in one.
        continuations: the text that follows, its separator included (" Florence").
        terminator: "eos" or "newline" to score that it ends there, by any EOS id, or also by any token with
            a line break, as `beam_search` does; None scores the continuation alone.
        row_length: tokens a packed row holds; raised to the longest text.
        rows: rows scored at a time.

    Raises:
        InputError: if the two lists differ in length, or a prompt or a continuation has no tokens.
    """
    if terminator not in (None, "eos", "newline"):
        raise InputError(f"terminator is {terminator!r}: it must be 'eos', 'newline' or None")
    _check_texts("prompts", prompts)
    _check_texts("continuations", continuations)
    for name, number in (("row_length", row_length), ("rows", rows)):
        if number < 1:
            raise InputError(f"{name} is {number}: it must be 1 or more")
    if len(prompts) != len(continuations):
        raise InputError(f"{len(prompts)} prompts and {len(continuations)} continuations: give one for each")
    bare = [prompt.rstrip() or prompt for prompt in prompts]
    kept = zip(prompts, bare, continuations, strict=True)
    texts = [[prompt[len(stripped) :] + text] for prompt, stripped, text in kept]
    encoded = encode_continuations(tokenizer, bare, texts)
    prefixes = _prefixes(tokenizer, encoded.prefixes)
    template = Template("few_shot" if terminator == "newline" else "bare")
    ends = template.terminators(tokenizer, model.shape.vocabulary)
    end = () if terminator is None else (template.terminator(tokenizer),)
    trees = []
    for number, (prefix, (tokens,)) in enumerate(zip(prefixes, encoded.branches, strict=True)):
        if not tokens + end:
            raise InputError(f"continuation {number} has no tokens")
        trees.append(AnswerTree(str(number), prefix, (Branch(tokens + end),)))
    packing: dict[str, Any] = {"row_length": row_length, "rows": rows}
    if terminator is None:
        return [logp for (logp,) in score_trees(model, params, trees, **packing)]
    return [logp for ((_, logp),) in score_answers(model, params, trees, ends, **packing)]


def _check_texts(name: str, texts: Sequence[str]) -> None:
    """It is a list of texts. Raises InputError for one text, and naming what is no text or no Unicode."""
    if isinstance(texts, str):
        raise InputError(f"{name} is one text: give a list of texts")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{name}[{number}] is of type {type(text).__name__}: give a text")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError(f"{name}[{number}] holds half of a surrogate pair, which no tokenizer takes")


def _prefixes(tokenizer: Tokenizer, encoded: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Prompts with what stands before each. With nothing there, a first token would have no probability."""
    for number, ids in enumerate(encoded):
        if not tokenizer.start + ids:
            raise InputError(f"prompt {number} has no tokens, and this model's tokenizer adds no BOS")
    return [tokenizer.start + ids for ids in encoded]


def _sets(among: Sequence[Any], prompts: int) -> tuple[list[str], dict[str, list[str]]]:
    """Each prompt's kind, and the answers of each kind: one for all prompts, or equal lists are one kind.

    Raises InputError for what is neither a list of texts nor one for each prompt, and for an empty list.
    """
    shared = isinstance(among, str) or not len(among) or any(isinstance(entry, str) for entry in among)
    lists = [among] if shared else among
    if not shared and len(lists) != prompts:
        raise InputError(f"{prompts} prompts and {len(lists)} lists in among: give one for each, or one list")
    kinds: dict[tuple[str, ...], str] = {}
    for number, answers in enumerate(lists):
        name = "among" if shared else f"among[{number}]"
        if not isinstance(answers, Sequence):
            raise InputError(f"{name} is of type {type(answers).__name__}: give a list of texts")
        _check_texts(name, answers)
        if not answers:
            raise InputError(f"{name} is empty: give one answer at least")
        if blank := [place for place, text in enumerate(answers) if not text.strip()]:
            raise InputError(f"{name}[{blank[0]}] is blank: leave it out")
        kinds.setdefault(tuple(answers), name)
    own = [kinds[tuple(answers)] for answers in lists]
    return own * prompts if shared else own, {name: list(answers) for answers, name in kinds.items()}
