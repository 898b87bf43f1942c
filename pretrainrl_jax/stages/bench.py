"""`judge --bench`: several judges, each with several prompts, on labelled texts; one table, one picture."""

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import Config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.judge_bench.labelled import Item, Labelled
from pretrainrl_jax.judge_bench.questions import Question, agreement, ask, guessing, measured, questions
from pretrainrl_jax.judging.parts import ASKING
from pretrainrl_jax.judging.prompts import Prompt, read_prompt, variants
from pretrainrl_jax.mining.fingerprint import short_digest
from pretrainrl_jax.model.decoder import Chosen
from pretrainrl_jax.progress import Screen, Track
from pretrainrl_jax.report.judges import table, write_judges
from pretrainrl_jax.stages.context import say
from pretrainrl_jax.stages.entrants import Entrant, Taken, judges_of

Json = dict[str, Any]
Prompts = dict[str, dict[str, Prompt]]  # of each part, by name
FORMAT = 2  # of a row


def bench(
    config: Config, workdir: Path, labelled: Labelled, mesh: Mesh, chosen: Chosen, screen: Screen
) -> None:
    """Every judge and prompt on the labelled texts; what an earlier run has done is read."""
    screen.say(labelled.told)
    items = drawn(labelled.items, config.bench.limit, config.seed)
    prompts = prompts_of(config, items, labelled.verdicts, screen)
    asked = {
        (part, name): questions(items[part], prompt, config.seed, config.bench.orders)
        for part, named in prompts.items()
        for name, prompt in named.items()
    }
    total, judges = sum(map(len, asked.values())), judges_of(config)
    screen.say(f"{len(judges) * total:,} verdicts: judges {len(judges)}, prompts {len(asked)}")
    first = next(iter(asked))
    for judge in judges:
        if judge.server:  # a wrong key or name is known before any work
            with ExitStack() as opened:
                entrant = judge.open(config, workdir, mesh, chosen, screen, opened)
                entrant.answer(prompts[first[0]][first[1]], [asked[first][0].texts])
    rows: list[Json] = []
    for judge in judges:
        with ExitStack() as opened:
            entrant = judge.open(config, workdir, mesh, chosen, screen, opened)
            for named in prompts.values():
                for prompt in named.values():
                    entrant.check(prompt)
            with screen.track(f"judge {entrant.name}", total, "verdicts") as bar:
                for (part, name), own in asked.items():
                    prompt = prompts[part][name]
                    rows.append(row(workdir, entrant, (part, name, prompt), items[part], own, config, bar))
    told = {
        "source": labelled.source,
        "read_as": labelled.read_as,
        "left_out": dict(labelled.left_out),
        "items": {part: len(own) for part, own in items.items()},
        "guessing": {part: guessing(own) for part, own in items.items()},
        "rows": [{name: value for name, value in one.items() if name != "verdicts"} for one in rows],
        "agreement": {part: agreements([one for one in rows if one["part"] == part]) for part in items},
    }
    page = run_on_process_0(lambda: str(write_judges(workdir, told)), "writing the table of judges")
    say(table(told))
    say(f"judges: {page}")


def prompts_of(
    config: Config, items: Mapping[str, Sequence[Item]], verdicts: Mapping[str, int], screen: Screen
) -> Prompts:
    """The prompts of each part that there are texts of, by their names.

    One with more or fewer verdicts than there are labels is left out, and named, if nobody asked for it.

    Raises:
        InputError: if one that is asked for is not there, or has another number of verdicts.
    """
    known = {part: variants(part, config.judge.prompts) for part in ASKING}
    wanted = config.bench.prompts
    for name in wanted:
        if not any(name in named for named in known.values()):
            listed = ", ".join(sorted({one for named in known.values() for one in named}))
            raise InputError(f"bench.prompts names {name!r}: there are {listed}")
    prompts: Prompts = {}
    for part in items:
        for name in known[part]:
            if wanted and name not in wanted:
                continue
            prompt = read_prompt(part, config.judge.prompts, name)
            if len(prompt.verdicts) == verdicts[part]:
                prompts.setdefault(part, {})[name] = prompt
                continue
            count = len(prompt.verdicts)
            why = f"the prompt {name} has {count} verdicts, the texts have {verdicts[part]} labels"
            if wanted:
                raise InputError(f"{why}: leave it out of bench.prompts")
            screen.warn(f"{why}: it is left out")
    if not prompts:
        raise InputError(f"bench.prompts has none for {', '.join(items)}, which the labelled texts are of")
    return prompts


def drawn(items: Sequence[Item], limit: int, seed: int) -> dict[str, list[Item]]:
    """The items of each part, so many at most, drawn by the seed; in their order."""
    by_part = {part: [item for item in items if item.part == part] for part in ASKING}
    chosen = {
        part: sorted(random.Random(seed).sample(range(len(own)), min(limit or len(own), len(own))))
        for part, own in by_part.items()
    }
    return {part: [by_part[part][place] for place in places] for part, places in chosen.items() if places}


def row(
    workdir: Path,
    entrant: Entrant,
    asked_with: tuple[str, str, Prompt],
    items: Sequence[Item],
    asked: Sequence[Question],
    config: Config,
    bar: Track,
) -> Json:
    """What one judge does with one prompt; kept in a file, and read from there where it was done before."""
    part, name, prompt = asked_with
    provenance = {
        "format": FORMAT,
        "judge": entrant.identity,
        "prompt": [prompt.text, prompt.verdicts],
        "asked": short_digest([[q.texts, q.right, q.orders, items[q.item].kind] for q in asked]),
    }
    path = workdir / "judges" / "rows" / f"{short_digest(provenance)}.json"
    if known := run_on_process_0(lambda: json.loads(path.read_text()) if path.is_file() else None, "reading"):
        bar.skip(len(asked))
        return known
    before = entrant.taken()
    result = ask(asked, lambda texts: entrant.answer(prompt, texts), config.bench.batch, bar.advance)
    taken = Taken(*(now - then for now, then in zip(entrant.taken(), before, strict=True)))
    told: dict[str, Any] = {"judge": entrant.name, "part": part, "prompt": name}
    told |= measured(items, asked, result)
    told |= {"seconds": result.seconds, "replies": taken.replies}
    if taken.replies:
        of_one = {"tokens_in": taken.tokens_in, "tokens_out": taken.tokens_out, "cost": taken.cost}
        told |= {name: value / taken.replies for name, value in of_one.items()}
    told["verdicts"] = result.verdicts[: told["count"]]  # those about texts without orders

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, told)

    run_on_process_0(write, "writing a row")
    return told


def agreements(rows: Sequence[Json]) -> list[list[float | None]]:
    """Cohen's kappa of each two rows of one part, which were asked the same."""
    return [[agreement(one["verdicts"], other["verdicts"]) for other in rows] for one in rows]
