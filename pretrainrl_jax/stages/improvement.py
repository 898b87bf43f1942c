"""What every method of `selfimprove` has in common: documents, judge, rewriter; and what its run leaves."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from threading import Lock
from typing import Any

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import JudgeConfig, MethodConfig, RewriterConfig, ServerConfig
from pretrainrl_jax.documents.cut import Cuts
from pretrainrl_jax.documents.world import MadeDocuments
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.hosts.agree import is_process_0, process_count, run_on_process_0
from pretrainrl_jax.improvement.cost import cost_of
from pretrainrl_jax.improvement.experience import Experience
from pretrainrl_jax.improvement.metrics import Judged
from pretrainrl_jax.judging.compose import make_judge
from pretrainrl_jax.judging.local import LocalJudge, local_writer
from pretrainrl_jax.judging.parts import prompts_of
from pretrainrl_jax.judging.prompts import Prompt, read_prompt
from pretrainrl_jax.judging.protocol import Case, Judge, RewriteCase, Rewriter
from pretrainrl_jax.judging.remote import RemoteJudge, remote_writer
from pretrainrl_jax.judging.rewriting import Write, exact_rewriter, model_rewriter
from pretrainrl_jax.judging.server import Server
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.training.loading import Loaded, load
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.workdir import spends_as

MATCHED_AFTER = 200  # documents: if none of their candidates states a fact by then, it is said
SHOWN_PREFIX = 400  # last characters of a prefix that the report shows


class Seen(Counter[str]):
    """Counts that several threads add to."""

    def __init__(self) -> None:
        self._adding = Lock()
        super().__init__()

    def update(self, *counted: Any, **counts: Any) -> None:
        """As of any Counter, of one thread at a time."""
        with self._adding:
            super().update(*counted, **counts)


def _elsewhere(cases: Sequence[Any]) -> Any:
    """What stands for a server in the processes that do not ask it."""
    raise RuntimeError("process 0 alone asks a server")


class Improvement:
    """Documents, judge and rewriter of a run, made when first asked for.

    Args:
        opened: closes the servers that are asked.
    """

    def __init__(self, context: Context, opened: ExitStack) -> None:
        self._context, self._open = context, opened
        self._stated = Seen()  # by verdict, what the exact judge saw: ahead of what is learned, too
        self._judged = 0  # documents

    @cached_property
    def statements(self) -> Statements:
        """What is true: the facts of the run."""
        return Statements(self._context.facts)

    @cached_property
    def made(self) -> MadeDocuments:
        """Documents about the facts of the run; none where there are others to read."""
        there = self._context.config.documents.path
        return MadeDocuments((), (), ()) if there else self._context.made_documents

    def cuts(self, tokenizer: Tokenizer) -> Cuts:
        """The stream of documents, cut, from its beginning."""
        config = self._context.config
        return Cuts(self._context.stream(), tokenizer, config.selfimprove, config.seed)

    @cached_property
    def judge_model(self) -> Loaded | None:
        """The model that is asked, placed as the policy is; None where no part asks one."""
        return self._loaded(self._context.config.judge)

    @cached_property
    def rewriter_model(self) -> Loaded | None:
        """The model that rewrites on the devices; None where none does."""
        return self._loaded(self._context.config.rewriter)

    def _loaded(self, settings: JudgeConfig | RewriterConfig) -> Loaded | None:
        mesh, chosen = self._context.mesh, self._context.chosen
        return load(settings.path, mesh, settings.dtype, chosen=chosen) if settings.path else None

    @cached_property
    def full_judge(self) -> Judge:
        """The judge of the settings; of a server's, process 0 alone may ask it."""
        settings, asked = self._context.config.judge, self.asked
        statements = self.statements if settings.facts else None
        if isinstance(asked, LocalJudge):
            for prompt in prompts_of(settings).values():
                asked.check(prompt)
        return make_judge(settings, statements, asked and asked.ask, self._stated)

    @cached_property
    def asked(self) -> LocalJudge | RemoteJudge | None:
        """The model that the judge's parts ask, None where none does; of a server's, process 0 alone may."""
        settings = self._context.config.judge
        if settings.server.url:
            return RemoteJudge.of(settings, self._server(settings.server))
        return LocalJudge.of(settings, self.judge_model) if self.judge_model else None

    @cached_property
    def _rewriter(self) -> Rewriter:
        settings = self._context.config.rewriter
        if not settings.is_model:
            return exact_rewriter(self.statements)
        return model_rewriter(self.writer(read_prompt("rewrite", settings.prompts, settings.prompt)))

    def writer(self, prompt: Prompt) -> Write:
        """The model of `rewriter`, asked with a prompt; of a server's, process 0 alone may ask it."""
        config = self._context.config
        settings = config.rewriter
        if settings.server.url:
            return remote_writer(prompt, settings, self._rewriter_server)
        if not self.rewriter_model:
            raise InputError("no model writes: give rewriter.path or rewriter.server.url")
        tokens, batch = config.selfimprove.suffix, config.rollouts.batch
        return local_writer(prompt, settings, self.rewriter_model, tokens, config.seed, batch)

    @cached_property
    def _rewriter_server(self) -> Server:
        return self._server(self._context.config.rewriter.server)

    def _server(self, settings: ServerConfig) -> Server:
        """Process 0 alone asks it. What is paid is noted under a name of the workdir's, and of this use."""
        run = f"{spends_as(self._context.workdir / 'selfimprove')}/{settings.place}"
        server = Server(settings, run, self._context.screen.warn)
        self._open.callback(server.close)
        return server

    def judge(self, method: MethodConfig) -> Judge | None:
        """Who decides what a method learns; None where nobody does."""
        if not method.judged:
            return None
        return self.full_judge if self._here(self._context.config.judge.server) else _elsewhere

    def rewriter(self, method: MethodConfig) -> Rewriter | None:
        """Who rewrites suffixes, where a method asks for that."""
        if "rewrite" not in method.candidates:
            return None
        return self._rewriter if self._here(self._context.config.rewriter.server) else _elsewhere

    def asks_server(self, method: MethodConfig) -> bool:
        """Whether a server is asked: by process 0 alone, in a thread of its own."""
        config = self._context.config
        rewrites = "rewrite" in method.candidates
        return bool((method.judged and config.judge.server.url) or (rewrites and config.rewriter.server.url))

    def _here(self, server: ServerConfig) -> bool:
        return not server.url or is_process_0()

    def check(self) -> None:
        """Before anything else: ask the servers once, so that a wrong key or name is known at once.

        Raises:
            InputError: if a server refuses, or a prompt is not right.
            ServerError: if it does not reply.
        """
        config = self._context.config
        methods = [config.methods[system] for system in config.selfimprove.systems]
        if not any(map(self.asks_server, methods)):
            return
        if process_count() > 1 and (config.judge.path or config.rewriter.path):
            raise InputError(
                "one of judge and rewriter is on a server, which process 0 alone asks, the other on the "
                "devices of all processes: put both on servers or both on the devices, or run one process"
            )
        run_on_process_0(lambda: self._try(methods), "asking the servers")

    def _try(self, methods: Sequence[MethodConfig]) -> None:
        config, warn = self._context.config, self._context.screen.warn
        if config.judge.server.url and any(method.judged for method in methods):
            sky, repeated = " blue, and the sea below it is too.", " is is is is is is."
            (counts,) = self.full_judge([Case("The sky above the sea is", (sky, repeated), sky)]).counts
            asked, unread = (
                sum(count for name, count in counts.items() if name.endswith(f".{what}"))
                for what in ("verdicts", "unreadable")
            )
            if asked == unread:
                warn(
                    f"judge: {config.judge.server.model} gave no verdict that can be read, even on two plain "
                    "texts: see what it replies, and try judge.reasoning, or another prompt or model"
                )
        if config.rewriter.server.url and any("rewrite" in method.candidates for method in methods):
            (text,) = self._rewriter([RewriteCase("The sky above the sea is", " blue.")])
            if text is None:
                warn(
                    f"rewriter: {config.rewriter.server.model} did not begin a rewrite with the last words "
                    "of the text, as the prompt says: what it so writes is not used"
                )

    def unmatched(self, judged: Sequence[Judged]) -> list[str]:
        """What is to be said, once, where the facts of the run are in no text of many."""
        if not self._context.config.judge.facts or not any(one.scores for one in judged):
            return []
        before, self._judged = self._judged, self._judged + len(judged)
        if before >= MATCHED_AFTER or self._judged < MATCHED_AFTER or self._stated:
            return []
        return [
            f"no candidate of {self._judged} documents states a fact of the run, so that judge.facts gives "
            "all the score of silence: check facts.path, or set judge.facts to 0"
        ]

    def why_nothing(self, judged: Sequence[Judged]) -> str:
        """Why no document of the last steps taught anything, and what to do."""
        alone = sum(len(one.candidates) < 2 for one in judged)
        unscored = sum(one.scores.count(None) for one in judged)
        if not judged:
            return "there is no document to learn from: check documents.path and selfimprove.suffix"
        return (
            f"the judge finds all candidates equal, step after step (of the last {len(judged)} documents "
            f"{alone} have one candidate alone, and {unscored} candidates have no verdict): ask for more "
            "candidates, or check the judge's parts"
        )


def write_examples(context: Context, system: str, step: int, total: int, judged: Sequence[Judged]) -> None:
    """Keep documents of the first and of the last steps, as many of each, with all candidates and scores."""
    settings = context.config.selfimprove
    path = context.workdir / "selfimprove" / system / "examples.json"
    first, last = (settings.kept + 1) // 2, settings.kept // 2
    left = (total - step) // settings.updates  # steps that follow
    if not judged or not judged[0].scores:
        return

    def write() -> None:
        examples = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        examples = [one for one in examples if one["step"] < step]  # a step that is made again is kept once
        room = first - len(examples)
        if left * len(judged) < last:
            room = max(room, settings.kept - len(examples))
        if room > 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, examples + [_example(one, step) for one in judged[:room]])

    run_on_process_0(write, f"writing {path.name}")


def _example(one: Judged, step: int) -> dict[str, Any]:
    roles = {branch.tokens: branch.role for branch in one.tree.branches} if one.tree else {}
    return {
        "step": step,
        "name": one.cut.name,
        "prefix": one.prefix[-SHOWN_PREFIX:],
        "candidates": [
            {
                "kind": candidate.kind,
                "text": candidate.text,
                "score": score,
                "parts": {name: scores[place] for name, scores in one.parts.items()},
                "role": roles.get(candidate.tokens, ""),
            }
            for place, (candidate, score) in enumerate(zip(one.candidates, one.scores, strict=True))
        ],
    }


def write_summary(context: Context, system: str, steps: int, experience: Experience) -> None:
    """What a method's run took and what happened on the way."""
    config, method = context.config, context.config.methods[system]
    cost = cost_of(config, method, steps // config.selfimprove.updates)
    summary = {
        "label": method.label or system,
        "update": method.update,
        "start": method.start,
        "candidates": list(method.candidates),
        "steps": steps,
        "documents": experience.taken,
        "dropped": experience.dropped,
        "ties": experience.ties,
        "collapsed": experience.collapse.get("told", []),
        **cost._asdict(),
    }
    path = context.workdir / "selfimprove" / system / "summary.json"

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, summary)

    run_on_process_0(write, f"writing {path.name}")
