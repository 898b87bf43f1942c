"""What every method of `selfimprove` has in common: documents, judge, rewriter; and what came of it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import jax

from pretrainrl_jax.config import Config, JudgeConfig, MethodConfig, RewriterConfig, ServerConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.truthfulness import evaluate_truthfulness, held_out_texts
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.hosts.agree import is_process_0, process_count, run_on_process_0
from pretrainrl_jax.improvement.compared import Continued, continue_greedily, cut_texts, won
from pretrainrl_jax.improvement.cost import Cost, compared, price_of
from pretrainrl_jax.improvement.outstanding import Asking
from pretrainrl_jax.judging.compose import make_judge
from pretrainrl_jax.judging.local import LocalJudge, local_writer
from pretrainrl_jax.judging.prompts import Prompt, prompts_of, read_prompt
from pretrainrl_jax.judging.protocol import Case, Judge, RewriteCase, Rewriter
from pretrainrl_jax.judging.remote import RemoteJudge, remote_writer
from pretrainrl_jax.judging.rewriting import Write, exact_rewriter, model_rewriter
from pretrainrl_jax.judging.server import Server
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.stages.context import BASE, Context, keep_json, kept_json
from pretrainrl_jax.training.loading import Loaded, load
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.workdir import spends_as

INITIAL, UNTRAINED = "base", "scratch"  # systems that are not trained here

T = TypeVar("T")


def _elsewhere(cases: Sequence[Any]) -> Any:
    """What stands for a server in the processes that do not ask it."""
    raise RuntimeError("process 0 alone asks a server")


def asked_by(server: ServerConfig, work: Callable[[], T], what: str) -> T:
    """What the work gives that asks a model: one on a server by process 0 for all, else by all together."""
    return run_on_process_0(work, what) if server.url else work()


def priced(config: Config, cost: Cost) -> str:
    """What it costs to ask servers, as a sentence ends; "" without prices."""
    price = price_of(config, cost)
    return f", which cost about {price:,.2f} at most, by the prices given" if price else ""


class Improvement:
    """Documents, judge and rewriter of a run, made when first asked for; `opened` closes servers."""

    def __init__(self, context: Context, opened: ExitStack) -> None:
        self._context, self._config, self._open = context, context.config, opened

    @cached_property
    def statements(self) -> Statements:
        """What is true: the facts of the run."""
        return Statements(self._context.facts)

    @cached_property
    def judge_model(self) -> Loaded | None:
        """The model that is asked, placed as the policy is; None where no part asks one."""
        return self._loaded(self._config.judge)

    @cached_property
    def rewriter_model(self) -> Loaded | None:
        """The model that rewrites on the devices; None where none does."""
        return self._loaded(self._config.rewriter)

    def _loaded(self, settings: JudgeConfig | RewriterConfig) -> Loaded | None:
        mesh, chosen = self._context.mesh, self._context.chosen
        return load(settings.path, mesh, settings.dtype, chosen=chosen) if settings.path else None

    @cached_property
    def full_judge(self) -> Judge:
        """The judge of the settings; of a server's, process 0 alone may ask it."""
        settings, asked = self._config.judge, self.asked
        statements = self.statements if settings.facts else None
        if isinstance(asked, LocalJudge):
            for prompt in prompts_of(settings).values():
                asked.check(prompt)
        return make_judge(settings, statements, asked and asked.ask)

    @cached_property
    def asked(self) -> LocalJudge | RemoteJudge | None:
        """The model that the judge's parts ask, None where none does; of a server's, process 0 alone may."""
        settings = self._config.judge
        if settings.server.url:
            return RemoteJudge(settings, self._server(settings.server))
        return LocalJudge(settings, self.judge_model) if self.judge_model else None

    @cached_property
    def _rewriter(self) -> Rewriter:
        settings = self._config.rewriter
        if not settings.is_model:
            return exact_rewriter(self.statements)
        return model_rewriter(self.writer(read_prompt("rewrite", settings.prompts, settings.prompt)))

    def writer(self, prompt: Prompt) -> Write:
        """The model of `rewriter`, asked with a prompt; of a server's, process 0 alone may ask it."""
        config = self._config
        settings = config.rewriter
        if settings.server.url:
            return remote_writer(prompt, settings, self._rewriter_server)
        if not self.rewriter_model:
            raise InputError("no model writes: give rewriter.path or rewriter.server.url")
        tokens, batch = config.selfimprove.suffix, config.rollouts.batch
        return local_writer(prompt, settings, self.rewriter_model, tokens, config.seed, batch)

    @cached_property
    def _rewriter_server(self) -> Server:
        return self._server(self._config.rewriter.server)

    def _server(self, settings: ServerConfig) -> Server:
        """Process 0 alone asks it. What is paid is noted under a name of the workdir's, and of this use."""
        run = f"{spends_as(self._context.workdir / 'selfimprove')}/{settings.place}"
        server = Server(settings, run, self._context.screen.warn)
        self._open.callback(server.close)
        return server

    def asking(self, method: MethodConfig, tokenizer: Tokenizer) -> Asking:
        """Who decides what a method learns, and who rewrites suffixes; None where it asks nobody."""
        judge: Judge | None = None
        rewriter: Rewriter | None = None
        if method.judged:
            judge = self.full_judge if self._here(self._config.judge.server) else _elsewhere
        if "rewrite" in method.candidates:
            rewriter = self._rewriter if self._here(self._config.rewriter.server) else _elsewhere
        own = tokenizer.copy() if rewriter else tokenizer
        return Asking(judge, rewriter, own, by_model=self._config.rewriter.is_model)

    def asks_server(self, method: MethodConfig) -> bool:
        """Whether a server is asked: by process 0 alone, in a thread of its own."""
        config = self._config
        rewrites = "rewrite" in method.candidates
        return bool((method.judged and config.judge.server.url) or (rewrites and config.rewriter.server.url))

    def _here(self, server: ServerConfig) -> bool:
        return not server.url or is_process_0()

    def check(self) -> None:
        """Before anything else: ask the servers once, so that a wrong key or name is known at once.

        Raises InputError if a server refuses, or a prompt is not right; ServerError if it does not reply.
        """
        config = self._config
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
        opening, sky = "The sky above the sea is", " blue, and the sea below it is too."
        if self._config.judge.server.url and any(method.judged for method in methods):
            self.full_judge([Case(opening, (sky, " is is is is."), sky)])
        if self._config.rewriter.server.url and any("rewrite" in method.candidates for method in methods):
            self._rewriter([RewriteCase(opening, " blue.")])


def initial_model(context: Context, start: str) -> Loaded:
    """The model a method starts from: the base model, or one of its shape with random weights."""
    base = context.load(BASE)
    if start == INITIAL:
        return base
    base.release()
    initialise = jax.jit(base.model.init, out_shardings=parameter_shardings(base.model, context.mesh))
    return replace(base, params=initialise(jax.random.key(context.config.seed)), origin={})


def evaluate_improvement(context: Context, improvement: Improvement) -> None:
    """What the base model, random weights where a method starts from them, and each method write."""
    config = context.config
    starts = {config.methods[system].start for system in config.selfimprove.systems}
    untrained = UNTRAINED in starts and (config.model.path or config.pretrain.epochs)  # else it is the base
    systems = [INITIAL, *([UNTRAINED] if untrained else []), *config.selfimprove.systems]
    for system in systems:
        stage = f"evaluate/selfimprove/{system}"
        if context.done(stage):
            continue
        with context.working(stage):
            if system in (INITIAL, UNTRAINED):
                loaded = initial_model(context, system)
            else:
                loaded = context.load(f"selfimprove/{system}")
            with ExitStack() as bars:

                def begin(total: int, stage: str = stage, bars: ExitStack = bars) -> Callable[[int], None]:
                    return bars.enter_context(context.screen.track(stage, total, "texts")).advance

                result = evaluate_truthfulness(
                    loaded, context.facts, context.made_documents, improvement.statements, config, begin
                )
            if compared(config):
                result |= compare(context, improvement, system, loaded)
            keep_json(evaluation(context, system), result, indent=None)
        jax.tree.map(lambda x: x.delete(), loaded.params)  # adapters and what they are for, too


def evaluation(context: Context, system: str) -> Path:
    """The file of what was found of a system."""
    return context.workdir / "evaluations" / "selfimprove" / f"{system}.json"


def compare(context: Context, improvement: Improvement, system: str, loaded: Loaded) -> dict[str, Any]:
    """Held-out texts continued, and whose continuation the run's judge finds better, this or the base's.

    Gives "continued", what the model wrote, as `Continued`; of any but the base model also "compared", a win
    of each prefix with a verdict, 1, 0 or ½, and "unjudged", how many have none.
    """
    config = context.config
    cuts = cut_texts(held_out_texts(context.made_documents, config), loaded.tokenizer, config)
    if not cuts:
        if system == INITIAL:
            needed = config.selfimprove.shortest_prefix + config.selfimprove.suffix
            context.screen.warn(
                f"no win rate against the base model: no held-out text has {needed} tokens to cut; give a "
                "file as evaluate.text, or set selfimprove.compared to 0"
            )
        return {}
    continued = continue_greedily(loaded, cuts, config)
    kept = {"continued": [list(one) for one in continued]}
    if system == INITIAL:
        return kept
    # What the base model wrote after the held-out prefixes, as it was kept.
    base = [Continued(*one) for one in (kept_json(evaluation(context, INITIAL)) or {}).get("continued", [])]
    if [one.prefix for one in base] != [one.prefix for one in continued]:
        context.screen.warn(
            f"evaluate/selfimprove/{system}: no win rate: an older version measured the base model, and kept "
            "not what it wrote; remove evaluations/selfimprove to measure all anew"
        )
        return kept
    verdicts = asked_by(
        config.judge.server,
        lambda: won(improvement.full_judge, base, continued),
        "judging the base model's continuations",
    )
    wins = [verdict for verdict in verdicts if verdict is not None]
    return kept | {"compared": [{"won": win} for win in wins], "unjudged": len(verdicts) - len(wins)}
