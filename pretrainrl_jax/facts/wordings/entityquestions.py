"""The wordings of EntityQuestions' relations, by Wikidata's number; the questions are the files' own."""

from pretrainrl_jax.facts.wordings.popqa import POPQA
from pretrainrl_jax.facts.wordings.wording import Wording
from pretrainrl_jax.facts.wordings.world import CAPITAL

ENTITYQUESTIONS = {
    "P17": Wording(  # country
        "Which country is {subject} located in?",
        "What nation does {subject} belong to?",
        (
            "{subject} is located in {answer}.",
            "{subject} can be found in {answer}.",
            "The country of {subject} is {answer}.",
        ),
    ),
    "P19": Wording(  # place of birth
        "Where was {subject} born?",
        "What is the birthplace of {subject}?",
        (
            "{subject} was born in {answer}.",
            "{subject} came into the world in {answer}.",
            "{answer} is where {subject} was born.",
        ),
    ),
    "P20": Wording(  # place of death
        "Where did {subject} die?",
        "What is the place of death of {subject}?",
        (
            "{subject} died in {answer}.",
            "{subject} came to the end of life in {answer}.",
            "{answer} is where {subject} passed away.",
        ),
    ),
    "P26": Wording(  # spouse
        "Who is {subject} married to?",
        "What is the name of {subject}'s spouse?",
        (
            "{subject} is married to {answer}.",
            "The person who married {subject} is {answer}.",
            "{subject} and {answer} are a married couple.",
        ),
    ),
    "P36": CAPITAL,
    "P40": Wording(  # child
        "Who is {subject}'s child?",
        "Which person has {subject} as a parent?",
        (
            "The child of {subject} is {answer}.",
            "{answer} is a child of {subject}.",
            "{subject} raised a child, {answer}.",
        ),
    ),
    "P50": POPQA["author"],
    "P69": Wording(  # educated at
        "Where was {subject} educated?",
        "Which school did {subject} attend?",
        (
            "{subject} was educated at {answer}.",
            "{subject} studied at {answer}.",
            "{subject} got an education from {answer}.",
        ),
    ),
    "P106": Wording(  # occupation
        "What kind of work does {subject} do?",
        "Which job does {subject} have?",
        (
            "{subject} works as {answer}.",
            "The profession of {subject} is {answer}.",
            "By trade, {subject} is listed as {answer}.",
        ),
    ),
    "P112": Wording(  # founded by
        "Who founded {subject}?",
        "Which person set up {subject}?",
        (
            "{subject} was founded by {answer}.",
            "The founder of {subject} is {answer}.",
            "{answer} founded {subject}.",
        ),
    ),
    "P127": Wording(  # owned by
        "Who owns {subject}?",
        "To whom does {subject} belong?",
        (
            "{subject} is owned by {answer}.",
            "The owner of {subject} is {answer}.",
            "{answer} owns {subject}.",
        ),
    ),
    "P131": Wording(  # located in the administrative territorial entity
        "Where is {subject} located?",
        "Which district or region contains {subject}?",
        (
            "{subject} is located in {answer}.",
            "{subject} lies within {answer}.",
            "{answer} is where {subject} can be found.",
        ),
    ),
    "P136": Wording(  # genre
        "What type of music does {subject} play?",
        "In which genre does {subject} perform?",
        (
            "{subject} plays {answer}.",
            "The music of {subject} is {answer}.",
            "{subject} makes music of the type {answer}.",
        ),
    ),
    "P159": Wording(  # headquarters location
        "Where is the headquarter of {subject}?",
        "Which city houses the main office of {subject}?",
        (
            "The headquarter of {subject} is in {answer}.",
            "{subject} has its headquarters in {answer}.",
            "{subject} is run from {answer}.",
        ),
    ),
    "P170": Wording(  # creator
        "Who was {subject} created by?",
        "Which artist made {subject}?",
        (
            "{subject} was created by {answer}.",
            "The creator of {subject} is {answer}.",
            "{subject} is a work of {answer}.",
        ),
    ),
    "P175": Wording(  # performer
        "Who performed {subject}?",
        "Which singer or band is heard on {subject}?",
        (
            "{subject} was performed by {answer}.",
            "The performer of {subject} is {answer}.",
            "{answer} performed {subject}.",
        ),
    ),
    "P176": Wording(  # manufacturer
        "Which company is {subject} produced by?",
        "Who is the manufacturer of {subject}?",
        (
            "{subject} is produced by {answer}.",
            "The company that produces {subject} is {answer}.",
            "{answer} makes {subject}.",
        ),
    ),
    "P264": Wording(  # record label
        "What music label is {subject} represented by?",
        "Which record company stands behind {subject}?",
        (
            "{subject} is represented by {answer}.",
            "The music label of {subject} is {answer}.",
            "{answer} is the label that represents {subject}.",
        ),
    ),
    "P276": Wording(  # location
        "Where is {subject} located?",
        "Which place is the site of {subject}?",
        (
            "{subject} is located in {answer}.",
            "The location of {subject} is {answer}.",
            "{answer} is where {subject} is or was.",
        ),
    ),
    "P407": Wording(  # language of work or name
        "Which language was {subject} written in?",
        "What is the original tongue of {subject}?",
        (
            "{subject} was written in {answer}.",
            "The language of {subject} is {answer}.",
            "The text of {subject} is in {answer}.",
        ),
    ),
    "P413": Wording(  # position played on team
        "What position does {subject} play?",
        "What role does {subject} have on the field?",
        (
            "{subject} plays as {answer}.",
            "The position of {subject} is {answer}.",
            "In the team, {subject} is {answer}.",
        ),
    ),
    "P495": Wording(  # country of origin
        "Which country was {subject} created in?",
        "What nation does {subject} come from?",
        (
            "{subject} was created in {answer}.",
            "The country of origin of {subject} is {answer}.",
            "{subject} was made in {answer}.",
        ),
    ),
    "P740": Wording(  # location of formation
        "Where was {subject} founded?",
        "Which place saw the start of {subject}?",
        (
            "{subject} was founded in {answer}.",
            "{subject} was formed in {answer}.",
            "{answer} is where {subject} was founded.",
        ),
    ),
    "P800": Wording(  # notable work
        "What is {subject} famous for?",
        "Which work is {subject} best known by?",
        (
            "{subject} is famous for {answer}.",
            "The fame of {subject} rests on {answer}.",
            "{answer} brought fame to {subject}.",
        ),
    ),
}
