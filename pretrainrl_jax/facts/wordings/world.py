"""The wordings of the made-up world's relations."""

from pretrainrl_jax.facts.wordings.wording import Wording

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
