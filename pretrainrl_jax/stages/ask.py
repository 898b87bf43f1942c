"""`ask`: what a model answers, and how sure it is."""

import math

from pretrainrl_jax.decoding.answers import answer_questions, distinct
from pretrainrl_jax.stages.context import Context, say
from pretrainrl_jax.training.loading import find, load
from pretrainrl_jax.trees.templates import EXAMPLES, Examples, Template


def ask(context: Context, question: str, kind: str, examples: Examples) -> None:
    """The most probable answers of `model.path`, or of the workdir's newest model, with probabilities.

    It is asked as it was trained, or by the kind of template named; a few-shot prompt shows these examples,
    or those it was trained with, or ours.
    """
    screen, settings = context.screen, context.config.evaluate
    path = context.config.model.path or context.workdir
    loaded = load(path, context.mesh, chosen=context.chosen)
    screen.say(f"model {path if context.config.model.path else find(path)[0]}")
    template = loaded.template
    if kind and (examples or kind != template.kind):
        template = Template(kind, (examples or EXAMPLES) if kind == "few_shot" else ())
    (beams,) = answer_questions(
        loaded.model,
        loaded.params,
        loaded.tokenizer,
        template,
        [template.prefix(question.strip())],
        beams=settings.beams,
        max_new_tokens=settings.max_new_tokens,
        batch=1,
    )
    answers = distinct(a for a in beams if a.finished).values()
    for answer in sorted(answers, key=lambda a: -a.logp):
        say(f"{math.exp(answer.logp):7.2%}  {answer.text or '(nothing)'}")
    if not answers:
        screen.say(f"no answer ends within evaluate.max_new_tokens={settings.max_new_tokens} tokens; so far:")
        for begun in beams:
            say(f"{100 * math.exp(begun.logp):7.3g}%  {loaded.tokenizer.decode(begun.tokens).strip()} …")
