"""A row as a prompt, chosen and rejected answers: what its cells may hold, and what is no preference."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pretrainrl_jax.facts.cleaning import SURROGATE, Unusable
from pretrainrl_jax.facts.written import written
from pretrainrl_jax.preferences.record import Message, Text, key, plain

# Why a row, or a pair of it, is not compared.
RULES = {
    "no prompt": "the prompt is blank, or the answers have no beginning in common",
    "no chosen": "no better answer is given",
    "no rejected": "no worse answer is given",
    "empty answer": "an answer is blank",
    "equal": "the better and the worse answer are the same",
    "not text": "a cell holds neither a text, nor messages of a role and a text, nor a list of these",
    "mixed": "some answers are texts and some are messages",
    "broken list": "a text begins as a list of texts or messages does, and is none that can be read",
    "broken text": "half of a surrogate pair stands in a text",
    "ends with the user": "the last message of an answer is not the assistant's",
    "control tokens": "a text spells a control token (preferences.control_tokens)",
    "refused by the template": "the chat template refuses these messages",
    "too long": "prompt, chosen and rejected answer do not fit in a row of train.row_length tokens",
    "beyond the limit": "not drawn for preferences.limit",
}
(
    NO_PROMPT, NO_CHOSEN, NO_REJECTED, EMPTY, EQUAL, NOT_TEXT, MIXED, BROKEN_LIST, BROKEN_TEXT,
    ENDS_WITH_USER, CONTROL, TEMPLATE, TOO_LONG, BEYOND_LIMIT,
) = RULES  # fmt: skip


# Messages, or one, that were written as text; JSON of another kind is a text that people train on.
_MESSAGES = re.compile(
    r"""[\[\s]*(array\(\s*\[\s*)?(?=\{\s*["'](role|content|from|value)["']\s*:)
    (?=.*["'](role|from)["']\s*:\s*["'](user|assistant|system|developer|tool|human|gpt)["']).*[\]})]\s*""",
    re.VERBOSE | re.DOTALL,
)
_LIST = re.compile(r"""\s*(array\(\s*)?\[\s*(\[\s*|array\()*(["'\]]|\{\s*["'](role|content))""")


def compared(
    prompt: Any, chosen: Any, rejected: Any, implicit: bool, listed: bool
) -> tuple[Text, list[Text], list[Text]]:
    """A row as a prompt and answers: each of the chosen ones is better than each of the rejected ones.

    `implicit`: there is no column of prompts. `listed`: the file has no lists, as CSV, so that texts may hold
    them; messages may stand in any text. Raises Unusable if the row is no preference.
    """
    prompt, chosen, rejected = (_parsed(cell, listed) for cell in (prompt, chosen, rejected))
    better, worse = answers(chosen, NO_CHOSEN), answers(rejected, NO_REJECTED)
    every = [*better, *worse]
    if len({isinstance(answer, str) for answer in every}) > 1:
        raise Unusable(MIXED)
    if implicit:
        prompt, better, worse = _without(every[0][: common_beginning(every)], better, worse)
    else:
        prompt, better, worse = _of_prompt(prompt, better, worse)
    if blank(prompt):
        raise Unusable(NO_PROMPT)
    if any(map(blank, [*better, *worse])):
        raise Unusable(EMPTY)
    if any(not isinstance(a, str) and a[-1]["role"] in ("user", "system") for a in [*better, *worse]):
        raise Unusable(ENDS_WITH_USER)
    return prompt, better, worse


def _without(prompt: Text, better: list[Text], worse: list[Text]) -> tuple[Text, list[Text], list[Text]]:
    """The prompt, and answers that begin with it without it."""
    better, worse = ([answer[len(prompt) :] for answer in side] for side in (better, worse))
    return prompt, better, worse


def _of_prompt(prompt: Any, better: list[Text], worse: list[Text]) -> tuple[Text, list[Text], list[Text]]:
    """A prompt that is given, and the answers without it."""
    if prompt is None or prompt == "" or prompt == []:
        raise Unusable(NO_PROMPT)
    asked, every = text_of(prompt), [*better, *worse]
    if isinstance(every[0], str):
        if not isinstance(asked, str):
            better, worse = (
                list[Text](({"role": "assistant", "content": text},) for text in side)
                for side in (better, worse)
            )
        return asked, better, worse
    if isinstance(asked, str):
        if any(not isinstance(a, str) and a[0]["role"] == "assistant" for a in every):
            return ({"role": "user", "content": asked},), better, worse
        asked = every[0][: common_beginning(every)]  # the prompt says the user's turn of conversations again
    repeated = all(answer[: len(asked)] == asked for answer in every)
    return _without(asked, better, worse) if repeated else (asked, better, worse)


def answers(cell: Any, none: str) -> list[Text]:
    """The answers of a cell: a text, messages, or a list of texts or of messages.

    Raises Unusable by the rule `none` where there is nothing, or if it is something else.
    """
    if cell is None or cell == "" or cell == []:
        raise Unusable(none)
    several = isinstance(cell, list | tuple) and not any(isinstance(part, Mapping) for part in cell)
    return [text_of(part) for part in cell] if several else [text_of(cell)]


def text_of(cell: Any) -> Text:
    """A text as it is, or a message or messages. Raises Unusable for anything else."""
    text = cell if isinstance(cell, str) else _messages(cell)
    if SURROGATE.search(key(text)):
        raise Unusable(BROKEN_TEXT)
    return text


def _messages(cell: Any) -> tuple[Message, ...]:
    messages = [cell] if isinstance(cell, Mapping) else cell
    if not isinstance(messages, list | tuple) or not messages:
        raise Unusable(NOT_TEXT)
    return tuple(map(_message, messages))


def _message(value: Any) -> Message:
    """A message without what is null: tables give every message the keys of all."""
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        raise Unusable(NOT_TEXT)
    content = value.get("content")
    parts = [content] if isinstance(content, str | None) else content
    if not isinstance(parts, list | tuple):
        raise Unusable(NOT_TEXT)
    for part in parts:
        named = part if isinstance(part, Mapping) else {"text": part}
        text, is_text = named.get("text"), named.get("type", "text") == "text"
        if not isinstance(text, str | None) or not (is_text or text):  # images would be lost without a word
            raise Unusable(NOT_TEXT)
    return {name: part for name, part in value.items() if part is not None or name == "content"}


def common_beginning(every: Sequence[Text]) -> int:
    """How many characters, or messages, all of them begin with, as TRL counts: at least one is left of each.

    A space before the place where texts part belongs to the answers.
    """
    shortest = min(map(len, every))
    start = 0
    while start < shortest - 1 and all(text[start] == every[0][start] for text in every):
        start += 1
    text = every[0]
    if isinstance(text, str) and start and text[start - 1] == " ":
        start -= 1
    return start


def blank(text: Text) -> bool:
    """Whether nothing is said."""
    if isinstance(text, str):
        return not text.strip()
    return not any(plain(message).strip() or message.get("tool_calls") for message in text)


def _parsed(cell: Any, listed: bool) -> Any:
    """What a text means: messages, or a list where files have none, as JSON, Python or NumPy write it.

    Any other text is itself.

    Raises Unusable for what begins as a list of texts or messages does, and is none.
    """
    if not isinstance(cell, str) or not (_MESSAGES.fullmatch(cell) or (listed and _LIST.match(cell))):
        return cell
    if (parsed := written(cell)) is None:
        raise Unusable(BROKEN_LIST)
    return parsed
