"""A model on a server: asked over HTTP by OpenAI's protocol, many requests at a time, each reply paid once.

Requests run in an event loop in a thread of its own, so that what asks may be any thread. A request that
fails in passing (no connection, time out, 408, 409, 429, 5xx, half a reply) is sent again after growing
pauses, until the server has given no reply for `patience` seconds. Replies are on disk before they are used.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pretrainrl_jax.config import ServerConfig
from pretrainrl_jax.errors import InputError, first_line
from pretrainrl_jax.judging.ledger import Ledger, Reply, Spent, key_of
from pretrainrl_jax.storage import user_cache

CHARACTERS = 4  # of a token, roughly: what limits and budgets reckon with before a reply tells
MARGIN = 1.5  # on that
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds before a request is sent again
SAY_EVERY = 30.0  # seconds, while a server does not reply
PASSING = (408, 409, 429)  # and all from 500 on


class Request(NamedTuple):
    """A message, and which of several replies to it."""

    text: str
    sample: int = 0
    attempt: int = 0  # asked again, since the reply before could not be read


class ServerError(OSError):
    """A server gave no reply in time, or has taken what it may; the message is one line."""


class Server:
    """A server, its limits, and the file of its replies.

    `run` is whose budget is spent, by its name in the file of replies. `warn` is told, now and then, that the
    server is waited for.

    Raises InputError if the key's variable is not set, the file of replies is of no use, or a library is
    missing.
    """

    def __init__(
        self,
        settings: ServerConfig,
        run: str,
        warn: Callable[[str], None],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings, self._run, self._warn = settings, run, warn
        self._key = environment.get(settings.key_variable, "").strip()
        if settings.key_variable and not self._key:
            meaning = f"set it, or change {settings.place}.key_variable"
            raise InputError(f"the environment variable {settings.key_variable} is not set: {meaning}")
        self._openai, self._tenacity, self._limiters = _libraries(settings)
        self._ledger = Ledger(Path(settings.cache or user_cache(environment) / "replies.sqlite"))
        self.spent = self._ledger.spent(run)  # what the run has taken of it, earlier starts included
        self._promised: list[tuple[int, int, int]] = []  # what may come beside, for each request under way
        self._failing: float | None = None  # since when it gave no reply
        self._said = -SAY_EVERY
        self._extra: dict[str, Any] = json.loads(settings.body or "{}")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name=settings.place)
        self._thread.start()
        self._under_way: dict[str, asyncio.Task[Reply]] = {}  # what is asked now, by its key
        self._slots = asyncio.Semaphore(settings.concurrent)
        self._client = self._openai.AsyncOpenAI(
            base_url=settings.url, api_key=self._key or "none", max_retries=0, timeout=settings.timeout
        )

    @property
    def cost(self) -> float:
        """What is spent as money, by the prices of the settings."""
        return self._price(self.spent.tokens_in, self.spent.tokens_out)

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """The reply to each request; equal ones are sent once, and never what was paid before.

        Raises:
            ServerError: if the server does not reply in time, or what it may take is used up. Replies that
                came until then are kept.
            InputError: if it refuses what it is asked: another key, model or shorter prompts are needed.
        """
        unique = list(dict.fromkeys(requests))
        asked: Future[dict[Request, Reply]] = asyncio.run_coroutine_threadsafe(self._all(unique), self._loop)
        try:
            replies = asked.result()
        except BaseException:
            asked.cancel()
            raise
        return [replies[request] for request in requests]

    def close(self) -> None:
        """End what is asked, and the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
        self._ledger.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def _all(self, requests: Sequence[Request]) -> dict[Request, Reply]:
        """Workers share the requests; after a failure none begins another, and what is under way ends."""
        replies: dict[Request, Reply] = {}
        failed: list[Exception] = []
        remaining: Iterator[Request] = iter(requests)

        async def work() -> None:
            for request in remaining:
                try:
                    replies[request] = await self._one(request, lambda: bool(failed))
                except Exception as error:
                    failed.append(error)
                if failed:
                    return

        await asyncio.gather(*(work() for _ in range(min(self._settings.concurrent, len(requests)))))
        if failed and isinstance(failed[0], _Over):
            limit, settings = str(failed[0]), self._settings
            paid = f"{self.spent.requests:,} replies, {sum(self.spent[1:]):,} tokens (cost {self.cost:.2f})"
            most = f"{settings.place}.{limit} is {getattr(settings, limit):,}"
            raise ServerError(f"{settings.url} gave {paid}, and {most}: raise it to go on")
        if failed:
            raise failed[0]
        return replies

    async def _one(self, request: Request, others_failed: Callable[[], bool]) -> Reply:
        """A reply that is there, or is being waited for by others, or is to be paid."""
        fields, url = self._fields(request), self._settings.url
        key = key_of(server=url, attempt=request.attempt, sample=request.sample, **fields)
        if (known := self._ledger.get(key)) is not None:
            return known
        if (asked := self._under_way.get(key)) is None:
            asked = self._loop.create_task(self._pay(key, fields, request, others_failed))
            self._under_way[key] = asked
            asked.add_done_callback(lambda task: self._under_way.pop(key, None))
        return await asyncio.shield(asked)

    async def _pay(
        self, key: str, fields: Mapping[str, Any], request: Request, others_failed: Callable[[], bool]
    ) -> Reply:
        settings = self._settings
        promise = (1, int(MARGIN * len(request.text) / CHARACTERS) + 1, settings.tokens)
        retrying = self._tenacity.AsyncRetrying(
            retry=self._tenacity.retry_if_exception(self._passes),
            wait=self._pause,
            stop=lambda state: others_failed() or self._gone(),
            before_sleep=self._tell,
            reraise=True,
        )
        async with self._slots:
            with self._promised_to(promise):
                try:
                    reply = await retrying(self._send, fields, promise)
                except Exception as error:
                    raise self._failure(error) from None
                self._ledger.put(key, self._run, reply)
                taken = (1, reply.tokens_in, reply.tokens_out)
                self.spent = Spent(*map(sum, zip(self.spent, taken, strict=True)))
        return reply

    def _fields(self, request: Request) -> dict[str, Any]:
        """The body of a request."""
        settings = self._settings
        fields = {
            "model": settings.model,
            "messages": [{"role": "user", "content": request.text}],
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.tokens,
            "seed": request.sample + 1000 * request.attempt,
        }
        return {name: value for name, value in (fields | self._extra).items() if value is not None}

    async def _send(self, fields: Mapping[str, Any], promise: Sequence[int]) -> Reply:
        for limiter, amount in zip(self._limiters, (1, sum(promise[1:])), strict=True):
            if limiter:
                await limiter.acquire(min(amount, limiter.max_rate))
        async with asyncio.timeout(self._settings.timeout):
            given = await self._client.chat.completions.create(
                model=fields["model"],
                messages=fields["messages"],
                extra_body={name: fields[name] for name in fields if name not in ("model", "messages")},
            )
        try:
            (choice, *_), usage = given.choices, given.usage
            text = choice.message.content or ""
            finish = choice.finish_reason or ""
        except (AttributeError, TypeError, ValueError):
            raise _Odd("what it answered is no chat completion") from None
        self._failing = None
        tokens_in = usage.prompt_tokens if usage else len(str(fields["messages"])) // CHARACTERS
        tokens_out = usage.completion_tokens if usage else len(text) // CHARACTERS
        return Reply(text, finish, tokens_in, tokens_out)

    def _gone(self) -> bool:
        """After a failure, whether it is given up."""
        self._failing = time.monotonic() if self._failing is None else self._failing
        return self._silence() >= self._settings.patience

    @contextmanager
    def _promised_to(self, promise: tuple[int, int, int]) -> Generator[None]:
        """Within it what a request may take is set aside. Raises _Over if there is no room for it."""
        every = self.spent, *self._promised, promise
        requests, tokens_in, tokens_out = map(sum, zip(*every, strict=True))
        taken = {
            "max_requests": requests,
            "max_tokens": tokens_in + tokens_out,
            "max_cost": self._price(tokens_in, tokens_out),
        }
        for limit, needed in taken.items():
            if 0 < getattr(self._settings, limit) < needed:
                raise _Over(limit)
        self._promised.append(promise)
        try:
            yield
        finally:
            self._promised.remove(promise)

    def _price(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self._settings.price_in + tokens_out * self._settings.price_out) / 1e6

    def _silence(self) -> float:
        """Seconds since the first failure after its last reply."""
        return 0.0 if self._failing is None else time.monotonic() - self._failing

    def _passes(self, error: Any) -> bool:
        """Whether a request that failed so may succeed later."""
        if isinstance(error, self._openai.APIStatusError):
            passing = error.status_code in PASSING or error.status_code >= 500
            return passing and error.code != "insufficient_quota"  # money does not come back by waiting
        return isinstance(error, (self._openai.OpenAIError, TimeoutError, ValueError, _Odd))

    def _pause(self, state: Any) -> float:
        """Seconds until a request is sent again: as the server asks, or ever longer; never past patience."""
        error = state.outcome.exception()
        headers = getattr(getattr(error, "response", None), "headers", {})
        asked = str(headers.get("retry-after", ""))
        grown = self._tenacity.wait_exponential_jitter(FIRST_PAUSE, LONGEST_PAUSE, jitter=FIRST_PAUSE)(state)
        pause = max(grown, float(asked)) if asked.replace(".", "", 1).isdecimal() else grown
        return min(pause, max(FIRST_PAUSE, self._settings.patience - self._silence()))

    def _tell(self, state: Any) -> None:
        if time.monotonic() - self._said < SAY_EVERY:
            return
        self._said = time.monotonic()
        left = max(0.0, self._settings.patience - self._silence())
        why = self._why(state.outcome.exception())
        self._warn(
            f"{self._settings.place}: {self._settings.url} does not reply ({why}); waiting, {left:.0f} s more"
        )

    def _failure(self, error: Exception) -> Exception:
        """The error to raise for one that a request ended with: one line, without the key."""
        settings, why = self._settings, self._why(error)
        if isinstance(error, (ServerError, InputError)):
            return error
        if self._passes(error):
            return ServerError(
                f"{settings.place}: no reply from {settings.url} for {self._silence():.0f} s ({why}); "
                "all replies until then are kept: go on when it is there again"
            )
        if not isinstance(error, self._openai.OpenAIError):
            return error
        return InputError(
            f"{settings.place}: {settings.url} refuses what it is asked ({why}): check "
            f"{settings.place}.model, key_variable and body, and the length of prompts (prefix_tokens)"
        )

    def _why(self, error: BaseException) -> str:
        if isinstance(error, self._openai.APIConnectionError):
            error = error.__cause__ or error
        timed_out = f"no reply within {self._settings.timeout:g} s"
        text = timed_out if isinstance(error, TimeoutError) else first_line(error)
        return text.replace(self._key, "…") if self._key else text


class _Over(Exception):
    """There is no room under the limit so named."""


class _Odd(Exception):
    """A reply of HTTP that is none of the protocol."""


def _libraries(settings: ServerConfig) -> tuple[Any, Any, list[Any]]:
    """`openai` and `tenacity`, and a limiter of requests and one of tokens, or None."""
    try:
        import openai
        import tenacity
        from aiolimiter import AsyncLimiter
    except ImportError as error:
        needed = f"{settings.place}.url needs a library that is missing ({error.name})"
        raise InputError(f"{needed}: pip install 'pretrainrl_jax[servers]'") from None
    limits = (settings.requests_per_minute, settings.tokens_per_minute)
    return openai, tenacity, [AsyncLimiter(limit, 60) if limit else None for limit in limits]
