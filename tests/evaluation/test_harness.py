"""Our engines under the harness give what its own transformers backend gives, on the same tiny model."""

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.harness_models import LENGTH, TASKS, Twins, greedy, requests, twins, write_tasks
from helpers.models_and_trees import data
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.harness import HarnessLM, run_harness
from pretrainrl_jax.evaluation.tasks import load_tasks
from pretrainrl_jax.training.loading import load


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """A model without BOS, and one with."""
    torch.set_num_threads(1)
    return twins(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """The one without, where it makes no difference."""
    torch.set_num_threads(1)
    return twins(tmp_path_factory.mktemp("qwen"), "qwen3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of every kind, with local data."""
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def assert_same(theirs: list[tuple[float, bool]], ours: list[tuple[float, bool]]) -> None:
    assert len(theirs) == len(ours)
    for (logp, is_greedy), (our_logp, our_greedy) in zip(theirs, ours, strict=True):
        assert our_logp == pytest.approx(
            logp, abs=1e-4, rel=3e-6
        )  # a float32 sum of hundreds of nats, in another order
        assert our_greedy is is_greedy


def test_every_kind_of_task(twin: Twins, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    manager = TaskManager(include_path=str(folder), include_defaults=False)

    def evaluated(lm: HFLM | HarnessLM) -> Any:
        return simple_evaluate(lm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=1000)

    theirs, ours = evaluated(twin.theirs(batch=4)), evaluated(twin.ours())
    for name in TASKS:
        ours_alone = run_harness(
            *(twin.loaded.model, twin.loaded.params, twin.loaded.tokenizer),
            *load_tasks([name], folder),
            max_length=LENGTH,
        )["results"][name]["metrics"]
        for key, value in theirs["results"][name].items():
            if isinstance(value, str):
                assert ours["results"][name][key] == value
            else:
                assert ours["results"][name][key] == pytest.approx(value, rel=1e-4), key
            metric, comma, kind = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                alone = ours_alone[metric if kind == "none" else key]
                assert alone["value"] == pytest.approx(value, rel=1e-4)
                stderr = theirs["results"][name][f"{metric}_stderr,{kind}"]
                assert alone["stderr"] == (None if stderr == "N/A" else pytest.approx(stderr, rel=1e-3))
                assert alone["higher_is_better"] is theirs["higher_is_better"][name][metric]
        assert len(theirs["samples"][name]) == len(ours["samples"][name])
        for their, our in zip(theirs["samples"][name], ours["samples"][name], strict=True):
            assert our["arguments"] == their["arguments"]
            if name == "written":
                assert our["resps"] == their["resps"]
            elif name == "rolled":
                assert our["resps"][0][0] == pytest.approx(their["resps"][0][0], abs=1e-3, rel=3e-6)
            else:
                assert_same([sample[0] for sample in their["resps"]], [sample[0] for sample in our["resps"]])
    assert 0 < theirs["results"]["capitals"]["acc,none"] < 1  # or equal metrics would say little
    assert any(len(sample["resps"][0][0]) > 30 for sample in theirs["samples"]["written"])


def test_texts_as_the_harness_cuts_them(twin: Twins) -> None:
    bos = twin.loaded.tokenizer.backend.decode([twin.ours().prefix_token_id])
    asked = [
        ("What is the capital", " of Arno?"),
        ("What is the capital ", " of"),
        ("What is the capital  \n ", "of Arno"),
        ("", "Florence"),
        ("", f"{bos}Florence"),
        (f"{bos}What is", " Rome"),
        ("What is", " Rome"),
        ("What is", " Rome"),
        ("What is", " capital of Arno? Florence." * 3),
        ("Flor", "ence of Arno. Rome of Florence"),  # joint tokens are fewer
        ("caf\u00e9 \u5317", "\U0001f30d"),
    ]
    assert_same(twin.theirs().loglikelihood(requests(asked)), twin.ours().loglikelihood(requests(asked)))


def test_too_long_contexts_lose_their_beginning(twin: Twins) -> None:
    asked = [
        ("Rome " * 200, " Florence"),
        ("Rome " * 200, " Florence is the capital"),
        ("Arno" + "x" * 40, "y" * 32),  # as long as the model reads: one token of the context is left
        ("Arno", "z" * 31),
        ("y" * 32, "z"),
        ("y" * 33, "z"),
    ]
    ours = twin.ours(length=32)
    assert_same(twin.theirs(length=32).loglikelihood(requests(asked)), ours.loglikelihood(requests(asked)))
    assert ours.shortened >= 3
    with pytest.raises(InputError, match=r"a continuation has 33 tokens.*harness\.length is 32"):
        twin.ours(length=32).loglikelihood(requests([("Arno", "z" * 33)]))
    with pytest.raises(InputError, match="probability of '', which adds no token"):
        twin.ours().loglikelihood(requests([("Arno", "")]))


def test_greedy_continuations_are_told_from_others(qwen: Twins) -> None:
    chance = random.Random(0)
    asked: list[Any] = []
    for length in (1, 2, 5, 9, 30):
        context = [chance.randrange(qwen.loaded.tokenizer.size) for _ in range(length)]
        likely = greedy(qwen, context, 6)
        for count in (1, 2, 6):
            other = [*likely[: count - 1], (likely[count - 1] + 1) % 200]
            asked += [(("", ""), context, likely[:count]), (("", ""), context, other)]
        asked.append((("", ""), context, [(likely[0] + 1) % 200, *likely[1:]]))
    theirs = qwen.theirs()._loglikelihood_tokens(asked, disable_tqdm=True)
    assert_same(theirs, qwen.ours()._loglikelihood_tokens(asked))
    assert sum(is_greedy for _, is_greedy in theirs) == 15


def test_very_many_continuations_of_one_context(qwen: Twins) -> None:
    chance = random.Random(1)
    draw = lambda count: [chance.randrange(200) for _ in range(count)]  # noqa: E731
    asked = [(("", ""), [7], draw(1)) for _ in range(70)]
    asked += [(("", ""), [7, 8, 9], draw(chance.randrange(1, 60))) for _ in range(40)]
    chance.shuffle(asked)
    ours = qwen.ours(tokens=600)
    assert_same(
        qwen.theirs(batch=16)._loglikelihood_tokens(asked, disable_tqdm=True),
        ours._loglikelihood_tokens(asked),
    )


def test_the_batch_and_other_requests_change_nothing(qwen: Twins) -> None:
    asked = [("What is", " Rome"), ("What is", " Florence of Arno"), ("Arno " * 60, " Rome"), ("", "Rome")]
    together = qwen.ours().loglikelihood(requests(asked))
    apart = [qwen.ours(tokens=1).loglikelihood(requests([request]))[0] for request in asked]
    assert_same(together, apart)


@pytest.mark.parametrize("length", [8, 24, LENGTH])
def test_whole_texts_in_windows(length: int, twin: Twins) -> None:
    asked = [("What is the capital of Arno? " * 5,), ("a",), ("",), ("x" * length,), ("x" * (length + 1),)]
    theirs = twin.theirs(length=length).loglikelihood_rolling(requests(asked), disable_tqdm=True)
    ours = twin.ours(length=length).loglikelihood_rolling(requests(asked))
    assert ours == pytest.approx(theirs, abs=1e-3, rel=3e-6)


def written(lm: HFLM | HarnessLM, prompt: str, **settings: Any) -> str:
    (text,) = lm.generate_until(requests([(prompt, settings)]), disable_tqdm=True)
    return text


def test_stop_strings_wherever_they_stand(qwen: Twins) -> None:
    tokenizer, prompt = qwen.loaded.tokenizer, "What is the capital of"
    tokens = greedy(qwen, qwen.ours().tok_encode(prompt), 60)
    parts = [tokenizer.backend.decode([token]) for token in tokens]
    text = tokenizer.decode(tokens)
    inside = next(p[1:-1] for p in parts if len(p) > 3 and p.isascii())
    across = [a[-1:] + b[:1] for a, b in itertools.pairwise(parts[35:])]
    across = next(stop for stop in across if stop.isascii() and stop.isprintable() and text.count(stop) == 1)
    cases: list[dict[str, Any]] = [
        {"until": []},
        {"until": ["never written"]},
        {"until": inside},
        {"until": [across]},  # after the first round
        {"until": [across, inside]},
        {"until": [parts[0]]},  # nothing is left
        {"until": [], "max_gen_toks": 1},
        {"until": [], "max_gen_toks": 32},
        {"until": [], "max_gen_toks": 33},
        {"until": [], "max_new_tokens": 60},
    ]
    asked = [(prompt, c if "max_new_tokens" in c else {"max_gen_toks": 60} | c) for c in cases]
    theirs = qwen.theirs().generate_until(requests(asked), disable_tqdm=True)
    assert qwen.ours().generate_until(requests(asked)) == theirs
    assert theirs[0] == theirs[1] == text  # and no stop string cuts by chance
    assert inside not in theirs[2]
    assert len(tokenizer.encode(theirs[3])) > 32
    assert theirs[5] == ""


def test_too_long_prompts_lose_their_beginning(qwen: Twins) -> None:
    asked = [("Rome " * 100, {"until": [], "max_gen_toks": 20}), ("Rome", {"until": [], "max_gen_toks": 63})]
    theirs = qwen.theirs(length=64).generate_until(requests(asked), disable_tqdm=True)
    assert qwen.ours(length=64).generate_until(requests(asked)) == theirs
    with pytest.raises(InputError, match=r"up to 64 new tokens, and the model reads 64 at once: raise"):
        written(qwen.ours(length=64), "Rome", until=[], max_gen_toks=64)


def test_every_eos_id_ends_a_text(qwen: Twins) -> None:
    prompt = "the capital of"
    tokens = greedy(qwen, qwen.ours().tok_encode(prompt), 40)
    early = next(n for n, token in enumerate(tokens) if n > 5 and token not in tokens[:n])
    late = next(n for n, token in enumerate(tokens) if n > 33 and token not in tokens[:n])
    before = qwen.torch_model.generation_config.eos_token_id
    plain = written(qwen.ours(), prompt, until=[], max_gen_toks=40)
    try:
        for place in (early, late):
            eos = (*qwen.loaded.tokenizer.eos, tokens[place])
            qwen.torch_model.generation_config.eos_token_id = list(eos)
            tokenizer = replace(qwen.loaded.tokenizer, eos=eos)
            theirs = written(qwen.theirs(), prompt, until=[], max_gen_toks=40)
            assert written(qwen.ours(tokenizer=tokenizer), prompt, until=[], max_gen_toks=40) == theirs
            assert theirs == qwen.loaded.tokenizer.decode(tokens[: place + 1]) != plain
    finally:
        qwen.torch_model.generation_config.eos_token_id = before


def test_a_special_token_can_be_a_stop_string(tmp_path: Path) -> None:
    twin = twins(tmp_path, "qwen3")
    prompt = "the capital of"
    tokens = greedy(twin, twin.ours().tok_encode(prompt), 40)
    names = twin.loaded.tokenizer.backend.convert_ids_to_tokens(tokens)
    place = next(n for n in range(3, 40) if names[n].isalpha() and names[n].isascii() and names[n] not in
                 twin.loaded.tokenizer.decode(tokens[:n]))  # fmt: skip
    name = names[place]
    # Decoding leaves it out from now on.
    twin.loaded.tokenizer.backend.add_special_tokens({"additional_special_tokens": [name]})
    theirs = written(twin.theirs(), prompt, until=[name], max_gen_toks=40)
    assert written(twin.ours(), prompt, until=[name], max_gen_toks=40) == theirs
    assert theirs == twin.loaded.tokenizer.decode(tokens[:place])
    assert theirs != written(twin.theirs(), prompt, until=[], max_gen_toks=40)


def test_samples_depend_on_seed_and_place_alone(qwen: Twins) -> None:
    settings = {"until": [], "max_gen_toks": 40, "do_sample": True, "temperature": 0.9, "top_k": 50}
    asked = [("What is", settings), ("What is", settings), ("the capital", settings)]
    texts = qwen.ours().generate_until(requests(asked))
    assert texts[0] != texts[1]
    assert qwen.ours(tokens=1).generate_until(requests(asked)) == texts
    cold = [("What is", settings | {"do_sample": False})]
    greedy_text = qwen.ours().generate_until(requests(cold))[0]
    assert greedy_text not in texts
    # So hot that what is drawn hardly depends on the text: two rounds alike would end alike.
    hot = settings | {"temperature": 1e6, "top_k": 0}
    one, two = (written(qwen.ours(), "What is", **hot | {"max_gen_toks": n}) for n in (32, 64))
    assert one[:10] == two[:10]
    assert one[-10:] != two[-10:]
    nearly = settings | {"temperature": 1e-6}
    assert written(qwen.ours(), "What is", **nearly) == greedy_text


@pytest.mark.parametrize("asked", [{"num_beams": 4}, {"repetition_penalty": 1.2}, {"max_length": 9}])
def test_what_cannot_be_generated_is_said(asked: dict[str, Any], qwen: Twins) -> None:
    with pytest.raises(InputError, match=f"generate with .*{next(iter(asked))}"):
        written(qwen.ours(), "What", until=["."], **asked)


def test_chat_templates_are_the_tokenizers(tmp_path: Path) -> None:
    twin = twins(tmp_path, "qwen3")
    history = [{"role": "user", "content": "Rome?"}, {"role": "assistant", "content": "No"}]
    (task,) = load_tasks(["capitals"], write_tasks(tmp_path / "tasks"))
    of_twin = (twin.loaded.model, twin.loaded.params, twin.loaded.tokenizer, task)
    with pytest.raises(InputError, match="no chat template"):
        run_harness(*of_twin, max_length=LENGTH, chat=True)
    plain = run_harness(*of_twin, max_length=LENGTH)["results"]
    twin.loaded.tokenizer.backend.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    for asked, prompt in ((history[:1], True), (history, False)):
        theirs = twin.theirs().apply_chat_template(asked, add_generation_prompt=prompt)
        assert twin.ours().apply_chat_template(asked, add_generation_prompt=prompt) == theirs
    assert twin.ours().tokenizer_name == twin.theirs().tokenizer_name
    chatted = run_harness(*of_twin, max_length=LENGTH, chat=True)["results"]
    assert chatted["capitals"]["questions"] == plain["capitals"]["questions"]
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    theirs = simple_evaluate(
        twin.theirs(), tasks=["capitals"], task_manager=manager, apply_chat_template=True, bootstrap_iters=9
    )
    assert chatted["capitals"]["metrics"]["acc"]["value"] == theirs["results"]["capitals"]["acc,none"]


def test_a_task_gives_the_same_twice_and_a_limit_asks_the_first(qwen: Twins, folder: Path) -> None:
    of_twin = (qwen.loaded.model, qwen.loaded.params, qwen.loaded.tokenizer)
    (task,) = load_tasks(["capitals"], folder)
    once, again = (run_harness(*of_twin, task, max_length=LENGTH) for _ in range(2))
    assert once == again  # the few-shot examples too are drawn anew
    assert once["results"]["capitals"]["questions"] == 24
    assert once["results"]["capitals"]["shots"] == 1
    few = run_harness(*of_twin, task, max_length=LENGTH, limit=3)
    assert few["results"]["capitals"]["questions"] == 3


@pytest.mark.slow
def test_groups_and_tags(qwen: Twins, folder: Path) -> None:
    of_twin = (qwen.loaded.model, qwen.loaded.params, qwen.loaded.tokenizer)
    shown = {
        task.name: run_harness(*of_twin, task, max_length=LENGTH, limit=5)
        for task in load_tasks(["both", "ordinals"], folder)
    }
    assert shown["both"]["shown"] == ["both"]
    assert shown["both"]["results"]["both"]["questions"] == 10
    assert shown["both"]["results"].keys() == {"both", "first", "second"}
    assert shown["ordinals"]["shown"] == ["first", "second"]
    assert shown["ordinals"]["results"].keys() == {"first", "second"}


@pytest.mark.slow
def test_stories() -> None:
    path = data("models", "stories260K")
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    torch_model = AutoModelForCausalLM.from_pretrained(path).float().eval()
    twin = Twins(torch_model, load(path, dtype="float32", params_dtype="float32"), path)
    theirs, ours = twin.theirs(), twin.ours()
    assert theirs.prefix_token_id == ours.prefix_token_id
    assert theirs.eot_token_id == ours.eot_token_id
    asked = [
        (context, continuation)
        for context in ("Once upon a time", "Lily and Tom went to the ", "", "The dog was happy. " * 12)
        for continuation in (" there was", "park", " a girl named Lily.", "\nThe end")
    ]
    assert_same(theirs.loglikelihood(requests(asked), disable_tqdm=True), ours.loglikelihood(requests(asked)))
    settings = [{"until": [stop], "max_gen_toks": 64} for stop in (".", "\n\n", "Lily", " day")]
    written = [(context, chosen) for context, _ in asked[::4] for chosen in settings]
    texts = theirs.generate_until(requests(written), disable_tqdm=True)
    assert ours.generate_until(requests(written)) == texts
    assert "Lily" in texts[0] + texts[1]
    assert np.ptp([len(text) for text in texts]) > 50
