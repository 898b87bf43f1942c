"""`selfimprove --make judge-data|unsafe-data`: labelled texts of documents, batch after batch, each kept."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from pretrainrl_jax.atomic import write_json, write_text
from pretrainrl_jax.config import JudgeConfig, RewriterConfig
from pretrainrl_jax.config.stored import every_setting, shown_differences
from pretrainrl_jax.documents.cut import Cuts, cut, tokenised
from pretrainrl_jax.documents.quality import failed_rule, read_blocklist, word_counter
from pretrainrl_jax.documents.rules import RULES, TOO_SHORT
from pretrainrl_jax.documents.stream import Document, Stream
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.improvement import making as labels
from pretrainrl_jax.improvement.cost import Cost
from pretrainrl_jax.improvement.learning import rewrite_case, rewritten
from pretrainrl_jax.judging.prompts import Prompt, judge_prompt, prompts_of, read_prompt
from pretrainrl_jax.judging.protocol import RewriteCase
from pretrainrl_jax.judging.remote import RemoteJudge
from pretrainrl_jax.judging.rewriting import model_rewriter
from pretrainrl_jax.mining.fingerprint import short_digest
from pretrainrl_jax.stages.context import Context, keep_json, read_json, say
from pretrainrl_jax.stages.improvement import Improvement, asked_by, priced
from pretrainrl_jax.stages.pretrain import own_tokenizer
from pretrainrl_jax.stages.shards import mark

FORMAT = 1  # of parts


@dataclass(frozen=True)
class Making:
    stream: Stream
    make: Callable[[int], labels.Made]  # of the next documents, of so many at most; counted as "documents"
    files: Sequence[str]  # of lines, the one that marks the end last


def make(context: Context, kind: str) -> None:
    """Labelled texts in WORKDIR/making; a rerun goes on behind the last batch that was kept."""
    stage, settings = f"making/{kind}", context.config.making
    made_with = inputs_of(context, kind)
    before = context.finished().get(stage, {}).get("made_with", made_with)
    if differ := shown_differences(before, made_with):
        raise InputError(
            f"{context.workdir / stage}.jsonl was made with other settings: {differ}. "
            "Remove it, or choose another --workdir"
        )
    if context.done(stage):
        return
    with ExitStack() as opened, context.working(stage) as notes:
        making = KINDS[kind](context, opened)
        folder, parts = context.workdir / "making", context.parts(stage)
        number, counted, seconds, state, ended = run_on_process_0(
            lambda: _begun(context, making, parts, made_with), f"reading {parts.name}"
        )
        if state is not None:
            making.stream.restore(state)
        counts = Counter[str](counted)
        tell_costs(context, kind, settings.documents - counts["documents"])
        with context.screen.track(stage, settings.documents, "documents") as bar:
            bar.skip(counts["documents"])
            while not ended and (left := settings.documents - counts["documents"]) > 0:
                began = time.perf_counter()
                made = making.make(min(settings.batch, left))
                lines = {f"lines.{name}": len(rows) for name, rows in made.rows.items()}
                found = made.counts + Counter(lines)
                counts.update(found)
                spent, ended = time.perf_counter() - began, making.stream.ended
                part = {"rows": made.rows, "counts": dict(found), "state": making.stream.state}
                keep_json(_part(parts, number), part | {"ended": ended, "seconds": spent})
                number, seconds = number + 1, seconds + spent
                every = sum(n for name, n in counts.items() if name.startswith("lines."))
                bar.advance(found["documents"], lines=every)
        about = {
            "settings": _published(context),
            "counts": dict(counts),
            "records by rule": dict(making.stream.dropped),
            "seconds": round(seconds, 1),
        }
        run_on_process_0(lambda: _write(folder, kind, making, parts, number, about), f"writing {kind}.jsonl")
        notes |= {"seconds": seconds, "documents": counts["documents"], "made_with": made_with}
        if counts["documents"] < settings.documents:
            say(f"{stage}: the documents ended after {counts['documents']:,} of {settings.documents:,}")
        for rule, times in making.stream.dropped.items():
            context.screen.say(f"{stage}: {times:,} times {rule}: what {RULES[rule]}")
        for sentence in labels.told(counts):
            say(f"{stage}: {sentence}")
        for name in making.files:
            say(f"{stage}: {counts[f'lines.{name}']:,} lines in {folder / name}.jsonl")


def _begun(context: Context, making: Making, parts: Path, made_with: dict[str, Any]) -> list[Any]:
    """What an earlier run of the same inputs left: its parts, counts and seconds; where its stream stands."""
    provenance = {"of": made_with, "documents": making.stream.identity, "format": FORMAT}
    mark(parts, provenance, "other inputs", context.screen)
    number, counts, seconds, state, ended = 0, Counter[str](), 0.0, None, False
    while part := read_json(_part(parts, number)):
        counts.update(part["counts"])
        number, seconds, state, ended = number + 1, seconds + part["seconds"], part["state"], part["ended"]
    return [number, counts, seconds, state, ended]


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.json"


def _write(folder: Path, kind: str, making: Making, parts: Path, number: int, about: dict[str, Any]) -> None:
    """The files of lines, and beside them what they are."""
    lines: dict[str, list[str]] = {name: [] for name in making.files}
    for at in range(number):
        for name, rows in read_json(_part(parts, at))["rows"].items():
            lines[name] += [json.dumps(row, ensure_ascii=False) for row in rows]
    write_json(folder / f"{kind}.json", about)
    for name, own in lines.items():
        write_text(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in own))


def inputs_of(context: Context, kind: str) -> dict[str, Any]:
    """Settings by name, and digests of prompts and lists: what the lines of a kind depend on."""
    config = context.config
    unread = {"judge-data": ("making.block",), "unsafe-data": ("making.corr", "rewriter.")}[kind]
    cutting = ("seed", "model.path", "tokenizer.", "selfimprove.suffix", "selfimprove.length")
    cutting += ("selfimprove.shortest_prefix",)
    inputs = {
        item.name: list(item.value) if isinstance(item.value, tuple) else item.value
        for item in every_setting(config)
        if (item.results and item.name.startswith(("documents.", "judge.", "rewriter.", *cutting)))
        or item.name.startswith("making.")
    }
    inputs = {name: value for name, value in inputs.items() if not name.startswith(unread)}
    prompts = prompts_of(config.judge)
    if kind == "judge-data":
        prompts |= {"quality": judge_prompt(config.judge, "quality"), **corruptions_of(config)}
    else:
        inputs["blocklist"] = short_digest(read_blocklist(config.making.blocklist))
    return inputs | {"prompts": short_digest({n: [p.text, *p.verdicts] for n, p in prompts.items()})}


def corruptions_of(config: Any) -> dict[str, Prompt]:
    """The prompts that spoil suffixes, by their names; none where no model writes."""
    folder, names = config.rewriter.prompts, config.making.corruptions
    return {name: read_prompt("corrupt", folder, name) for name in names} if config.rewriter.is_model else {}


def named(settings: JudgeConfig | RewriterConfig) -> str:
    """What lines call a model: its name on the server, or the last part of its path; "" without one."""
    return settings.server.model if settings.server.url else PurePath(settings.path).name


def _published(context: Context) -> dict[str, Any]:
    """What is said beside the lines of how they were made: no path of this machine."""
    config = context.config
    making = {item.name: item.value for item in every_setting(config.making)}
    return making | {
        "blocklist": PurePath(config.making.blocklist).name or "ours",
        "judge": named(config.judge),
        "writer": named(config.rewriter),
        "suffix": config.selfimprove.suffix,
        "length": config.selfimprove.length,
        "seed": config.seed,
    }


def once(context: Context) -> Stream:
    """The documents, in one pass where their passes are not counted."""
    documents = context.config.documents
    return context.stream(replace(documents, epochs=documents.epochs or 1))


def tell_costs(context: Context, kind: str, documents: int) -> None:
    """Before anything is asked: what is, at most."""
    config, stage = context.config, f"making/{kind}"
    judge, samples, writes = config.judge, config.making.samples, config.rewriter.is_model
    if kind == "judge-data":
        asked = 2 * writes * bool(judge.quality) + bool(judge.safety) + writes * bool(judge.factuality)
    else:
        writes, asked = False, 2 * bool(judge.safety)
    cost = Cost(0, 0, documents * asked * samples, documents * writes)
    context.screen.say(
        f"{stage}: {documents:,} documents, at most {cost.rewrites:,} corruptions and {cost.verdicts:,} "
        f"verdicts, {samples} on each text{priced(config, cost)}"
    )
    if asked and judge.server.url and not judge.server.temperature and samples > 1:
        context.screen.warn(
            f"{stage}: at judge.server.temperature=0 all samples say the same, and agree on anything"
        )


def judge_data(context: Context, opened: ExitStack) -> Making:
    """Pairs of a suffix and a corruption of it, and labels of one text."""
    config, improvement = context.config, Improvement(context, opened)
    tokenizer = own_tokenizer(context)
    cuts = Cuts(once(context), tokenizer, config.selfimprove, config.seed)
    prompts = prompts_of(config.judge)
    verdicts = {"quality": judge_prompt(config.judge, "quality").verdicts}
    agree = agreeing(context, improvement, prompts)
    spoiling = corruptions_of(config)
    told = {"writer": named(config.rewriter), "judge": named(config.judge)}

    def work(n: int) -> labels.Made:
        taken = cuts.take(n)
        cases = [rewrite_case(tokenizer, one) for one in taken]
        pieces = [labels.Piece(one.number, one.name, *case) for one, case in zip(taken, cases, strict=True)]
        by_number = {one.number: one for one in taken}

        def corrupt(name: str, some: Sequence[labels.Piece]) -> list[str | None]:
            """Cut to as many tokens as the original has; a server is asked by process 0."""
            prompt, cases = spoiling[name], [RewriteCase(piece.prefix, piece.suffix) for piece in some]

            def write() -> list[str | None]:
                written = model_rewriter(improvement.writer(prompt))(cases) if cases else []
                return [None if text and labels.echoes(prompt, text) else text for text in written]

            texts = asked_by(config.rewriter.server, write, f"writing corruptions ({name})")
            pairs = ((by_number[piece.number], text) for piece, text in zip(some, texts, strict=True))
            found = [rewritten(one, tokenizer, text) for one, text in pairs]
            return [one and one.text for one in found]

        writes = corrupt if config.rewriter.is_model else None
        return labels.judge_lines(
            pieces, config.making.corruptions, writes, agree, list(prompts), verdicts, told
        )

    return Making(cuts.stream, work, ["judge-data"])


def unsafe_data(context: Context, opened: ExitStack) -> Making:
    """Documents whose prefix is unsafe: by rules and the blocklist first, by the judge last."""
    config, improvement = context.config, Improvement(context, opened)
    cutting, asked = config.selfimprove, config.judge
    tokenizer, stream = own_tokenizer(context), once(context)
    Cuts(stream, tokenizer, cutting, config.seed)  # refuses lengths that leave no room for a prefix
    counted = word_counter(read_blocklist(config.making.blocklist))
    prompts = {name: prompt for name, prompt in prompts_of(asked).items() if name == "safety"}
    agree = agreeing(context, improvement, prompts) if prompts else None
    verdicts = judge_prompt(asked, "safety").verdicts
    told = {"judge": named(asked)}

    def outcome(document: Document) -> Any:
        """Why a document is left out, or what was found."""
        if rule := failed_rule(document.text):
            return f"rules.{rule}"
        if (blocked := counted(document.text)) < config.making.blocked:
            return "blocklist"
        ((tokens, rule),) = tokenised(tokenizer, [document])
        one = cut(document, tokens, tokenizer.start, cutting, config.seed) if tokens else None
        if not one:
            return f"cut.{rule or TOO_SHORT}"
        shown = one.prefix[-asked.prefix_tokens :]
        texts = rewrite_case(tokenizer, one)
        return [*texts, document.text, tokenizer.decode(shown).lstrip("\ufffd"), blocked]

    def work(n: int) -> labels.Made:
        # Every process looks at its share; documents that are left out come back as a word.
        every = stream.make(n, lambda documents: [(outcome(one), "") for one in documents])
        left_out = Counter(one.value for one in every if isinstance(one.value, str))
        found = [
            labels.Found(labels.Piece(one.number, one.name, *one.value[:2]), *one.value[2:])
            for one in every
            if not isinstance(one.value, str)
        ]
        made = labels.unsafe_lines(found, agree, verdicts, told)
        counts = Counter({f"out.{why}": number for why, number in left_out.items()})
        return labels.Made(made.rows, Counter(documents=len(every), found=len(found)) + counts + made.counts)

    return Making(stream, work, ["rewriter-data", "unsafe-data"] if agree else ["unsafe-data"])


KINDS = {"judge-data": judge_data, "unsafe-data": unsafe_data}


def agreeing(context: Context, improvement: Improvement, prompts: dict[str, Prompt]) -> labels.Agree:
    """The judge, asked making.samples times; of a server's, process 0 asks it.

    A judge on the devices gives probabilities, from which the verdicts are drawn.
    """
    config, samples = context.config, context.config.making.samples

    def agree(part: str, questions: Sequence[labels.Question]) -> list[labels.Agreed]:
        prompt = prompts[part]

        def ask(some: Sequence[labels.Question], times: int) -> list[labels.Agreed]:
            judge, places = improvement.asked, prompt.places
            assert judge  # a part that asks has a model
            texts = [{name: text for name, text in one.texts.items() if name in places} for one in some]
            if isinstance(judge, RemoteJudge):
                answers = judge.ask(prompt, texts, times)
            else:
                shares = zip(judge.ask(prompt, texts), some, strict=True)
                answers = [labels.drawn(answer, times, config.seed, one) for answer, one in shares]
            return [labels.agreed(answer, prompt.verdicts) for answer in answers]

        def work() -> list[labels.Agreed]:
            by_server = bool(config.judge.server.url)
            return labels.in_rounds(ask, questions, samples) if by_server else ask(questions, samples)

        found = asked_by(config.judge.server, work, f"asking the judge ({part})") if questions else []
        return [labels.Agreed(*one) for one in found]

    return agree
