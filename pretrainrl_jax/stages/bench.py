"""`judge --bench`: several judges, each with several prompts, on labelled texts; one table, one picture."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from pretrainrl_jax.config import Config, JudgeServerConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.judge_bench.labelled import Item, Labelled
from pretrainrl_jax.judge_bench.questions import Question, ask, guessing, kappa, measured, questions
from pretrainrl_jax.judging.local import LocalJudge
from pretrainrl_jax.judging.parts import Answer, Texts
from pretrainrl_jax.judging.prompts import ASKING, Prompt, read_prompt, variants
from pretrainrl_jax.judging.remote import RemoteJudge, answering
from pretrainrl_jax.judging.server import Server
from pretrainrl_jax.mining.fingerprint import made_by, short_digest
from pretrainrl_jax.progress import Screen, Track
from pretrainrl_jax.report.judges import table, write_judges
from pretrainrl_jax.stages.context import Context, keep_json, kept_json, say
from pretrainrl_jax.training.loading import load
from pretrainrl_jax.workdir import called, spends_as

Json = dict[str, Any]
Prompts = dict[tuple[str, str], Prompt]  # by part and name
Named = str | JudgeServerConfig  # a judge: a model of a folder, or of a server
FORMAT = 2  # of a row
TAKEN = ("replies", "tokens_in", "tokens_out", "cost")  # of a server; the last by the prices of the settings


@dataclass(frozen=True)
class Entrant:
    name: str
    identity: Json  # what its verdicts depend on
    answer: Callable[[Prompt, Sequence[Texts]], tuple[Sequence[Answer], float]]  # and how many are new
    check: Callable[[Prompt], None] = lambda prompt: None
    taken: Callable[[], Sequence[float]] = lambda: (0, 0, 0, 0.0)  # up to now, by `TAKEN`


def bench(context: Context, labelled: Labelled) -> None:
    """Every judge and prompt on the labelled texts; what an earlier run has done is read."""
    config, screen = context.config, context.screen
    screen.say(labelled.told)
    items = drawn(labelled.items, config.bench.limit, config.seed)
    prompts = prompts_of(config, items, labelled.verdicts, screen)
    asked = {
        key: questions(items[key[0]], prompt, config.seed, config.bench.orders)
        for key, prompt in prompts.items()
    }
    total, judges = sum(map(len, asked.values())), judges_of(config)
    screen.say(f"{len(judges) * total:,} verdicts: judges {len(judges)}, prompts {len(asked)}")
    first, its = next(iter(asked.items()))
    for judge in judges:
        if not isinstance(judge, str):  # a wrong key or name is known before any work
            with ExitStack() as opened:
                opened_judge(judge, context, opened).answer(prompts[first], [its[0].texts])
    rows: list[Json] = []
    for judge in judges:
        with ExitStack() as opened:
            entrant = opened_judge(judge, context, opened)
            for prompt in prompts.values():
                entrant.check(prompt)
            with screen.track(f"judge {entrant.name}", total, "verdicts") as bar:
                for (part, name), own in asked.items():
                    asked_with = part, name, prompts[part, name]
                    rows.append(row(context, entrant, asked_with, items[part], own, bar))
    told = {
        "source": labelled.source,
        "read_as": labelled.read_as,
        "left_out": dict(labelled.left_out),
        "items": {part: len(own) for part, own in items.items()},
        "guessing": {part: guessing(own) for part, own in items.items()},
        "rows": [{name: value for name, value in one.items() if name != "verdicts"} for one in rows],
        "agreement": {part: agreements([one for one in rows if one["part"] == part]) for part in items},
    }
    page = run_on_process_0(lambda: str(write_judges(context.workdir, told)), "writing the table of judges")
    say(table(told))
    say(f"judges: {page}")


def prompts_of(
    config: Config, items: Mapping[str, Sequence[Item]], verdicts: Mapping[str, int], screen: Screen
) -> Prompts:
    """The prompts of each part that there are texts of, by their names.

    One with more or fewer verdicts than there are labels is left out, and named, if nobody asked for it.

    Raises InputError if one that is asked for is not there, or has another number of verdicts.
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
                prompts[part, name] = prompt
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
    context: Context,
    entrant: Entrant,
    asked_with: tuple[str, str, Prompt],
    items: Sequence[Item],
    asked: Sequence[Question],
    bar: Track,
) -> Json:
    """What one judge does with one prompt; kept in a file, and read from there where it was done before."""
    part, name, prompt = asked_with
    named: Json = {"judge": entrant.name, "part": part, "prompt": name}
    provenance = {
        "format": FORMAT,
        "judge": entrant.identity,
        "prompt": [prompt.text, prompt.verdicts],
        "asked": short_digest([[q.texts, q.right, q.orders, items[q.item].kind] for q in asked]),
    }
    path = context.workdir / "judges" / "rows" / f"{short_digest(provenance)}.json"
    if known := kept_json(path):
        bar.skip(len(asked))
        return known | named  # what it was called then does not matter
    before, batch = entrant.taken(), context.config.bench.batch
    result = ask(asked, lambda texts: entrant.answer(prompt, texts), batch, bar.advance)
    replies, *others = (now - then for now, then in zip(entrant.taken(), before, strict=True))
    told = named | measured(items, asked, result)
    told |= {"seconds": result.seconds, "replies": replies}
    if replies:
        told |= {name: value / replies for name, value in zip(TAKEN[1:], others, strict=True)}
    told["verdicts"] = result.verdicts[: told["count"]]  # those about texts without orders
    keep_json(path, told)
    return told


def agreements(rows: Sequence[Json]) -> list[list[float | None]]:
    """Cohen's kappa of each two rows of one part, which were asked the same."""
    verdicts = [one["verdicts"] for one in rows]
    return [[kappa(zip(one, other, strict=True)) for other in verdicts] for one in verdicts]


def name_of(judge: Named) -> str:
    """What tables call a judge."""
    return called(judge) if isinstance(judge, str) else judge.model


def judges_of(config: Config) -> list[Named]:
    """Those of bench.judges, and the judge of the settings where there is one.

    Raises InputError if there is none, or two have one name.
    """
    judges: list[Named] = []
    for named in config.bench.judges:
        model, at, rest = named.partition("@http")
        judge: Named = named
        if at:  # its key is its own: none is sent where it does not belong
            url, _, variable = f"http{rest}".partition("#")
            judge = replace(config.judge.server, url=url, model=model, key_variable=variable)
        judges.append(judge)
    judges += [config.judge.path] if config.judge.path else []
    judges += [config.judge.server] if config.judge.server.url else []
    if not judges:
        raise InputError("no judge to ask: give --bench.judges, --judge.path or --judge.server.url")
    names = [name_of(judge) for judge in judges]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InputError(f"two judges are called {twice}: a table could not tell them apart; rename a folder")
    return judges


def opened_judge(judge: Named, context: Context, opened: ExitStack) -> Entrant:
    """A judge that is loaded, or whose server is asked, until `opened` is closed."""
    return _local(judge, context, opened) if isinstance(judge, str) else _served(judge, context, opened)


def _local(path: str, context: Context, opened: ExitStack) -> Entrant:
    settings = context.config.judge
    loaded = load(path, context.mesh, settings.dtype, chosen=context.chosen)
    opened.callback(loaded.release)
    judge = LocalJudge(settings, loaded)
    identity = made_by(loaded.model, loaded.params, loaded.tokenizer, loaded.identity)
    identity |= {"prefix_tokens": settings.prefix_tokens, "dtype": settings.dtype}
    return Entrant(
        name_of(path), identity, lambda prompt, texts: (judge.ask(prompt, texts), len(texts)), judge.check
    )


def _served(at: JudgeServerConfig, context: Context, opened: ExitStack) -> Entrant:
    settings = context.config.judge
    servers: list[Server] = []  # process 0's

    def begin() -> None:
        run = f"{spends_as(context.workdir / 'judges')}/{at.url}/{at.model}"
        servers.append(Server(at, run, context.screen.warn))
        opened.callback(servers[0].close)

    run_on_process_0(begin, "reaching a judge")

    def answer(prompt: Prompt, texts: Sequence[Texts]) -> tuple[Sequence[Answer], float]:
        def of_server() -> Any:
            (server,) = servers
            before = server.spent.requests
            answers = RemoteJudge(settings, server).ask(prompt, texts)
            given = [None if one.shares is None else list(one.shares) for one in answers]
            return given, (server.spent.requests - before) / settings.samples

        given, new = run_on_process_0(of_server, "asking a judge")
        return [Answer(shares) for shares in given], new

    def taken() -> Sequence[float]:
        return run_on_process_0(lambda: [*servers[0].spent, servers[0].cost], "reading what was spent")

    identity = {
        "url": at.url, "model": at.model, "temperature": at.temperature, "top_p": at.top_p,
        "tokens": at.tokens, "body": at.body, "samples": settings.samples,
        "answering": answering(settings).text, "prefix_tokens": settings.prefix_tokens,
    }  # fmt: skip
    return Entrant(name_of(at), identity, answer, taken=taken)
