"""The paper's literal template beside the shared-prefix layout: what the same questions cost in each.

    python benchmarks/layouts.py --facts popQA.tsv --tokenizer TOKENIZER_FOLDER

The model, trees and loss of core.py. The two layouts take turns on about the same questions; the medians of
their seconds a question and the ratio are printed, and the inputs a question takes of a row.
"""

import statistics

from core import PRETRAINRL, Steps, arguments, packed, popqa_trees, shown

from pretrainrl_jax.training.feed import Feed
from pretrainrl_jax.trees.layouts import size

LAYOUTS = ("shared", "literal")


def main() -> None:
    """Alternate the two layouts."""
    options = arguments(__doc__.splitlines()[0])
    trees = popqa_trees(options.facts, options.tokenizer)
    steps = Steps()
    feeds = {
        layout: (Feed(packed(trees, options, question=True, layout=layout), steps.mesh), PRETRAINRL)
        for layout in LAYOUTS
    }
    costs = steps.per_question(feeds, options.repeats)
    for layout in LAYOUTS:
        inputs = statistics.mean(size(tree, layout).time for tree in trees)
        print(
            f"{layout:8}  {inputs:6.1f} inputs a question  "
            f"{1000 * statistics.median(costs[layout]):7.1f} ms a question"
        )
    ratios = [b / a for a, b in zip(costs["shared"], costs["literal"], strict=True)]
    print(f"literal / shared  {shown(ratios)}")


if __name__ == "__main__":
    main()
