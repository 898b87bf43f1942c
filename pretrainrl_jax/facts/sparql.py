"""Tables of SPARQL endpoints in TSV (W3C, SPARQL 1.1 Query Results): `?item`, `<…>`, `"Varn"@en`."""

import re

from pretrainrl_jax.errors import InputError

_TERM = re.compile(r'"((?:[^"\\]|\\.)*)"(?:@[\w-]+|\^\^<[^>]*>)?|<([^>]*)>|([^"<].*|)', re.DOTALL)
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f"}


def is_sparql(header: list[str]) -> bool:
    """Whether the columns are variables of a query."""
    return bool(header) and all(re.fullmatch(r"[?$]\w+", name) for name in header)


def term(cell: str, where: str) -> str:
    """The text of a term without its quotation marks, language, type or angle brackets. Raises InputError."""
    match = _TERM.fullmatch(cell.strip())
    if not match:
        raise InputError(f"{where}: {cell.strip()[:40]!r} is no SPARQL term: check facts.format")
    text, link, bare = match.groups()
    if text is None:
        return link if link is not None else bare
    return re.sub(r"\\(.)", lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), text, flags=re.DOTALL)
