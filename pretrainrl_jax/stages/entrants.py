"""The judges that a bench compares: models of folders, and of servers."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from pretrainrl_jax.config import Config, JudgeServerConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.judging.local import LocalJudge
from pretrainrl_jax.judging.parts import Answer, Texts
from pretrainrl_jax.judging.prompts import Prompt
from pretrainrl_jax.judging.remote import RemoteJudge, answering
from pretrainrl_jax.judging.server import Server
from pretrainrl_jax.mining.fingerprint import made_by
from pretrainrl_jax.model.decoder import Chosen
from pretrainrl_jax.progress import Screen
from pretrainrl_jax.training.loading import load
from pretrainrl_jax.workdir import spends_as

Json = dict[str, Any]


class Taken(NamedTuple):
    """What a run has taken of a server up to now."""

    replies: float
    tokens_in: float
    tokens_out: float
    cost: float  # by the prices of the settings


NOTHING = Taken(0, 0, 0, 0.0)


@dataclass(frozen=True)
class Entrant:
    """A judge at work."""

    name: str
    identity: Json  # what its verdicts depend on
    answer: Callable[[Prompt, Sequence[Texts]], tuple[Sequence[Answer], float]]  # and how many are new
    check: Callable[[Prompt], None] = lambda prompt: None
    taken: Callable[[], Taken] = lambda: NOTHING


@dataclass(frozen=True)
class Judge:
    """A judge that settings name: a model of a folder, or of a server."""

    path: str = ""
    server: JudgeServerConfig | None = None

    @property
    def name_of(self) -> str:
        """What tables call it."""
        return self.server.model if self.server else Path(self.path.rstrip("/")).name

    def open(
        self,
        config: Config,
        workdir: Path,
        mesh: Mesh,
        chosen: Chosen,
        screen: Screen,
        opened: ExitStack,
    ) -> Entrant:
        """Load it, or begin to talk to its server, until `opened` is closed."""
        if self.server:
            return _served(self.name_of, self.server, config, workdir, screen, opened)
        return _local(self.name_of, self.path, config, mesh, chosen, opened)


def judges_of(config: Config) -> list[Judge]:
    """Those of bench.judges, and the judge of the settings where there is one.

    Raises:
        InputError: if there is none, or two have one name.
    """
    judges = []
    for named in config.bench.judges:
        model, at, rest = named.partition("@http")
        if at:
            url, _, variable = f"http{rest}".partition("#")
            judges.append(Judge(server=served(config.judge.server, url, model, variable)))
        else:
            judges.append(Judge(named))
    if config.judge.path:
        judges.append(Judge(config.judge.path))
    if config.judge.server.url:
        judges.append(Judge(server=config.judge.server))
    if not judges:
        raise InputError("no judge to ask: give --bench.judges, --judge.path or --judge.server.url")
    names = [judge.name_of for judge in judges]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InputError(f"two judges are called {twice}: a table could not tell them apart; rename a folder")
    return judges


def served(settings: JudgeServerConfig, url: str, model: str, variable: str) -> JudgeServerConfig:
    """The settings of servers, of another one. Its key is its own: none is sent where it does not belong."""
    return replace(settings, url=url, model=model, key_variable=variable)


def _local(name: str, path: str, config: Config, mesh: Mesh, chosen: Chosen, opened: ExitStack) -> Entrant:
    settings = config.judge
    loaded = load(path, mesh, settings.dtype, chosen=chosen)
    opened.callback(lambda: jax.tree.map(lambda x: x.delete(), loaded.params))
    judge = LocalJudge.of(settings, loaded)
    identity = made_by(loaded.model, loaded.params, loaded.tokenizer, loaded.identity)
    identity |= {"prefix_tokens": settings.prefix_tokens, "dtype": settings.dtype}
    return Entrant(name, identity, lambda prompt, texts: (judge.ask(prompt, texts), len(texts)), judge.check)


def _served(
    name: str, at: JudgeServerConfig, config: Config, workdir: Path, screen: Screen, opened: ExitStack
) -> Entrant:
    settings = config.judge

    def begin() -> Server:
        server = Server(at, f"{spends_as(workdir / 'judges')}/{at.url}/{at.model}", screen.warn)
        opened.callback(server.close)
        return server

    servers: list[Server] = []
    run_on_process_0(lambda: servers.append(begin()), "reaching a judge")

    def answer(prompt: Prompt, texts: Sequence[Texts]) -> tuple[Sequence[Answer], float]:
        def of_server() -> Any:
            (server,) = servers
            before = server.spent.requests
            answers = RemoteJudge.of(settings, server).ask(prompt, texts)
            given = [None if one.shares is None else list(one.shares) for one in answers]
            return given, (server.spent.requests - before) / settings.samples

        given, new = run_on_process_0(of_server, "asking a judge")
        return [Answer(shares) for shares in given], new

    def taken() -> Taken:
        own = run_on_process_0(lambda: [*servers[0].spent, servers[0].cost], "reading what was spent")
        return Taken(*own)

    identity = {
        "url": at.url, "model": at.model, "temperature": at.temperature, "top_p": at.top_p,
        "tokens": at.tokens, "body": at.body, "samples": settings.samples,
        "answering": answering(settings).text, "prefix_tokens": settings.prefix_tokens,
    }  # fmt: skip
    return Entrant(name, identity, answer, taken=taken)
