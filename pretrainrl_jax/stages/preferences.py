"""A run on preferences: the pairs of a file as trees with references, and how well a model tells them apart.

What of a run on facts is `mine` and `evaluate`. Training is the same.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.preferences import measures, pair_scores
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.mining.fingerprint import made_by, short_digest
from pretrainrl_jax.preferences.reading import Preferences
from pretrainrl_jax.preferences.record import key, shown, split
from pretrainrl_jax.preferences.rows import RULES
from pretrainrl_jax.preferences.trees import Built, build
from pretrainrl_jax.stages.context import Context, read_json, stage_of
from pretrainrl_jax.stages.evaluate import mean_nll, text_nll
from pretrainrl_jax.stages.mine import Mined
from pretrainrl_jax.stages.shards import score_in_parts, with_references
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.dataset import Visit, in_turn
from pretrainrl_jax.trees.records import read_trees
from pretrainrl_jax.trees.tree import AnswerTree, Branch

Json = dict[str, Any]
TRAINED, HELD_OUT = "trees", "held_out"  # files in mined/
EXAMPLES = 100  # pairs whose texts are kept for the report
LENGTH = 300  # characters of such a text


def make_trees(context: Context, base: Loaded) -> Mined:
    """The file's pairs as trees, each answer scored once by the base model."""
    settings, train = context.config.preferences, context.config.train
    how = base.tokenizer, train.row_length, train.layout, settings.control_tokens
    trained, held_out = split(preferred(context).comparisons, settings.holdout_every)
    made = {TRAINED: build(trained, *how), HELD_OUT: build(held_out, *how)}
    described = statistics(context, made)
    for line in lines(described, made):
        context.screen.say(f"preferences: {line}")
    if not made[TRAINED].trees:
        raise InputError(f"no pair of {settings.path} is left to train on: the lines above say why")
    stamp, scored = made_with(context, base), dict[str, list[AnswerTree]]()
    for name, built in made.items():
        if built.trees:
            label = f"mine/{name}/reference"
            scores = score(context, base, built.trees, context.parts("mine") / name, stamp, label, "trees")
            scored[name] = with_references(built.trees, scores)
    notes = {"pairs": described["pairs"]}
    return Mined(scored[TRAINED], described, notes, stamp, held_out=scored.get(HELD_OUT, []))


def score(
    context: Context, loaded: Loaded, trees: Sequence[AnswerTree], folder: Path, made_with: Json, *told: str
) -> list[list[float]]:
    """The log-probability of every branch of each tree; an interrupted run goes on from its parts."""

    def work(part: list[AnswerTree], advance: Callable[[int], None]) -> list[list[float]]:
        return context.score(loaded, part, context.config.train.row_length, advance)

    return score_in_parts(context, folder, made_with, trees, work, *told)


def preferred(context: Context) -> Preferences:
    """What was read; a run on facts has none."""
    assert context.preferences is not None
    return context.preferences


def statistics(context: Context, made: dict[str, Built]) -> Json:
    """What is left of the file, and what was left out by which rule."""
    read = preferred(context)
    dropped = Counter(row.rule for row in read.dropped) + read.left_out
    for built in made.values():
        dropped += built.dropped
    trees = [tree for built in made.values() for tree in built.trees]
    return {
        "rows": read.rows,
        "prompts": len({tree.id.partition("/")[0] for tree in trees}),
        "held_out": len({tree.id.partition("/")[0] for tree in made[HELD_OUT].trees}),
        "pairs": sum(len(tree.preferences) for tree in trees),
        "held_out_pairs": sum(len(tree.preferences) for tree in made[HELD_OUT].trees),
        "columns": dict(read.columns),
        "unused": list(read.unused),
        "repeated": read.repeated,
        "both_ways": read.both_ways,
        "cut": sum(built.cut for built in made.values()),
        "split": sum(built.split for built in made.values()),
        "dropped": {rule: dropped[rule] for rule in RULES if dropped[rule]},
    }


def lines(described: Json, made: dict[str, Built]) -> list[str]:
    """What a terminal shows before anything is scored."""
    used = ", ".join(f"{what} {column}" for what, column in described["columns"].items() if column)
    told = [
        f"{described['rows']} rows, columns: {used}",
        f"{described['pairs']} pairs of {described['prompts']} prompts, of which "
        f"{described['held_out_pairs']} of {described['held_out']} are held out",
    ]
    why = {rule: why for built in made.values() for rule, why in built.examples.items() if why}
    for rule, number in described["dropped"].items():
        told.append(f"left out: {number} {rule} ({RULES[rule]}{f': {why[rule]!r}' if rule in why else ''})")
    return told


def made_with(context: Context, base: Loaded) -> Json:
    """Short digests of all that the trees and their references depend on."""
    settings, train = context.config.preferences, context.config.train
    return made_by(base.model, base.params, base.tokenizer, base.identity) | {
        "chat template": short_digest(base.tokenizer.backend.chat_template),
        "preferences": pairs_digest(context),
        "settings": {
            "preferences.holdout_every": settings.holdout_every,
            "preferences.control_tokens": settings.control_tokens,
            "train.row_length": train.row_length,
            "train.layout": train.layout,
        },
    }


def pairs_digest(context: Context) -> str:
    return short_digest(
        [
            (comparison.id, [(key(p.chosen), key(p.rejected), p.rows) for p in comparison.pairs])
            for comparison in preferred(context).comparisons
        ]
    )


def check_pairs(context: Context) -> None:
    """Raise InputError if the stored trees are of other pairs than the file's: it was changed since."""
    folder = context.workdir / "mined"
    if not (stamp := read_json(folder / "fingerprint.json")):
        raise InputError(f"{context.workdir} has no finished mine: run `mine` with this workdir first")
    if stamp["made_with"].get("preferences") != pairs_digest(context):
        raise InputError(
            f"{context.config.preferences.path} holds other pairs than those of {folder}: "
            "give it as it was, or make a workdir of its own for it"
        )


def known_true(context: Context, trees: Sequence[AnswerTree]) -> list[str]:
    """None: what is rejected is what the file rejects."""
    return []


def visit(context: Context, trees: Sequence[AnswerTree]) -> Visit:
    """A prompt's trees in turn; a file's pairs are all seen in each pass."""
    return in_turn(trees)


def name_of(context: Context) -> Callable[[AnswerTree], str]:
    """What a tree is called in messages: the beginning of its prompt."""
    prompts = {comparison.id: comparison.prompt for comparison in preferred(context).comparisons}
    return lambda tree: repr(shown(prompts[tree.id.partition("/")[0]], 80))


def measure(context: Context, system: str) -> tuple[Json, str]:
    """Which answer of each pair held out a model prefers, and by how much; loss on text; and a line of it."""
    check_pairs(context)
    loaded = context.load(stage_of(system))
    path = context.workdir / "mined" / f"{HELD_OUT}.array_record"
    is_held_out = run_on_process_0(path.is_file, f"looking for {path.name}")
    trees = read_trees(path if is_held_out else path.with_stem(TRAINED))
    if system == "base":  # whose log-probabilities are known
        scores = [[float(branch.reference_logp) for branch in tree.branches] for tree in trees]  # type: ignore[arg-type]
    else:
        stage = f"evaluate/{system}"
        made = made_by(loaded.model, loaded.params, loaded.tokenizer, loaded.identity)
        scores = score(context, loaded, trees, context.parts(stage), made, stage, "prompts")
    pairs = pair_scores(trees, scores)
    measured = measures(pairs)
    nll = text_nll(context, loaded, context.texts)
    if not context.texts:
        nll = mean_nll(context, loaded, [as_text(tree) for tree in trees])
    result: Json = {
        "text_nll": nll,
        "text": context.config.evaluate.text or "prompts with their chosen answers",
        "of": "held_out" if is_held_out else "trained",
        "scores": [list(pair) for pair in pairs],
        "examples": examples(context, loaded, trees),
    }
    kind = "held-out" if is_held_out else "trained"
    gained = "" if system == "base" else f", margin {measured['margin']:+.2f} nats over the base model's"
    return result | measured, (
        f"prefers the chosen answer in {measured['preference_accuracy']:.1%} of {measured['pairs']} {kind} "
        f"pairs{gained}, text NLL {nll:.3f} nats a token"
    )


def as_text(tree: AnswerTree) -> AnswerTree:
    """The prompt with its first chosen answer as one text, all of it predicted but the first token."""
    chosen = next(branch.tokens for branch in tree.branches if branch.role == "chosen")
    return AnswerTree(tree.id, tree.prefix[:1], (Branch((*tree.prefix[1:], *chosen)),))


def examples(context: Context, loaded: Loaded, trees: Sequence[AnswerTree]) -> dict[str, Json]:
    """The texts of some pairs, at even distances, by their places among all."""
    prompts = {comparison.id: comparison.prompt for comparison in preferred(context).comparisons}
    every = [(tree, pair) for tree in trees for pair in tree.preferences]

    def text(tokens: Sequence[int]) -> str:
        return shown(loaded.tokenizer.decode(tokens), LENGTH)

    count = min(EXAMPLES, len(every))
    texts = {}
    for place in (at * len(every) // count for at in range(count)):
        tree, pair = every[place]
        texts[str(place)] = {
            "prompt": shown(prompts[tree.id.partition("/")[0]], LENGTH),
            "chosen": text(tree.branches[pair.chosen].tokens),
            "rejected": text(tree.branches[pair.rejected].tokens),
        }
    return texts
