"""A server's model as the judge or the rewriter."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pretrainrl_jax.config import JudgeConfig, RewriterConfig
from pretrainrl_jax.judging.parts import Answer, Texts
from pretrainrl_jax.judging.prompts import CONTROL, Prompt, opened, read_prompt, read_verdict
from pretrainrl_jax.judging.rewriting import Wanted, Write, behind
from pretrainrl_jax.judging.server import CHARACTERS, Request, Server


@dataclass(frozen=True)
class RemoteJudge:
    """Asks for `judge.samples` replies to each prompt and gives the share of each verdict among them.

    A reply without a verdict is asked for once more. What stays unreadable is in no share; where all are,
    there are none.
    """

    settings: JudgeConfig
    server: Server

    @cached_property
    def _around(self) -> Prompt:
        return answering(self.settings)

    def ask(self, prompt: Prompt, texts: Sequence[Texts], samples: int = 0) -> list[Answer]:
        """The share of each verdict after a prompt with these texts in its places, and what happened.

        `samples`: another number of replies; 0: that of the settings.
        Counted: `verdicts` that were asked for, `malformed` ones that were asked for again, and the
        `unreadable` that stayed so.
        """
        messages = [self.message(prompt, text) for text in texts]
        numbers = range(samples or self.settings.samples)
        asked = [[Request(text, sample) for sample in numbers] for text in messages]
        read = self._read(prompt, [request for requests in asked for request in requests])
        malformed = [request for request, verdict in read.items() if verdict is None]
        again = self._read(prompt, [request._replace(attempt=1) for request in malformed])
        answers = []
        for requests in asked:
            verdicts = [read[request] or again[request._replace(attempt=1)] for request in requests]
            known = [verdict for verdict in verdicts if verdict is not None]
            counts = {
                "verdicts": len(requests),
                "malformed": sum(read[request] is None for request in requests),
                "unreadable": len(verdicts) - len(known),
            }
            shares = [known.count(word) / len(known) for word in prompt.verdicts] if known else None
            answers.append(Answer(shares, counts))
        return answers

    def message(self, prompt: Prompt, texts: Texts) -> str:
        """What is sent: the prompt, and how to reply."""
        around = self._around.text.replace("{verdicts}", ", ".join(prompt.verdicts))
        return around.replace("{prompt}", filled(prompt, texts, self.settings.prefix_tokens))

    def _read(self, prompt: Prompt, requests: Sequence[Request]) -> dict[Request, str | None]:
        replies = self.server.ask(requests)
        return {
            request: read_verdict(reply.text, prompt.verdicts)
            for request, reply in zip(requests, replies, strict=True)
        }


def answering(settings: JudgeConfig) -> Prompt:
    """What stands around each prompt: how to reply. Raises as `read_prompt`."""
    name = "answer_after_reasoning" if settings.reasoning else "answer_at_once"
    return read_prompt("answer", settings.prompts, name)


def remote_writer(prompt: Prompt, settings: RewriterConfig, server: Server) -> Write:
    """Asks a server for rewrites; what does not begin with the prefix's last words is asked for once more."""

    def write(wanted: Sequence[Wanted]) -> list[str]:
        asked = [Request(filled(prompt, one._asdict(), settings.prefix_tokens)) for one in wanted]
        written = [reply.text for reply in server.ask(asked)]
        read = [behind(one.words, text, one.suffix) for one, text in zip(wanted, written, strict=True)]
        odd = [place for place, text in enumerate(read) if text is None]
        again = server.ask([asked[place]._replace(attempt=1) for place in odd])
        for place, reply in zip(odd, again, strict=True):
            written[place] = reply.text
        return written

    return write


def filled(prompt: Prompt, texts: Texts, prefix_tokens: int) -> str:
    """The prompt with texts that hold no control token; of a prefix so many last tokens, 0: all."""
    if "prefix" in texts and prefix_tokens:
        texts = texts | {"prefix": last_characters(texts["prefix"], CHARACTERS * prefix_tokens)}
    return prompt.fill(**{name: opened(text, CONTROL) for name, text in texts.items()})


def last_characters(text: str, count: int) -> str:
    """The end of a text, from the beginning of a word on."""
    if len(text) <= count:
        return text
    end = text[-count:]
    _, space, rest = end.partition(" ")
    return rest if space and rest else end
