"""What the base model and each method of `selfimprove` write: true or false, and who writes better."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import jax

from pretrainrl_jax.atomic import write_text
from pretrainrl_jax.evaluation.truthfulness import evaluate_truthfulness, held_out_texts
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.improvement.compared import Continued, continue_greedily, cut_texts, won
from pretrainrl_jax.improvement.cost import compared
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.improvement import Improvement
from pretrainrl_jax.training.loading import Loaded

BASE, UNTRAINED = "base", "scratch"  # systems that are not trained here


def evaluate_improvement(
    context: Context, improvement: Improvement, initial: Callable[[str], Loaded]
) -> None:
    """What the base model, random weights where a method starts from them, and each method write."""
    config = context.config
    starts = {config.methods[system].start for system in config.selfimprove.systems}
    untrained = UNTRAINED in starts and (config.model.path or config.pretrain.epochs)  # else it is the base
    systems = [BASE, *([UNTRAINED] if untrained else []), *config.selfimprove.systems]
    folder = context.workdir / "evaluations" / "selfimprove"
    for system in systems:
        if context.done(f"evaluate/selfimprove/{system}"):
            continue
        began = time.perf_counter()
        loaded = initial(system) if system in (BASE, UNTRAINED) else context.load(f"selfimprove/{system}")
        with ExitStack() as bars:

            def begin(total: int, system: str = system, bars: ExitStack = bars) -> Callable[[int], None]:
                tracked = context.screen.track(f"evaluate/selfimprove/{system}", total, "texts")
                return bars.enter_context(tracked).advance

            result = evaluate_truthfulness(
                loaded, context.facts, improvement.made, improvement.statements, config, begin
            )
        if compared(config):
            result |= compare(context, improvement, system, loaded)
        path = folder / f"{system}.json"

        def write(path: Any = path, result: Any = result) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(result, ensure_ascii=False))

        run_on_process_0(write, f"writing {path.name}")
        context.finish(f"evaluate/selfimprove/{system}", seconds=time.perf_counter() - began)
        jax.tree.map(lambda x: x.delete(), loaded.params)


def compare(context: Context, improvement: Improvement, system: str, loaded: Loaded) -> dict[str, Any]:
    """Held-out texts continued, and whose continuation the run's judge finds better, this or the base's.

    Returns:
        "continued": what the model wrote, as `Continued`. Of any but the base model "compared", a win of each
        prefix with a verdict, 1, 0 or ½, and "unjudged", how many have none. Only "continued" where the base
        model was measured by a version that kept none of it.
    """
    config = context.config
    cuts = cut_texts(held_out_texts(improvement.made, config), loaded.tokenizer, config)
    if not cuts:
        if system == BASE:
            needed = config.selfimprove.shortest_prefix + config.selfimprove.suffix
            context.screen.warn(
                f"no win rate against the base model: no held-out text has {needed} tokens to cut; give a "
                "file as evaluate.text, or set selfimprove.compared to 0"
            )
        return {}
    continued = continue_greedily(loaded, cuts, config)
    kept = {"continued": [list(one) for one in continued]}
    if system == BASE:
        return kept
    base = base_continued(context)
    if [one.prefix for one in base] != [one.prefix for one in continued]:
        context.screen.warn(
            f"evaluate/selfimprove/{system}: no win rate: an older version measured the base model, and kept "
            "not what it wrote; remove evaluations/selfimprove to measure all anew"
        )
        return kept
    with context.screen.track(f"evaluate/selfimprove/{system}/judged", len(cuts), "prefixes") as bar:

        def judge() -> list[float | None]:
            return won(improvement.full_judge, base, continued, config.selfimprove.documents, bar.advance)

        asks = config.judge.server.url  # which process 0 alone does
        verdicts = run_on_process_0(judge, "judging the base model's continuations") if asks else judge()
    wins = [verdict for verdict in verdicts if verdict is not None]
    return kept | {"compared": [{"won": win} for win in wins], "unjudged": len(verdicts) - len(wins)}


def base_continued(context: Context) -> list[Continued]:
    """What the base model wrote after the held-out prefixes, as it was kept."""
    path = context.workdir / "evaluations" / "selfimprove" / f"{BASE}.json"

    def read() -> list[list[Any]]:
        return json.loads(path.read_text(encoding="utf-8")).get("continued", []) if path.is_file() else []

    return [Continued(*one) for one in run_on_process_0(read, f"reading {path.name}")]
