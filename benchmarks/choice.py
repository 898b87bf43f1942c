"""Free beams and beams among known answers, on the same questions of any model.

    python benchmarks/choice.py MODEL FACTS --questions 96 --beams 10

Prints the share of free beams that are an answer of the question's category at all, and how often each way of
answering is right. Questions are drawn by hash, and put few-shot.
"""

import argparse
import math

import numpy as np
from few_shot import few_shot

import pretrainrl_jax as prl
from pretrainrl_jax.decoding.among import answers_among, known_answers
from pretrainrl_jax.decoding.answers import Answer, answer_questions
from pretrainrl_jax.facts.choices import category_answers
from pretrainrl_jax.facts.matching import known_truths, matches, normalise, truths_of
from pretrainrl_jax.facts.record import Fact


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("model")
    parser.add_argument("facts")
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--beams", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=8)
    options = parser.parse_args()

    facts, asked, template, prompts = few_shot(options.facts, options.questions)
    truths, answers = known_truths(facts), category_answers(facts)
    kinds = [fact.category for fact in asked]

    model, params, tokenizer = prl.load(options.model)
    made = model, params, tokenizer
    ends = template.terminators(tokenizer, model.shape.vocabulary)
    known = known_answers(tokenizer, ends, prompts, kinds, answers)
    how = {"max_new_tokens": options.max_new_tokens, "batch": 16}
    choice = answers_among(*made, prompts, kinds, known, beams=options.beams, batch=16)
    greedy, free = (
        answer_questions(*made, template, prompts, beams=width, **how) for width in (1, options.beams)
    )

    def right(fact: Fact, answer: Answer) -> bool:
        return answer.finished and matches(answer.text, truths_of(fact, fact.question, truths), "exact")

    spelled: dict[str, set[str]] = {}
    for fact in facts:
        spelled.setdefault(fact.category, set()).update(map(normalise, fact.answers))
    ended = [(fact, a) for fact, beams in zip(asked, free, strict=True) for a in beams if a.finished]
    formed = [normalise(a.text) in spelled[fact.category] for fact, a in ended]
    mass = [math.exp(a.logp) for _, a in ended]
    print(f"{len(asked)} questions, {options.beams} beams; {sum(map(len, answers.values()))} known answers")
    print(f"free beams that are an answer of the category: {np.mean(formed):.1%}")
    print(f"of what they weigh: {np.dot(formed, mass) / sum(mass):.1%}")
    firsts = {"greedy": greedy, "best free beam": free, "choice": choice}
    for name, found in firsts.items():
        hits = [bool(beams) and right(fact, beams[0]) for fact, beams in zip(asked, found, strict=True)]
        print(f"{name}: right {np.mean(hits):.1%}")
    for name, found in (("free", free), ("constrained", choice)):
        hits = [any(right(fact, a) for a in beams) for fact, beams in zip(asked, found, strict=True)]
        print(f"right in any {name} beam: {np.mean(hits):.1%}")


if __name__ == "__main__":
    main()
