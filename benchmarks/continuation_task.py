"""A task of the lm-evaluation-harness from any text: which of four continuations is the paragraph's own?

    python benchmarks/continuation_task.py TEXT FOLDER --questions 200
    python -m pretrainrl_jax.main evaluate --workdir WORKDIR --harness continuations --harness.path=FOLDER

The three others continue other paragraphs of the same text. It asks for no fact that a run trains, so that it
tells what training did to a model's sense of language; chance is 25 %.
"""

import argparse
import json
import random
from pathlib import Path

BEGINS, GOES_ON = 24, 12  # words of a question, and of each of its continuations
TASK = """\
task: continuations
dataset_path: json
dataset_kwargs:
  data_files: {path}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("text", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=200)
    options = parser.parse_args()

    paragraphs = [line.split() for line in options.text.read_text(encoding="utf-8").splitlines()]
    long = [words for words in paragraphs if len(words) >= BEGINS + GOES_ON]
    chance = random.Random(0)
    chosen = chance.sample(long, min(options.questions, len(long)))
    options.folder.mkdir(parents=True, exist_ok=True)
    path = (options.folder / "continuations.jsonl").resolve()
    with path.open("w", encoding="utf-8") as file:
        for words in chosen:
            others = chance.sample([other for other in long if other is not words], 3)
            ends = [" ".join(each[BEGINS : BEGINS + GOES_ON]) for each in (words, *others)]
            order = chance.sample(range(4), 4)
            asked = {
                "text": " ".join(words[:BEGINS]),
                "choices": [ends[i] for i in order],
                "label": order.index(0),
            }
            file.write(json.dumps(asked, ensure_ascii=False) + "\n")
    (options.folder / "continuations.yaml").write_text(TASK.format(path=path), encoding="utf-8")
    print(f"{len(chosen)} questions: {path}")


if __name__ == "__main__":
    main()
