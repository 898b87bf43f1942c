"""The wordings of PopQA's relations; the questions are the file's own."""

from pretrainrl_jax.facts.wordings.wording import Wording
from pretrainrl_jax.facts.wordings.world import CAPITAL

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
