"""The grammar of filler: sentences that state no fact.

No names, colours or trades, which could be answers.
"""

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
