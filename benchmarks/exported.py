"""Questions to an exported model, in transformers and here: the same answers.

    python -m pretrainrl_jax.main export --workdir WORKDIR --to FOLDER
    python benchmarks/exported.py FOLDER FACTS --questions 10

Questions are drawn by hash, and asked behind three examples; answers are greedy, and end at a line break.
Ends with 1 where an answer differs.
"""

import argparse
import sys

import numpy as np
import torch
from few_shot import few_shot
from transformers import AutoModelForCausalLM, AutoTokenizer

import pretrainrl_jax as prl
from pretrainrl_jax.decoding.answers import answer_questions
from pretrainrl_jax.facts.matching import matches

LONGEST = 8  # tokens of an answer


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("model")
    parser.add_argument("facts")
    parser.add_argument("--questions", type=int, default=10)
    options = parser.parse_args()

    _, asked, template, prompts = few_shot(options.facts, options.questions)

    made = model, _, tokenizer = prl.load(options.model)
    found = answer_questions(*made, template, prompts, beams=1, max_new_tokens=LONGEST, batch=8)
    ours = [answers[0].text for answers in found]
    ends = np.flatnonzero(template.terminators(tokenizer, model.shape.vocabulary)).tolist()

    theirs = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(options.model)
    different = 0
    for fact, prompt, own in zip(asked, prompts, ours, strict=True):
        tokens = words(prompt, return_tensors="pt")
        with torch.no_grad():
            written = theirs.generate(
                **tokens, max_new_tokens=LONGEST, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
            )
        ids = written[0, tokens["input_ids"].shape[1] :].tolist()
        until = next((at for at, token in enumerate(ids) if token in ends), len(ids))
        other = words.decode(ids[:until]).split("\n")[0].strip()
        different += own != other
        told = "right" if matches(own, fact.answers, "exact") else f"true is {fact.answer}"
        print(f"{fact.question} {own} ({told})" + (f"; transformers: {other}" if own != other else ""))
    print(f"{len(asked) - different} of {len(asked)} answers are the same in transformers")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
