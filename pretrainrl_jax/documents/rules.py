"""Why what a source holds becomes no document, or not all of one: short names that are counted."""

BLANK = "blank"
NO_COLUMN = "no_column"
NO_TEXT = "no_text"
BAD_BYTES = "bad_bytes"
BINARY = "binary"
NOT_JSON = "not_json"
LONG_LINE = "long_line"
BROKEN_OFF = "broken_off"
UNREADABLE = "unreadable"
SHORTENED = "shortened"
CONTROL_TOKEN = "control_token"
TOO_SHORT = "too_short"

RULES = {
    BLANK: "holds no text",
    NO_COLUMN: "does not have documents.column",
    NO_TEXT: "holds something else than a text in documents.column, or several",
    BAD_BYTES: "holds bytes that are not in documents.encoding, or are no Unicode",
    BINARY: "holds null characters, as no text does",
    NOT_JSON: "is not one JSON object",
    LONG_LINE: "is a line too long to be parsed",
    BROKEN_OFF: "is where a file breaks off or is damaged: the rest of that file is not read",
    UNREADABLE: "cannot be read, others can",
    SHORTENED: "is longer than documents.longest, and read up to there",
    CONTROL_TOKEN: "holds a control token's name that the tokenizer cannot write as plain text",
    TOO_SHORT: "has fewer tokens than the shortest prefix and a suffix",
}
