"""Questions made from templates, for sources that state triples: "What is the {p} of {s}?"."""

from collections.abc import Mapping, Sequence
from string import Formatter

from pretrainrl_jax.errors import InputError

Templates = Mapping[str, str]  # by category; "" is for all others


def read_templates(entries: Sequence[str]) -> Templates:
    """The templates of `facts.questions`: for every category, or for one, as "capital=Which city … {s}?".

    Raises:
        InputError: for a template without {s}, with another placeholder, or two for the same category.
    """
    templates: dict[str, str] = {}
    for entry in entries:
        before, equals, after = entry.partition("=")
        one = bool(equals) and "{" not in before
        category, template = (" ".join(before.split()), after.strip()) if one else ("", entry.strip())
        _check(entry, template)
        if category in templates:
            whose = f"the category {category}" if category else "every category"
            raise InputError(
                f"facts.questions holds two templates for {whose}: {templates[category]}, {entry}"
            )
        templates[category] = template
    return templates


def ask(templates: Templates, category: str, subject: str) -> str:
    """The question about a subject; "" without a subject or a template."""
    template = templates.get(category) or templates.get("", "")
    return template.format(p=category, s=subject) if template and subject else ""


def _check(entry: str, template: str) -> None:
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"facts.questions: {entry!r} is no template ({error})") from None
    named = [name for _, name, how, conversion in parts if name is not None and not (how or conversion)]
    braces = sum(name is not None for _, name, _, _ in parts)
    if "s" not in named or not {"s", "p"}.issuperset(named) or len(named) < braces:
        raise InputError(
            f"facts.questions: {entry!r} must name the subject as {{s}}, and may name the category as {{p}}, "
            "nothing else; a template with a comma can only be set in a configuration file"
        )
