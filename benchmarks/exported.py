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
from transformers import AutoModelForCausalLM, AutoTokenizer

import pretrainrl_jax as prl
from pretrainrl_jax.config import Config, FactsConfig
from pretrainrl_jax.decoding.answers import answer_questions
from pretrainrl_jax.facts.matching import matches
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.trees.templates import Template, choose_examples

LONGEST = 8  # tokens of an answer


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("model")
    parser.add_argument("facts")
    parser.add_argument("--questions", type=int, default=10)
    options = parser.parse_args()

    facts = read_facts(Config(facts=FactsConfig(path=options.facts))).facts
    shown = choose_examples(facts, outside=True)
    examples = tuple((fact.question, fact.answer) for fact in shown)
    template = Template("few_shot", examples, tuple(fact.category for fact in shown))
    asked = subsample([fact for fact in facts if fact not in shown], options.questions, 0)
    prompts = [template.prefix(fact.question, fact.category) for fact in asked]

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
