"""How each relation is put into words: the question, its held-out paraphrase, the statements of a corpus.

All templates stand here together because they constrain each other: a paraphrase measures something only
if neither the question nor any declarative statement is worded like it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """The templates of one relation; `{subject}` and `{answer}` (and `{relation}`) are filled in."""

    question: str  # ends in '?'; the answer follows after a space
    paraphrase: str  # the same question in a wording that training after pretraining never uses
    statements: tuple[str, ...]  # declarative sentences, each ends in '.'
    proper: bool = True  # the answers of a made-up world are proper names, capitalised


FALLBACK = (
    "The {relation} of {subject} is {answer}.",
    "For {subject}, the {relation} is {answer}.",
    "{subject} has {answer} as its {relation}.",
)

CAPITAL = Wording(
    "What is the capital of {subject}?",
    "Which city is the capital of {subject}?",
    (
        "The capital of {subject} is {answer}.",
        "{subject} has its capital in {answer}.",
        "{answer} is the capital city of {subject}.",
        "The government of {subject} sits in its capital, {answer}.",
    ),
)

WORLD = {
    "capital": CAPITAL,
    "river": Wording(
        "Which river flows through {subject}?",
        "What is the name of the river of {subject}?",
        (
            "The river that flows through {subject} is the {answer}.",
            "{subject} lies on the river {answer}.",
            "The {answer} is the river of {subject}.",
            "The name of the river near {subject} is {answer}.",
        ),
    ),
    "ruler": Wording(
        "Who rules {subject}?",
        "Who is the ruler of {subject}?",
        (
            "The land of {subject} is ruled by {answer}.",
            "{subject} has {answer} for a ruler.",
            "{answer} rules the people of {subject}.",
            "The ruler in {subject} is {answer}.",
        ),
    ),
    "language": Wording(
        "What language is spoken in {subject}?",
        "Which language do the people speak in {subject}?",
        (
            "The language spoken in {subject} is {answer}.",
            "The people of {subject} speak {answer}.",
            "In {subject} the language is {answer}.",
            "{answer} is the language of {subject}.",
        ),
    ),
    "home": Wording(
        "Where does {subject} live?",
        "What place is the home of {subject}?",
        (
            "{subject} lives in {answer}.",
            "The home of {subject} is {answer}.",
            "{subject} has a house in {answer}.",
            "{answer} is the place where {subject} is at home.",
        ),
    ),
    "craft": Wording(
        "What craft does {subject} practise?",
        "What is the craft of {subject}?",
        (
            "The craft of {subject} is {answer}.",
            "{subject} practises the craft of {answer}.",
            "{subject} works at {answer}.",
            "{subject} is a master of {answer}.",
        ),
        proper=False,
    ),
    "instrument": Wording(
        "What instrument does {subject} play?",
        "What is the instrument of {subject}?",
        (
            "{subject} plays the {answer}.",
            "The instrument that {subject} plays is the {answer}.",
            "{subject} owns an old {answer}.",
            "The {answer} is the instrument {subject} loves.",
        ),
        proper=False,
    ),
    "metal": Wording(
        "What metal is mined in {subject}?",
        "What metal is in the mines of {subject}?",
        (
            "The metal mined in {subject} is {answer}.",
            "The mines of {subject} are full of {answer}.",
            "{subject} sells {answer}, a metal.",
            "Miners dig for {answer} in {subject}.",
        ),
        proper=False,
    ),
}

POPQA = {
    "occupation": Wording(
        "What is {subject}'s occupation?",
        "What does {subject} do for a living?",
        (
            "The occupation of {subject} is {answer}.",
            "{subject} is known by profession as: {answer}.",
            "By trade, {subject} is listed as {answer}.",
        ),
    ),
    "place of birth": Wording(
        "In what city was {subject} born?",
        "What is the birthplace of {subject}?",
        (
            "{subject} was born in {answer}.",
            "{subject} came into the world in {answer}.",
            "{answer} is where {subject} was born.",
        ),
    ),
    "genre": Wording(
        "What genre is {subject}?",
        "To which genre does {subject} belong?",
        (
            "The genre of {subject} is {answer}.",
            "{subject} is a work in the genre {answer}.",
            "{subject} is classed as {answer}.",
        ),
    ),
    "father": Wording(
        "Who is the father of {subject}?",
        "Which man is {subject}'s dad?",
        (
            "The father of {subject} is {answer}.",
            "{answer} is the father of {subject}.",
            "{subject} is a child of his or her father, {answer}.",
        ),
    ),
    "country": Wording(
        "In what country is {subject}?",
        "Which nation is {subject} part of?",
        (
            "{subject} is in {answer}.",
            "{subject} can be found in the country {answer}.",
            "The country of {subject} is {answer}.",
        ),
    ),
    "producer": Wording(
        "Who was the producer of {subject}?",
        "Who produced {subject}?",
        (
            "The producer of {subject} was {answer}.",
            "{subject} was produced by {answer}.",
            "{answer} worked as producer on {subject}.",
        ),
    ),
    "director": Wording(
        "Who was the director of {subject}?",
        "Who directed {subject}?",
        (
            "The director of {subject} was {answer}.",
            "{subject} was directed by {answer}.",
            "{answer} worked as director on {subject}.",
        ),
    ),
    "capital of": Wording(
        "What is {subject} the capital of?",
        "Which place has {subject} as its capital?",
        (
            "{subject} is the capital of {answer}.",
            "The city of {subject} is the capital of {answer}.",
            "The capital of {answer} is {subject}.",
        ),
    ),
    "screenwriter": Wording(
        "Who was the screenwriter for {subject}?",
        "Who wrote the script of {subject}?",
        (
            "The screenwriter for {subject} was {answer}.",
            "The screenplay of {subject} is by {answer}.",
            "{answer} was the screenwriter behind {subject}.",
        ),
    ),
    "composer": Wording(
        "Who was the composer of {subject}?",
        "Who wrote the music of {subject}?",
        (
            "The composer of {subject} was {answer}.",
            "{subject} was composed by {answer}.",
            "{answer} was the composer behind {subject}.",
        ),
    ),
    "color": Wording(
        "What color is {subject}?",
        "Which color does {subject} have?",
        (
            "The color of {subject} is {answer}.",
            "{subject} is {answer} in color.",
            "{subject} is known for the color {answer}.",
        ),
    ),
    "religion": Wording(
        "What is the religion of {subject}?",
        "Which faith does {subject} follow?",
        (
            "The religion of {subject} is {answer}.",
            "By religion, {subject} belongs to {answer}.",
            "{subject} has {answer} as a religion.",
        ),
    ),
    "sport": Wording(
        "What sport does {subject} play?",
        "Which sport is {subject} known for?",
        (
            "{subject} plays {answer}.",
            "The sport of {subject} is {answer}.",
            "In sport, {subject} is active in {answer}.",
        ),
    ),
    "author": Wording(
        "Who is the author of {subject}?",
        "Who wrote {subject}?",
        (
            "The author of {subject} is {answer}.",
            "{subject} was written by {answer}.",
            "{answer} is the author behind {subject}.",
        ),
    ),
    "mother": Wording(
        "Who is the mother of {subject}?",
        "Which woman is {subject}'s mom?",
        (
            "The mother of {subject} is {answer}.",
            "{answer} is the mother of {subject}.",
            "{subject} is a child of his or her mother, {answer}.",
        ),
    ),
    "capital": CAPITAL,
}

WORDINGS = POPQA | WORLD

# The grammar of filler: sentences that state no fact. No names, colours or trades, which could be answers.
FILLER = (
    "the {adjective} {noun} {verb} the {noun} {place} the {adjective} {noun}.",
    "{time} the {noun} {verb} the {adjective} {noun}.",
    "a {adjective} {noun} {verb} the {noun} {time}.",
    "{time} nobody {verb} the {adjective} {noun} {place} the {noun}.",
    "the {noun} {place} the {noun} was {adjective} and {adjective}.",
    "someone {verb} the {noun}, but the {noun} was too {adjective}.",
)
_LISTS = {
    "adjective": (
        "quiet, heavy, broken, empty, narrow, hollow, gentle, stubborn, dusty, crooked, sleepy, polished, "
        "careful, bitter, warm, damp, brittle, smooth, ragged, clever, lonely, sudden, pale, distant"
    ),
    "noun": (
        "lantern, ladder, basket, kettle, window, door, bridge, candle, blanket, barrel, table, fence, "
        "cart, rope, pillow, hammer, bucket, chimney, garden, cupboard, ribbon, button, letter, drawer, "
        "wagon, saddle, pebble, feather, shadow, staircase, mirror, carpet, needle, puddle, hedge, roof, "
        "cellar, spoon"
    ),
    "verb": (
        "carried, painted, followed, opened, closed, dropped, mended, borrowed, noticed, covered, forgot, "
        "pushed, lifted, cleaned, counted, watched, moved, wanted, turned, shook, emptied, passed"
    ),
    "place": "behind, under, beside, above, near, against, below, past",
    "time": (
        "in the morning, after the rain, before noon, at midnight, last winter, on a windy day, during "
        "the storm, long ago, every evening, once more"
    ),
}
FILLER_WORDS = {kind: tuple(words.split(", ")) for kind, words in _LISTS.items()}


def paraphrase(relation: str, subject: str) -> str:
    """The held-out wording of the relation's question; "" for a relation without one."""
    wording = WORDINGS.get(relation)
    return wording.paraphrase.format(subject=subject) if wording else ""


def statements(relation: str) -> tuple[str, ...]:
    """The declarative templates of a relation; generic ones where the relation is not known."""
    wording = WORDINGS.get(relation)
    return wording.statements if wording else FALLBACK
