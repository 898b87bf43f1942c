"""What every method of `selfimprove` has in common: documents, judge, rewriter; and what its run leaves."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from threading import Lock
from typing import Any

import jax

from pretrainrl_jax.atomic import write_json, write_text
from pretrainrl_jax.config import MethodConfig
from pretrainrl_jax.documents.cut import Cuts
from pretrainrl_jax.documents.world import MadeDocuments
from pretrainrl_jax.evaluation.truthfulness import evaluate_truthfulness
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.improvement.cost import cost_of
from pretrainrl_jax.improvement.experience import Experience
from pretrainrl_jax.improvement.metrics import Judged
from pretrainrl_jax.judging.compose import make_judge
from pretrainrl_jax.judging.protocol import Judge, Rewriter
from pretrainrl_jax.judging.rewriting import exact_rewriter
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.training.loading import Loaded, load
from pretrainrl_jax.trees.tokenization import Tokenizer

MATCHED_AFTER = 200  # documents: if none of their candidates states a fact by then, it is said
SHOWN_PREFIX = 400  # last characters of a prefix that the report shows
UNTRAINED = "scratch"  # the system that is random weights


class Seen(Counter[str]):
    """Counts that several threads add to."""

    def __init__(self) -> None:
        self._adding = Lock()
        super().__init__()

    def update(self, *counted: Any, **counts: Any) -> None:
        """As of any Counter, of one thread at a time."""
        with self._adding:
            super().update(*counted, **counts)


class Improvement:
    """Documents, judge and rewriter of a run, made when first asked for."""

    def __init__(self, context: Context) -> None:
        self._context = context
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
        context, settings = self._context, self._context.config.judge
        if not settings.path:
            return None
        return load(settings.path, context.mesh, settings.dtype, chosen=context.chosen)

    @cached_property
    def _judge(self) -> Judge:
        settings = self._context.config.judge
        statements = self.statements if settings.facts else None
        return make_judge(settings, statements, self.judge_model, self._stated)

    def judge(self, method: MethodConfig) -> Judge | None:
        """Who decides what a method learns; None where nobody does."""
        return self._judge if method.judged else None

    def rewriter(self, method: MethodConfig) -> Rewriter | None:
        """Who rewrites suffixes, where a method asks for that."""
        return exact_rewriter(self.statements) if "rewrite" in method.candidates else None

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
        if not judged:
            return "there is no document to learn from: check documents.path and selfimprove.suffix"
        return (
            f"the judge finds all candidates equal, step after step (of the last {len(judged)} documents "
            f"{alone} have one candidate alone): ask for more candidates, or check the judge's parts"
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


def evaluate_improvement(
    context: Context, improvement: Improvement, initial: Callable[[str], Loaded]
) -> None:
    """What the base model, random weights where a method starts from them, and each method write."""
    config = context.config
    starts = {config.methods[system].start for system in config.selfimprove.systems}
    untrained = UNTRAINED in starts and (config.model.path or config.pretrain.epochs)  # else it is the base
    systems = ["base", *([UNTRAINED] if untrained else []), *config.selfimprove.systems]
    for system in systems:
        if context.done(f"evaluate/selfimprove/{system}"):
            continue
        began = time.perf_counter()
        loaded = initial(system) if system in ("base", UNTRAINED) else context.load(f"selfimprove/{system}")
        with ExitStack() as bars:

            def begin(total: int, system: str = system, bars: ExitStack = bars) -> Callable[[int], None]:
                tracked = context.screen.track(f"evaluate/selfimprove/{system}", total, "texts")
                return bars.enter_context(tracked).advance

            result = evaluate_truthfulness(
                loaded, context.facts, improvement.made, improvement.statements, config, begin
            )
        path = context.workdir / "evaluations" / "selfimprove" / f"{system}.json"

        def write(path: Any = path, result: Any = result) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(result, ensure_ascii=False))

        run_on_process_0(write, f"writing {path.name}")
        context.finish(f"evaluate/selfimprove/{system}", seconds=time.perf_counter() - began)
        jax.tree.map(lambda x: x.delete(), loaded.params)
