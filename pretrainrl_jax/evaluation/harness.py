"""The lm-evaluation-harness (the extra `eval`) drives a model through its `LM` interface.

What a task asks, how contexts and continuations are cut into tokens and how answers are judged is the
harness's own; the answers come from our engines. Semantics are those of its transformers backend, so that
both give the same numbers.
"""

import contextlib
import io
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation import continuations, generation
from pretrainrl_jax.evaluation.generation import Request
from pretrainrl_jax.evaluation.tasks import MISSING, SHOTS_SEED, Task
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.progress import SILENT, Track
from pretrainrl_jax.trees.tokenization import Tokenizer

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.evaluator import evaluate
    from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise InputError(MISSING) from None

Json = dict[str, Any]

MAX_NEW_TOKENS = 256  # where a task sets no limit, as the harness's transformers backend has it
RESAMPLES = 1000  # for standard errors without a formula


class HarnessLM(TemplateLM):
    """A model as the harness sees it.

    Args:
        max_length: tokens that the model reads at once; longer contexts lose their beginning.
        seed: of the texts that a task draws at random.
        tokens: of a batch.
        track: shows progress through so many units of a name.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        seed: int = 0,
        tokens: int = 8192,
        track: Callable[[int, str], AbstractContextManager[Track]] = lambda total, unit: SILENT.track(
            "harness", total, unit
        ),
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer.backend
        self.shortened = 0  # contexts that lost their beginning, since they were too long
        self._model, self._params, self._tokenizer = model, params, tokenizer
        self._max_length, self._seed, self._tokens, self._track = max_length, seed, tokens, track

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's own EOS; the model's first one where it has none."""
        own = self._tokenizer.backend.eos_token_id
        return self._tokenizer.eos[0] if own is None else own

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context: BOS, even if the tokenizer adds none, or else EOS."""
        bos = self._tokenizer.backend.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        """The most tokens that the model reads at once."""
        return self._max_length

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer was read from, in a form that is a file's name."""
        return self._tokenizer.backend.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; BOS first if the model's tokenizer adds it and the text does not begin with it."""
        if add_special_tokens is None:
            bos = self._tokenizer.backend.decode([self.prefix_token_id])
            add_special_tokens = not has_bos_prefix(string, bos)
        start = self._tokenizer.start if add_special_tokens else ()
        return [*start, *self._tokenizer.encode_rendered([string])[0]]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the tokenizer's chat template writes it; the last turn may stay open."""
        return self._tokenizer.backend.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Of each (context, continuation) the log-probability in nats, and whether it is greedy."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-probability in nats of each whole text, a longer one in windows of the model's length."""
        windows, counts = [], []
        for (text,) in (request.args for request in requests):
            of_text = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            before = len(windows)
            windows += [(("", ""), *make_disjoint_window(window)) for window in of_text]
            counts.append(len(windows) - before)
        scores = iter(self._loglikelihood_tokens(windows))
        return [math.fsum(next(scores)[0] for _ in range(count)) for count in counts]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        shared = continuations.share([self._fitted(*request) for request in requests])
        with self._track(len(shared), "contexts") as bar:
            return continuations.judge(
                self._model, self._params, shared, tokens=self._tokens, advance=bar.advance
            )

    def _fitted(
        self, texts: tuple[str, str], context: list[int], continuation: list[int]
    ) -> continuations.Pair:
        """Context and continuation in the model's length: the last token is predicted and not read."""
        if not continuation:
            raise InputError(f"a task asks for the probability of {texts[1]!r}, which adds no token")
        if len(continuation) > self.max_length:
            length = f"the model reads at once (harness.length is {self.max_length})"
            raise InputError(f"a continuation has {len(continuation)} tokens, more than {length}")
        context = context or [self.prefix_token_id]
        room = self.max_length + 1 - len(continuation)
        self.shortened += len(context) > room
        return tuple(context[-room:]), tuple(continuation)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """The text after each context, up to a stop string, EOS or the task's limit."""
        wanted = [self._request(*request.args) for request in requests]
        engine = self._model, self._params, self._tokenizer
        with self._track(len(wanted), "texts") as bar:
            return generation.generate(
                *engine, wanted, tokens=self._tokens, seed=self._seed, advance=bar.advance
            )

    def _request(self, context: str, gen_kwargs: Json) -> Request:
        kwargs: Json = dict(normalize_gen_kwargs(gen_kwargs, MAX_NEW_TOKENS))
        eos = self._tokenizer.backend.decode([self.eot_token_id])
        until = handle_stop_sequences(kwargs.pop("until"), eos=eos)
        limit = kwargs.pop("max_gen_toks")
        drawn = kwargs.pop("do_sample")
        settings = {name: kwargs.pop(name, default) for name, default in _SAMPLING.items()}
        if kwargs.pop("num_beams", 1) != 1 or kwargs:
            names = ", ".join(sorted(gen_kwargs))
            raise InputError(f"a task asks to generate with {names}: some of this is not done here")
        room = self.max_length - limit
        if room < 1:
            reads = f"the model reads {self.max_length} at once: raise harness.length"
            raise InputError(f"a task asks for up to {limit} new tokens, and {reads}")
        prompt = self.tok_encode(context) or [self.prefix_token_id]
        self.shortened += len(prompt) > room
        return Request(
            tuple(prompt[-room:]), tuple(filter(None, until)), limit, **(settings if drawn else {})
        )


_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


def run_harness(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    task: Task,
    *,
    limit: int = 0,
    chat: bool = False,
    **settings: Any,
) -> Json:
    """A model's results on a task of the harness, as plain JSON.

    `limit`: questions of each task, the first ones; 0 asks all. `chat`: contexts are put into the tokenizer's
    chat template. `settings`: of `HarnessLM`.

    `results`: of each task, and of each group with a number of its own, `questions` (how many were asked),
    `shots`, `version`, and `metrics`: name -> `value`, `stderr` (None where it has none) and
    `higher_is_better`. `shown`: those of `results` that the task's name stands for. `shortened`: how many
    contexts lost their beginning.

    Raises InputError if a task asks for what cannot be done, or there is no chat template to use.
    """
    if chat and not tokenizer.backend.chat_template:
        raise InputError("harness.chat is true, and this tokenizer has no chat template")
    lm = HarnessLM(model, params, tokenizer, **settings)
    for subtask in task.loaded["tasks"].values():
        subtask.set_fewshot_seed(seed=SHOTS_SEED)
    with contextlib.redirect_stdout(io.StringIO()):  # the harness talks of its bootstraps
        evaluated: Any = evaluate(
            lm,
            task_dict=task.loaded,  # type: ignore[arg-type]
            limit=limit or None,
            bootstrap_iters=RESAMPLES,
            log_samples=False,
            apply_chat_template=chat,
            fewshot_as_multiturn=True,
        )
    results = {name: _result(name, evaluated) for name in evaluated["results"]}
    results = {name: result for name, result in results.items() if result["metrics"]}
    stands_for = [task.name] if task.name in results else task.loaded["group_map"].get(task.name, results)
    return {
        "results": results,
        "shown": [name for name in stands_for if name in results],
        "shortened": lm.shortened,
    }


def _result(name: str, evaluated: Json) -> Json:
    values = evaluated["results"][name]
    better = evaluated["higher_is_better"].get(name) or {}
    metrics = {}
    for key, value in values.items():
        metric, comma, filter = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            metrics[metric if filter == "none" else key] = {
                "value": _number(value),
                "stderr": _number(values.get(f"{metric}_stderr,{filter}")),
                "higher_is_better": better.get(metric),
            }
    return {
        "questions": values.get("sample_len"),
        "shots": evaluated["n-shot"].get(name),
        "version": evaluated["versions"].get(name),
        "metrics": metrics,
    }


def _number(value: object) -> float | None:
    """A finite number; the harness writes "N/A" where there is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
