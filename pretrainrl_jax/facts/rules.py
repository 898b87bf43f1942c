"""Why a row became no fact of its own: a short name that is counted, and what it means."""

from pretrainrl_jax.facts import cleaning

MERGED = "merged duplicate"
CONFLICTING = "conflicting duplicate"
RULES = {
    "no question": "the question is blank, and no template of facts.questions can ask it",
    "open question": "{} or [X] stands for a subject, and no subject is named (facts.columns.subject)",
    "no answer": "no answer is given",
    "null answer": "the answer reads as nothing, as None or nan (facts.nulls says which words do)",
    "empty answer": "nothing is left of any answer normalised: punctuation alone",
    "bad popularity": "a popularity is no number, negative or infinite",
    cleaning.NOT_TEXT: "a nested value, or true or false, stands where text should",
    cleaning.BROKEN_TEXT: "half of a surrogate pair stands in a text",
    cleaning.BROKEN_LIST: "an answer begins as a list written as text does, and is none",
    cleaning.SEVERAL_LINES: "an answer has several lines: facts.answer_separator='\\n' makes answers of them",
    MERGED: "asks what an earlier row of the category asks; its answers became true of that one",
    CONFLICTING: "asks what another row of the category asks, with other answers (facts.duplicates=drop)",
    "other category": "not among facts.categories",
    "beyond the limit": "not drawn for facts.limit",
}
NO_QUESTION, OPEN_QUESTION, NO_ANSWER, NULL_ANSWER, EMPTY_ANSWER, BAD_POPULARITY, *_ = RULES
*_, OTHER_CATEGORY, BEYOND_LIMIT = RULES
