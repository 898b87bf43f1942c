"""Why what a source holds becomes no document, or not all of one: short names that are counted."""

RULES = {
    "blank": "holds no text",
    "no_column": "does not have documents.column",
    "no_text": "holds something else than a text in documents.column, or several",
    "bad_bytes": "holds bytes that are not in documents.encoding, or are no Unicode",
    "binary": "holds null characters, as no text does",
    "not_json": "is not one JSON object",
    "long_line": "is a line too long to be parsed",
    "broken_off": "is where a file breaks off or is damaged: the rest of that file is not read",
    "unreadable": "cannot be read, others can",
    "shortened": "is longer than documents.longest, and read up to there",
    "control_token": "holds a control token's name that the tokenizer cannot write as plain text",
    "too_short": "has fewer tokens than the shortest prefix and a suffix",
}
(
    BLANK, NO_COLUMN, NO_TEXT, BAD_BYTES, BINARY, NOT_JSON, LONG_LINE, BROKEN_OFF, UNREADABLE, SHORTENED,
    CONTROL_TOKEN, TOO_SHORT,
) = RULES  # fmt: skip
