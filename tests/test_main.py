"""The command line: what it refuses, in one line and before JAX is imported, and what its settings do."""

import dataclasses
import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from gcsfs.retry import HttpError
from helpers.command_line import call, complaint, python
from helpers.models_and_trees import data

from pretrainrl_jax.command_line import default_config, parse, read_config
from pretrainrl_jax.config import NAMED, OBJECTIVES, Config, DpoConfig, NtpConfig, ObjectiveConfig
from pretrainrl_jax.config.stored import changed, every_setting
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.vocabulary import save_tokenizer, train_tokenizer
from pretrainrl_jax.trees.tokenization import load_tokenizer
from pretrainrl_jax.verbs import VERBS
from pretrainrl_jax.workdir import check_workdir, prepare_workdir

HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "grain", "transformers", "tokenizers", "torch", "numpy")
# Runs each command of a JSON list in one process: exit code, what it printed, what is imported by then.
IN_ONE_PROCESS = f"""
import contextlib, io, json, sys
from pretrainrl_jax.main import main
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except BaseException as error:
            code = repr(error)
    heavy = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([code, out.getvalue(), err.getvalue(), heavy]))
"""
TSV = "subj\tprop\tquestion\tpossible_answers\ts_pop\n"
TSV_ROW = 'Arno\tcapital\tWhat is the capital of Arno?\t["Florence"]\t5\n'

# name: (the command's words, what its complaint holds). {here} is a folder that `here` fills.
REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "mistyped key": (["--modle.d_model=3"], ["--modle.d_model", "did you mean model.d_model?"]),
    "mistyped key, two words": (["--model.d_modle", "3"], ["--model.d_modle", "did you mean model.d_model?"]),
    "key without its section": (["--beta1=0.5"], ["--beta1", "did you mean optimizer.beta1?"]),
    "short key without its section": (["--clip=2"], ["--clip", "did you mean optimizer.clip?"]),
    "key of another section": (["--mine.passes=3"], ["--mine.passes", "did you mean train.passes?"]),
    "key like nothing": (["--zzz=3"], ["unknown setting --zzz"]),
    "abbreviated key": (["--model.d_mod=3"], ["unknown setting --model.d_mod", "model.d_model"]),
    "section as a key": (["--world=3"], ["unknown setting --world"]),
    "setting of a comparison": (
        ["report", "--compare", "a", "b", "--name=x"],
        ["--compare", "leave name out"],
    ),
    "markdown of one report": (
        ["report", "--markdown", f"--config={default_config()}"],
        ["give --compare A B"],
    ),
    "value missing": (["--model.d_model"], ["--model.d_model", "expected one argument"]),
    "stray word": (["run", "fast"], ["unexpected argument fast"]),
    "mistyped verb": (["trian"], ["unknown verb 'trian'", "did you mean train?", "pretrain, mine, train"]),
    "whole number": (["--model.d_model=wide"], ["model.d_model is wide: it must be a valid integer"]),
    "fraction": (["--model.d_model=3.5"], ["model.d_model is 3.5", "a valid integer"]),
    "empty number": (["--model.d_model="], ["model.d_model is empty: it must be a valid integer"]),
    "number": (["--pretrain.epochs=many"], ["pretrain.epochs is many", "must be a valid number"]),
    "not a number": (["--pretrain.learning_rate=nan"], ["pretrain.learning_rate is nan", "a finite number"]),
    "infinity": (["--optimizer.clip=inf"], ["optimizer.clip is inf", "must be a finite number"]),
    "true or false": (["--model.tied=maybe"], ["model.tied is maybe", "a valid boolean"]),
    "one of": (["--model.dtype=float16"], ["model.dtype is float16: it must be 'float32' or 'bfloat16'"]),
    "unknown system": (
        ["--train.systems=ntp,grpo"],
        ["'grpo'", "dpo, ntp, ntp_answer, ntp_weighted, rpo, pretrainrl, rlvr, anchored"],
    ),
    "unknown platform": (["--platform=quantum"], ["--platform", "'quantum'", "'tpu'"]),
    "no configuration file": (["--config={here}/none.py"], ["{here}/none.py", "--config"]),
    "folder as configuration": (["--config={here}"], ["{here}", "--config"]),
    "configuration raises": (
        ["--config={here}/raises.py"],
        ["{here}/raises.py:3", "ValueError: first second"],
    ),
    "configuration calls what raises": (["--config={here}/calls.py"], ["{here}/calls.py:2", "ZeroDivision"]),
    "configuration fails in a library": (
        ["--config={here}/json.py"],
        ["{here}/json.py:4", "JSONDecodeError"],
    ),
    "configuration exits": (["--config={here}/exits.py"], ["{here}/exits.py:2", "SystemExit"]),
    "configuration with a syntax error": (
        ["--config={here}/syntax.py"],
        ["{here}/syntax.py:2", "SyntaxError"],
    ),
    "configuration that is no text": (["--config={here}/bytes.py"], ["{here}/bytes.py:1", "utf-8"]),
    "configuration defines none": (["--config={here}/empty.py"], ["{here}/empty.py", "`config`"]),
    "configuration is another thing": (["--config={here}/number.py"], ["{here}/number.py", "`config`"]),
    "section of a wrong type": (
        ["--config={here}/section.py"],
        ["world is 3: it must be an instance of WorldConfig"],
    ),
    "inner section of a wrong type": (
        ["--config={here}/inner.py"],
        ["objectives.dpo is 3: it must be an instance of ObjectiveConfig"],
    ),
    "objectives of a wrong type": (
        ["--config={here}/objectives.py"],
        ["objectives is 3: it must be a valid dictionary"],
    ),
    "term of a wrong type": (
        ["--config={here}/term.py"],
        ["{here}/term.py:2: objective.dpo is 1.0", "an instance of DpoConfig"],
    ),
    "values without a name that are too many": (
        ["--config={here}/many.py"],
        ["{here}/many.py:2: dpo.2 is 5: ", "positional"],
    ),
    "one setting given twice": (
        ["--config={here}/twice.py"],
        ["{here}/twice.py:2: dpo.weight is 2.0: ", "multiple values"],
    ),
    "a check of the configuration file's own": (
        ["--config={here}/own.py"],
        ["{here}/own.py:4: mine.a is 'q': it must be a valid integer"],
    ),
    "objective whose name is a number": (
        ["--config={here}/named.py"],
        ["objectives.3.[key] is 3: it must be a valid string"],
    ),
    "objective with a name for no folder": (
        ["--objectives.a/b.dpo.weight=1", "--train.systems=a/b"],
        ["objectives names 'a/b'", "letters, digits"],
    ),
    "objective with the base model's name": (
        ["--objectives.base.dpo.weight=1", "--train.systems=base"],
        ["objectives names 'base'"],
    ),
    "mistyped objective": (
        ["--objectives.pretrianrl.dpo.weight=2"],
        ["there is no objective 'pretrianrl', did you mean pretrainrl?"],
    ),
    "objective that is not trained": (
        ["--objectives.mine.dpo.weight=2", "--objectives.mine.ntp.answer", "1"],
        ["there is no objective 'mine' (", "where train.systems names it"],
    ),
    "mistyped key of a new objective": (
        ["--objectives.mine.dpo.weihgt=2", "--train.systems=mine"],
        ["--objectives.mine.dpo.weihgt", "did you mean objectives.mine.dpo.weight?"],
    ),
    "objective without a term": (
        ["--objectives.mine.dpo.beta=2", "--objectives.mine.dpo.weight=0", "--train.systems=ntp,mine"],
        [
            "objectives.mine has no term: give objectives.mine.ntp.question, objectives.mine.ntp.answer, "
            "objectives.mine.ntp.answer_mean, objectives.mine.dpo.weight, objectives.mine.anchor.weight, "
            "objectives.mine.grpo.weight or objectives.mine.grpo.kl"
        ],
    ),
    "objective above none": (["--objectives.rpo.above=npt"], ["objectives.rpo.above names 'npt'"]),
    "nothing to choose from": (
        ["--evaluate.choose=acc"],
        ["evaluate.choose is acc", "evaluate.every_steps"],
    ),
    "former name of another section": (
        ["--train.refresh_every=3"],
        ["unknown setting --train.refresh_every"],
    ),
    "former name with a wrong value": (
        ["--objectives.rpo.preference=much"],
        ["objectives.rpo.dpo.weight is much: it must be a valid number"],
    ),
    "setting that the verb does not read": (
        ["facts", "--train.passes=3"],
        ["--train.passes: `facts` reads no setting of train", "run, pretrain, mine, train, evaluate"],
    ),
    "setting of a report": (["report", "--train.passes=3"], ["`report` reads no setting of train"]),
    "help of nothing": (["--help", "trian"], ["--help trian", "did you mean train?"]),
    "value of a wrong type": (["--config={here}/value.py"], ["world.facts is '60'", "a valid integer"]),
    "bool for a number": (["--config={here}/bool.py"], ["model.d_model is True", "a valid integer"]),
    "text for a list": (["--config={here}/text.py"], ["train.systems is 'ntp'", "a valid tuple"]),
    "no facts file": (["--facts.path={here}/none.tsv"], ["{here}/none.tsv", "No such file"]),
    "folder as facts file": (["--facts.path={here}"], ["{here}", "facts.path"]),
    "column missing": (["--facts.path={here}/no_answers.tsv"], ["{here}/no_answers.tsv", "possible_answers"]),
    "no facts": (["--facts.path={here}/header.tsv"], ["no facts in {here}/header.tsv"]),
    "broken row": (["--facts.path={here}/broken.tsv"], ["{here}/broken.tsv, line 3", "possible_answers"]),
    "nothing left to train": (["--facts.holdout_every=1"], ["facts.holdout_every is 1"]),
    "vocabulary too small": (
        ["--model.vocabulary=300", "--tokenizer.vocabulary=301"],
        ["model.vocabulary is 300", "301", "tokenizer.vocabulary"],
    ),
    "no tokenizer folder": (
        ["--tokenizer.path={here}/none"],
        ["--tokenizer.path={here}/none: no such folder"],
    ),
    "no model folder": (["--model.path={here}/none"], ["--model.path={here}/none: no such folder"]),
    "no task of the harness": (
        ["evaluate", "--harness= ,", "--model.path={here}/tokenizer"],
        ["--harness names no task", "mmlu,gsm8k"],
    ),
    "no folder of the harness's tasks": (
        ["evaluate", "--harness=mmlu", "--harness.path={here}/none", "--model.path={here}/tokenizer"],
        ["harness.path is {here}/none: no such folder"],
    ),
    "the harness without a workdir": (["evaluate", "--harness=mmlu"], ["{here}/fresh is no workdir"]),
    "the harness in a workdir of a run": (
        ["evaluate", "--harness=mmlu", "--model.path={here}/tokenizer", "--workdir={here}/other"],
        ["{here}/other is the workdir of a run", "--model.path"],
    ),
    "zero": (["--model.d_model=0"], ["model.d_model is 0: it must be greater than 0"]),
    "negative": (["--model.layers=-1"], ["model.layers is -1"]),
    "negative, two words": (["--pretrain.rows", "-4"], ["pretrain.rows is -4"]),
    "negative where zero may be": (
        ["--corpus.filler=-1"],
        ["corpus.filler is -1", "greater than or equal to 0"],
    ),
    "negative rate": (["--objectives.dpo.learning_rate=-1e-3"], ["objectives.dpo.learning_rate is -1e-3"]),
    "negative seed": (["--seed=-1"], ["seed is -1"]),
    "seed of more than 32 bits": (["--seed=4294967296"], ["seed is 4294967296", "less than 4294967296"]),
    "share above one": (
        ["--corpus.question_share=1.5"],
        ["corpus.question_share is 1.5", "less than or equal to 1"],
    ),
    "moment that never moves": (["--optimizer.beta1=1"], ["optimizer.beta1 is 1", "less than 1"]),
    "uneven heads": (
        ["--model.heads=4", "--model.kv_heads=3"],
        ["model.heads is 4", "multiple of model.kv_heads (3)"],
    ),
    "uneven accumulation": (
        ["--pretrain.rows=4", "--pretrain.grad_accum_steps=3"],
        ["pretrain.rows is 4", "multiple of pretrain.grad_accum_steps (3)"],
    ),
    "odd head": (["--model.head_dim=7"], ["model.head_dim is 7", "even"]),
    "no base model": (["--pretrain.epochs=0"], ["pretrain.epochs is 0", "model.path"]),
    "one step to trace": (["--profile_steps=10"], ["profile_steps is '10': give two steps, as 10:13"]),
    "steps to trace, last first": (["--profile_steps=13:10"], ["profile_steps is '13:10'"]),
    "no step to trace": (["--profile_steps=a:b"], ["profile_steps is 'a:b'"]),
    "process that is not one of them": (
        ["--hosts.coordinator=localhost:1", "--hosts.count=2", "--hosts.index=2"],
        ["hosts.index is 2 and hosts.count 2: processes are numbered from 0"],
    ),
    "source of negatives twice": (
        ["--mine.sources=beam,beam"],
        ["mine.sources is beam,beam: name each once"],
    ),
    "negatives from nowhere": (["--mine.among="], ["mine.among is empty: give category, or a file"]),
    "sources without a negative each": (
        ["--mine.sources=beam,pool", "--mine.negatives=1"],
        ["mine.negatives is 1: raise it, since 2 sources share them"],
    ),
    "orders of seeds": (
        ["--sweep.seed=0,1", "--sweep.train.order=0,1"],
        ["sweep.seed and sweep.train.order: orders of one seed are no seeds, sweep one"],
    ),
    "sweep over nothing": (["--config={here}/nothing.py"], ["sweep.mine.beams is empty: give values"]),
    "bucket of another kind": (["--workdir=s3://bucket/run"], ["--workdir=s3://bucket/run", "gs://BUCKET"]),
    "bucket without a name": (["--workdir=gs:///run"], ["--workdir=gs:///run", "gs://BUCKET"]),
    "half a bucket": (["--workdir=gs:/bucket/run"], ["--workdir=gs:/bucket/run", "gs://BUCKET"]),
    "file as a workdir": (["--workdir={here}/header.tsv"], ["--workdir={here}/header.tsv"]),
    "workdir of another configuration": (
        ["--workdir={here}/other", "--model.d_model=64", "--seed=3"],
        ["{here}/other", "seed was 0, now 3", "model.d_model was 128, now 64", "--workdir"],
    ),
    "workdir with a broken configuration": (
        ["--workdir={here}/cut"],
        ["{here}/cut/config.json", "--workdir"],
    ),
    "plan of a sweep": (
        ["plan", "--topology=v5e:2x2", "--sweep.seed=0,1"],
        ["sweep.* is for `run`: plan one of its cells"],
    ),
    "plan at no price": (
        ["plan", "--topology=v5e:2x2", "--price-per-chip-hour=0"],
        ["--price-per-chip-hour=0: give a price above 0"],
    ),
    "export to a bucket": (
        ["export", "--model={here}", "--to=gs://bucket/model"],
        ["--to=gs://bucket/model: give a folder of this machine"],
    ),
    "harness in a workdir with a broken configuration": (
        ["evaluate", "--harness=mmlu", "--model.path={here}/tokenizer", "--workdir={here}/cut"],
        ["{here}/cut is the workdir of a run"],
    ),
    "preferences that need answers": (
        ["--preferences.path=pairs.jsonl", "--model.path={here}/tokenizer", "--train.systems=rlvr"],
        ["train.systems names rlvr", "answers questions", "preferences have no questions"],
    ),
    "self-improvement on preferences": (
        ["selfimprove", "--preferences.path=pairs.jsonl"],
        ["selfimprove learns from documents: leave preferences.path out"],
    ),
    "self-improvement in a workdir of preferences": (
        ["selfimprove", "--workdir={here}/preferring"],
        ["selfimprove learns from documents: leave preferences.path out, or choose a --workdir"],
    ),
    "adapters of random weights": (
        ["selfimprove", "--lora.rank=4", "--methods.online_dpo.start=scratch"],
        ["lora.rank is 4: methods.online_dpo starts from random weights, which need more than adapters"],
    ),
    "suffix as long as its text": (
        ["selfimprove", "--selfimprove.suffix=64", "--selfimprove.length=64"],
        ["selfimprove.suffix is 64: it must be below selfimprove.length (64)"],
    ),
    "uneven updates": (
        ["selfimprove", "--selfimprove.documents=4", "--selfimprove.updates=3"],
        ["selfimprove.documents is 4: make it a multiple of selfimprove.updates (3)"],
    ),
    "judge without a part": (
        ["selfimprove", "--judge.facts=0", "--judge.repetition=0"],
        ["judge has no part: give judge.facts, repetition, quality, safety or factuality"],
    ),
    "judge that is not asked": (
        ["selfimprove", "--judge.path=x"],
        ["judge.path=x: no part asks it: give judge.quality, safety or factuality"],
    ),
    "judge on a server that is not asked": (
        ["selfimprove", "--judge.server.url=http://x", "--judge.server.model=m"],
        ["judge.server.url=http://x: no part asks it"],
    ),
    "two judges": (
        ["selfimprove", "--judge.path=x", "--judge.server.url=http://x", "--judge.server.model=m"],
        ["judge.path and judge.server.url are both set: one model judges"],
    ),
    "two rewriters": (
        ["selfimprove", "--rewriter.path=x", "--rewriter.server.url=http://x", "--rewriter.server.model=m"],
        ["rewriter.path and rewriter.server.url are both set: one model rewrites"],
    ),
    **{
        f"body of a request that is {what}": (
            [
                "selfimprove",
                "--judge.server.url=http://x",
                "--judge.server.model=m",
                f"--judge.server.body={body}",
            ],
            ["judge.server.body must be a JSON object"],
        )
        for what, body in {"no JSON": "seed", "a list": "[]"}.items()
    },
    "judge on a server without a model": (
        ["judge", "--bench", "--bench.judges=@http://x"],
        ["bench.judges is @http://x: say what the server calls the model: MODEL@URL"],
    ),
    "judge named twice": (
        ["judge", "--bench", "--bench.judges={here},{here}"],
        ["bench.judges is {here},{here}: name each once"],
    ),
    "labels that nobody would make": (
        ["selfimprove", "--make", "judge-data"],
        ["judge-data needs a model", "rewriter.path"],
    ),
    "labels to make and to learn": (
        ["selfimprove", "--make", "judge-data", "--train", "judge"],
        ["--make and --train are two commands"],
    ),
    "no blocklist": (
        ["selfimprove", "--make", "unsafe-data", "--making.blocklist={here}/none.txt"],
        ["cannot read {here}/none.txt", "making.blocklist"],
    ),
    "no question": (["ask"], ["question"]),
    "empty question": (["ask", " "], ["the question is empty"]),
    "no model to ask": (
        ["ask", "Who?", "--workdir={here}/none"],
        ["no model at {here}/none", "--model.path"],
    ),
    **{
        f"no workdir to {verb} in": (
            [verb, "--workdir={here}/none"],
            ["{here}/none is no workdir", "`pretrain`"],
        )
        for verb in ("mine", "train", "evaluate", "report")
    },
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the refused commands name."""
    folder = tmp_path_factory.mktemp("inputs")
    imports = "from pretrainrl_jax.config import *\n"
    for name, text in {
        "raises.py": "x = 1\n\nraise ValueError('first\\nsecond')\n",
        "calls.py": "def divide(x):\n    return 1 / x\n\n\ny = divide(0)\n",
        "json.py": "import json\n\n\njson.loads('\\n\\n{')\n",
        "exits.py": "import sys\nsys.exit(3)\n",
        "syntax.py": "x = 1\ny = (\n",
        "empty.py": "settings = 1\n",
        "number.py": "config = 1\n",
        "section.py": imports + "config = Config(world=3)\n",
        "inner.py": imports + "config = Config(objectives={'dpo': 3})\n",
        "objectives.py": imports + "config = Config(objectives=3)\n",
        "term.py": imports + "config = Config(objectives={'mine': ObjectiveConfig(dpo=1.0)})\n",
        "many.py": imports
        + "config = Config(objectives={'mine': ObjectiveConfig(dpo=DpoConfig(1.0, 0.1, 5))})\n",
        "twice.py": imports + "mine = DpoConfig(1.0, weight=2.0)\n",
        "own.py": "import pydantic\nclass Mine(pydantic.BaseModel):\n    a: int\nMine(a='q')\n",
        "named.py": imports + "config = Config(objectives={3: ObjectiveConfig()})\n",
        "value.py": imports + "config = Config(world=WorldConfig(facts='60'))\n",
        "bool.py": imports + "config = Config(model=ModelConfig(d_model=True))\n",
        "text.py": imports + "config = Config(train=TrainConfig(systems='ntp'))\n",
        "nothing.py": imports + "config = Config(sweep=SweepConfig(over=[('mine.beams', ())]))\n",
        "no_answers.tsv": "subj\tprop\tquestion\ts_pop\nArno\tcapital\tWhat?\t5\n",
        "header.tsv": TSV,
        "broken.tsv": TSV + TSV_ROW + TSV_ROW.replace('["Florence"]', "Florence"),
    }.items():
        (folder / name).write_text(text)
    (folder / "bytes.py").write_bytes(b"x = '\xff'\n")
    save_tokenizer(train_tokenizer(["What is the capital of Arno?"], 257), folder / "tokenizer")
    for name, contents in {
        "cut": {"config.json": "cut of", "metrics.jsonl": {}},
    }.items():
        (folder / name).mkdir()
        for file, values in contents.items():
            text = "{" if values == "cut of" else json.dumps(values)
            (folder / name / file).write_text(text)
    prepare_workdir(folder / "other", read_config(""), create=True)
    (folder / "other" / "metrics.jsonl").touch()
    preferring = changed(read_config(""), {"preferences.path": "pairs.jsonl", "model.path": str(folder)})
    prepare_workdir(folder / "preferring", preferring, create=True)
    (folder / "preferring" / "metrics.jsonl").touch()
    return folder


@pytest.fixture(scope="module")
def refusals(here: Path) -> dict[str, tuple[int, str, str, list[str]]]:
    """What each of REFUSED did, all in one process that had not imported JAX."""
    commands = []
    for words, _ in REFUSED.values():
        own = [] if any("--workdir" in word for word in words) else ["--workdir={here}/fresh"]
        commands.append([word.format(here=here) for word in [*words, *own]])
    ran = python("-c", IN_ONE_PROCESS, text=json.dumps(commands))
    assert ran.code == 0, ran.err
    return dict(zip(REFUSED, map(json.loads, ran.out.splitlines()), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_in_one_line_before_jax(name: str, refusals, here: Path) -> None:
    code, out, err, heavy = refusals[name]
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for part in REFUSED[name][1]:
        assert part.format(here=here) in err
    assert heavy == []


def test_a_refused_command_leaves_no_workdir(refusals, here: Path) -> None:
    assert refusals
    assert not (here / "fresh").exists()
    assert not (here / "none").exists()


def test_the_other_configuration_is_told_apart_by_what_differs_only(refusals) -> None:
    err = refusals["workdir of another configuration"][2]
    assert err.count(" was ") == 2


def test_the_module_as_a_program_exits_with_2() -> None:
    ran = python("-m", "pretrainrl_jax.main", "--modle.d_model=3")
    assert complaint(ran) == "unknown setting --modle.d_model, did you mean model.d_model?"
    assert ran.out == ""


def test_output_that_nobody_reads_ends_the_program_without_a_word() -> None:
    """As `… | head` does."""
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "pretrainrl_jax.main", "--help", "train"]
    ran = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize("verb", ["run", "evaluate", "ask"])
def test_nothing_heavy_is_imported_for_an_unknown_key(verb: str) -> None:
    program = (
        "import sys; from pretrainrl_jax.main import main; code = main(sys.argv[1:]);"
        "print(*sys.modules, sep='\\n'); sys.exit(code)"
    )
    ran = python("-c", program, verb, *["Who?"] * (verb == "ask"), "--modle.d_model=3")
    assert "model.d_model" in complaint(ran)
    imported = {name.partition(".")[0] for name in ran.out.split()}
    assert "pretrainrl_jax" in imported
    heavy = {*HEAVY, "rich", "jinja2", "matplotlib", "scipy", "pandas", "tensorboardX", "tensorflow"}
    assert imported & heavy == set()


def test_a_real_tokenizer_is_larger_than_the_vocabulary(tmp_path: Path) -> None:
    folder = data("tokenizers", "qwen2")
    size = load_tokenizer(folder).size
    arguments = (f"--tokenizer.path={folder}", f"--workdir={tmp_path / 'run'}")
    said = complaint(call(*arguments, f"--model.vocabulary={size - 1}"))
    assert f"model.vocabulary: the tokenizer has {size} tokens" in said
    config = parse(["run", *arguments, f"--model.vocabulary={size}"]).config
    assert config.model.vocabulary == size


# What only JAX, or a file it reads, can tell.


def absent() -> str:
    return "tpu" if jax.default_backend() != "tpu" else "gpu"


def test_another_platform_than_asked_for_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    said = complaint(call("--config", tiny_config, "--workdir", tmp_path, f"--platform={absent()}"))
    assert f"--platform={absent()}" in said
    assert f"found {jax.default_backend()}" in said
    said = complaint(call("ask", "Who?", "--workdir", tmp_path, f"--platform={absent()}"))
    assert f"--platform={absent()}" in said


def test_the_platform_that_is_here_is_accepted(tmp_path: Path) -> None:
    ran = call("ask", "Who?", "--workdir", tmp_path, f"--platform={jax.default_backend()}")
    assert "no checkpoint" in complaint(ran)
    assert f"{jax.device_count()} x {jax.devices()[0].device_kind}" in ran.out


@pytest.mark.parametrize(
    "platform", ["no_such_platform", "rocm"]
)  # unknown to JAX; known, without its plugin
def test_a_platform_that_cannot_be_started_is_one_line(platform: str, tmp_path: Path) -> None:
    words = ("ask", "Who?", "--workdir", tmp_path)
    said = complaint(python("-m", "pretrainrl_jax.main", *words, JAX_PLATFORMS=platform))
    assert f"JAX cannot start (JAX_PLATFORMS={platform!r})" in said


@pytest.mark.parametrize(
    "sizes", [["--mesh.data={n}"], ["--mesh.tensor={n}"], ["--mesh.fsdp={n}", "--mesh.data=1"]]
)
def test_a_mesh_that_does_not_fit_is_refused(sizes: list[str], tiny_config: Path, tmp_path: Path) -> None:
    n = jax.device_count() + 1
    arguments = [size.format(n=n) for size in sizes]
    said = complaint(call("pretrain", "--config", tiny_config, "--workdir", tmp_path, *arguments))
    assert f"needs {n} devices and {jax.device_count()} are here" in said
    assert "mesh.data, mesh.fsdp" in said


def test_a_corrected_command_may_use_the_workdir_of_a_refused_one(tiny_config: Path, tmp_path: Path) -> None:
    command = ("pretrain", "--config", tiny_config, "--workdir", tmp_path / "run")
    assert "devices" in complaint(call(*command, f"--mesh.data={jax.device_count() + 1}"))
    assert "--platform" in complaint(call(*command, f"--platform={absent()}"))
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_tokenizer_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    arguments = ("--config", tiny_config, "--workdir", tmp_path / "run")
    said = complaint(call(*arguments, f"--tokenizer.path={tmp_path / 'tokenizer'}"))
    assert f"no tokenizer in {tmp_path / 'tokenizer'}" in said


def test_a_broken_tokenizer_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("cut of")
    arguments = ("--config", tiny_config, "--workdir", tmp_path / "run")
    assert f"no tokenizer can be read from {tmp_path}" in complaint(
        call(*arguments, f"--tokenizer.path={tmp_path}")
    )


@pytest.mark.parametrize("how", ["--workdir", "--model.path"])
def test_a_folder_without_a_model_cannot_be_asked(how: str, tmp_path: Path) -> None:
    said = complaint(call("ask", "Who?", how, tmp_path))
    assert f"no checkpoint or Hugging Face model at {tmp_path}" in said


# Exit codes.


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("first\nsecond"), 2, "error: first second\n"),
        (FloatingPointError("loss is nan"), 1, "failed: loss is nan\n"),
        (OSError("disk full"), 1, "failed: disk full\n"),
        (
            OSError(errno.ENOSPC, "no space"),
            1,
            "failed: [Errno 28] no space; checkpoints saved before are kept. Make room, then go on with: ",
        ),
        (MemoryError("step: more chips"), 1, "failed: step: more chips\n"),
        (HttpError({"code": 503, "message": "not now"}), 1, "failed: the bucket: HttpError: not now, 503\n"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted; what is finished is kept. Go on with: python -m pretrainrl_jax.main ",
        ),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> int:
        raise error

    monkeypatch.setattr("pretrainrl_jax.stages.start.start", start)
    ran = call("--workdir", tmp_path)
    assert ran.code == code
    assert ran.err.startswith(said)
    assert ran.err.count("\n") == 1


def test_what_nobody_foresaw_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> int:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("pretrainrl_jax.stages.start.start", start)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        call("--workdir", tmp_path)


# Help and settings.


def helped(*words: str) -> str:
    ran = call(*words)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_is_one_screen(words: list[str]) -> None:
    said = helped(*words)
    assert len(said.splitlines()) <= 40
    assert max(map(len, said.splitlines())) <= 110
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.help)}$", said, re.MULTILINE)
    sections = re.findall(r"\w+", said.partition("sections of settings")[2].partition("examples")[0])
    assert set(sections) >= {item.name for item in dataclasses.fields(Config)}
    for example in re.findall(r"^  python -m pretrainrl_jax.main ?(.*)$", said, re.MULTILINE):
        assert parse(shlex.split(example))


@pytest.mark.parametrize("section", [item.name for item in dataclasses.fields(Config)])
def test_help_of_a_section_names_its_settings_with_type_bounds_and_default(section: str) -> None:
    said = helped("--help", section)
    assert helped(f"--help={section}") == said
    text = "".join(said.split())  # lines are broken anywhere
    own = [s for s in every_setting(Config()) if s.name.split(".")[0] == section]
    own = every_setting(NAMED[section][1], f"{section}.NAME.") if section in NAMED else own
    assert own
    assert set(re.findall(r"--[\w.]+(?= [^.])", said)) >= {f"--{s.name}" for s in own}
    for _, item, _, _ in own:
        assert "".join(item.metadata["doc"].split()) in text
    if section == "model":
        assert "--model.dtype float32|bfloat16" in said
        assert re.search(r"--model\.d_model INTEGER > 0 +size of the residual stream \[128\]", said)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_names_its_options_and_what_it_reads(verb: str) -> None:
    for said in (helped(verb, "--help"), helped(verb, "--quiet", "-h")):
        for option in ("--config", "--workdir", "--platform", *VERBS[verb].options):
            assert option in said
        read = said.partition("it reads these sections of settings")[2].partition("\n")[2]
        assert re.findall(r"\w+", read) == list(VERBS[verb].reads)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_the_settings_of_what_it_reads_and_of_nothing_else(verb: str) -> None:
    """`ask` needs a question, `import` a model: what is refused is refused before that."""
    for name, _, value, _ in every_setting(Config()):
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        ran = None
        try:
            parse([verb, f"--{name}={text}"])
        except InputError as error:
            ran = str(error)
        refused = f"`{verb}` reads no setting of {name.split('.')[0]}"
        assert (refused in (ran or "")) == (name.split(".")[0] not in VERBS[verb].reads), (name, ran)


def test_every_section_is_read_by_a_verb() -> None:
    assert {name for verb in VERBS.values() for name in verb.reads} == {
        item.name for item in dataclasses.fields(Config)
    }


@pytest.mark.parametrize(
    ("old", "text", "new"),
    [
        ("model.width", "64", "model.d_model"),
        ("model.head_width", "64", "model.head_dim"),
        ("model.mlp_width", "64", "model.d_ff"),
        ("train.accumulate", "2", "train.grad_accum_steps"),
        ("checkpoint.every_updates", "9", "checkpoint.every_steps"),
        ("objectives.rpo.refresh_every", "9", "objectives.rpo.remine_every"),
        ("objectives.rpo.question_weight", "2", "objectives.rpo.ntp.question"),
        ("objectives.rpo.preference", "2", "objectives.rpo.dpo.weight"),
        ("objectives.mine.beta", "2", "objectives.mine.dpo.beta"),
    ],
)
def test_a_former_name_means_its_setting(old: str, text: str, new: str) -> None:
    more = ["--objectives.mine.dpo.weight=1", "--train.systems=mine"] if "mine" in old else []
    assert parse(["run", f"--{old}={text}", *more]).config == parse(["run", f"--{new}={text}", *more]).config
    assert parse(["run", f"--{new}={text}", *more]).config != parse(["run", *more]).config


def test_former_names_in_a_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(
        "from dataclasses import replace\n"
        "from pretrainrl_jax.config import OBJECTIVES, Checkpoint, Config, Model\n"
        "rpo = replace(OBJECTIVES['rpo'], refresh_every=7)\n"
        "config = Config(model=Model(width=64, head_width=16), checkpoint=Checkpoint(every_updates=3),\n"
        "                objectives=OBJECTIVES | {'rpo': rpo})\n"
    )
    config = parse(["run", "--config", str(tmp_path / "old.py")]).config
    assert (config.model.d_model, config.model.head_dim, config.checkpoint.every_steps) == (64, 16, 3)
    assert config.objectives["rpo"].remine_every == 7


def test_options_stand_in_any_order() -> None:
    for words in (["--evaluate.beams", "5", "Who?"], ["Who?", "--evaluate.beams=5"]):
        command = parse(["ask", *words, "--workdir=runs/x"])
        assert (command.options.question, command.config.evaluate.beams) == ("Who?", 5)


OVERRIDES = [
    ("name", "tales & 50 %", "tales & 50 %"),
    ("seed", "7", 7),
    ("world.facts", "61", 61),
    ("model.tied", "false", False),
    ("model.remat", "True", "full"),
    ("model.remat", "products", "products"),
    ("model.family", "llama", "llama"),
    ("model.dtype", "bfloat16", "bfloat16"),
    ("pretrain.epochs", "0.5", 0.5),
    ("pretrain.learning_rate", "1e-4", 1e-4),
    ("mine.min_probability", "1", 1.0),
    ("objectives.pretrainrl.dpo.beta", "0.5", 0.5),
    ("objectives.pretrainrl.above", "dpo", ("dpo",)),
    ("train.systems", "dpo, ntp", ("dpo", "ntp")),
    ("train.systems", "", ()),
]


@pytest.mark.parametrize(("name", "text", "value"), OVERRIDES)
@pytest.mark.parametrize("joined", [True, False])
def test_an_override_changes_its_setting_and_no_other(
    name: str, text: str, value: object, joined: bool, tiny_config: Path
) -> None:
    before = parse(["run", "--config", str(tiny_config)]).config
    words = [f"--{name}={text}"] if joined else [f"--{name}", text]
    config = parse(["run", *words, "--config", str(tiny_config)]).config
    changed = {s.name: s.value for s in every_setting(config)}
    unchanged = {s.name: s.value for s in every_setting(before)}
    assert unchanged[name] != value
    assert changed == unchanged | {name: value}
    assert type(changed[name]) is type(value)


def test_an_objective_of_ones_own_from_the_command_line_or_a_file(tmp_path: Path) -> None:
    weights = ["--objectives.mine.dpo.weight=2", "--objectives.mine.ntp.answer", "0.5"]
    config = parse(["run", *weights, "--train.systems=mine,ntp"]).config
    mine = ObjectiveConfig(ntp=NtpConfig(answer=0.5), dpo=DpoConfig(weight=2.0))
    assert config.objectives == {**read_config("").objectives, "mine": mine}
    assert mine.coefficients == {"ntp": {"answer": 0.5}, "dpo": {"weight": 2.0, "beta": 0.1}}
    assert mine.contrasts
    assert not OBJECTIVES["ntp"].contrasts
    file = tmp_path / "own.py"
    file.write_text(
        "from pretrainrl_jax.config import *\n"
        "config = Config(objectives={'first-1': ObjectiveConfig('First', ntp=NtpConfig(answer=1.0))},"
        " train=TrainConfig(systems=('first-1',)))\n"
    )
    words = ["--config", str(file), "--objectives.first-1.dpo.weight=3", "--objectives.rpo.dpo.weight=1"]
    assert complaint(call("run", *words)).startswith("--objectives.rpo: there is no objective 'rpo' (")
    config = parse(["run", *words[:3]]).config
    assert config.objectives == {
        "first-1": ObjectiveConfig("First", ntp=NtpConfig(answer=1.0), dpo=DpoConfig(3.0))
    }


def test_a_weight_of_zero_is_no_term() -> None:
    assert ObjectiveConfig(ntp=NtpConfig(0.0, 0, 0.0), dpo=DpoConfig(0.0, beta=0.5)).coefficients == {}
    assert DpoConfig(1.0, beta=0.0).coefficients == {"weight": 1.0, "beta": 0.0}
    assert NtpConfig(answer_mean=2.0).coefficients == {"answer_mean": 2.0}


def test_the_default_is_the_quickstart() -> None:
    command = parse(["run", "--world.relations=4"])
    options, config = command.options, command.config
    assert default_config().name == "quickstart.py"
    quickstart = read_config(str(default_config()))
    assert config == changed(quickstart, {"world.relations": 4})
    assert options.workdir == Path("runs/quickstart")


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--facts.path=facts.csv"),
        ("run", "--preferences.path", "pairs.jsonl"),
        ("pretrain", "--documents.path=texts/"),
        ("selfimprove", "--model.path=model"),
        ("evaluate", "--model.path=model"),
        ("run", "--sweep.facts.path=a.csv,b.csv"),
        ("import", "--model", "model"),
        ("ask", "What?", "--workdir", "runs/mine"),
    ],
)
def test_what_users_have_of_their_own_begins_with_the_defaults(words: tuple[str, ...]) -> None:
    """The quickstart's settings are for its small world and small model."""
    command = parse(words)
    assert command.config == changed(Config(), command.given)
    assert parse([*words, "--config", str(default_config())]).config != command.config


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("run", "--facts.path=data/capitals.csv"), "capitals"),
        (("train", "--preferences.path=pairs.jsonl"), "pairs"),
        (("selfimprove", "--model.path=/models/small/", "--documents.path=texts/*.txt"), "own"),
        (("run", "--facts.path=hf:akariasai/wiki-v1.5", "--model.path=small"), "wiki-v1.5"),
        (("run", "--facts.path=gs://bucket/a.b/x.csv.gz"), "x"),
        (("pretrain", "--documents.path=runs/texts"), "texts_run"),
        (("run", f"--facts.path={300 * 'a'}.csv"), 80 * "a"),
        (("run", "--sweep.facts.path=one.csv,two.csv"), "one"),
        (("run", "--model.path=runs/Qwen2.5-0.5B"), "own"),  # which may hold the model itself
        (("evaluate", "--model.path=Qwen2.5-0.5B", "--facts.path=capitals.csv"), "Qwen2.5-0.5B"),
        (("evaluate", "--model.path=models/small", "--facts.path=capitals.csv"), "small"),
        (("evaluate", "--model.path=models/small/../large/.", "--facts.path=capitals.csv"), "large"),
        (("import", "--model=gs://bucket/small/"), "small"),
        (("import", "--model=models/small/.."), "models"),  # never beside runs/
    ],
)
def test_the_workdir_of_what_users_have_of_their_own_is_named_after_it(
    words: tuple[str, ...], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "train":
        prepare_workdir(tmp_path / "runs" / name, Config(), create=True)
    assert parse(words).options.workdir == Path("runs") / name


@pytest.mark.parametrize("verb", ["run", "pretrain", "selfimprove"])
def test_a_command_without_configuration_goes_on_with_the_workdir_s(verb: str, tmp_path: Path) -> None:
    """As a workdir of an older version, whose defaults were others, does."""
    made = changed(Config(), {"seed": 7, "world.relations": 5})
    prepare_workdir(tmp_path, made, create=True)
    here = ("--workdir", str(tmp_path))
    assert parse([verb, *here]).config.seed == 0  # nothing has begun there: it is taken over
    (tmp_path / "metrics.jsonl").touch()
    assert parse([verb, *here]).config == made
    assert check_workdir(tmp_path, parse([verb, *here]).config, create=True) is False
    with pytest.raises(InputError, match=r"configuration: world\.relations was 5, now 4\. Choose"):
        check_workdir(tmp_path, parse([verb, *here, "--world.relations=4"]).config, create=True)
    file = str(default_config())
    assert parse([verb, *here, "--config", file]).config == read_config(file)


def test_where_a_model_stood_alone_a_run_does_not_go_on(tmp_path: Path) -> None:
    """It would train nothing."""
    alone = {"model.path": "model", "facts.path": "facts.csv", "train.systems": (), "pretrain.epochs": 0.0}
    prepare_workdir(tmp_path, changed(Config(), alone), create=True)
    (tmp_path / "metrics.jsonl").touch()
    command = parse(["run", "--workdir", str(tmp_path), "--model.path=model", "--facts.path=facts.csv"])
    assert command.config.train.systems == Config().train.systems
    with pytest.raises(InputError, match="belongs to another configuration"):
        check_workdir(tmp_path, command.config, create=True)


def test_the_workdir_is_named_after_the_configuration(tiny_config: Path) -> None:
    command = parse(["run", "--config", str(tiny_config)])
    options, config = command.options, command.config
    assert options.workdir == Path("runs/tiny")
    assert config.name == "tiny world"


def test_the_resolved_configuration_is_written(tmp_path: Path) -> None:
    config = parse(["run", "--seed=5", "--train.systems=dpo,ntp"]).config
    prepare_workdir(tmp_path / "deep" / "run", config, create=True)
    written = json.loads((tmp_path / "deep" / "run" / "config.json").read_text())
    assert written["seed"] == 5
    assert written["train"]["systems"] == ["dpo", "ntp"]
    assert written["model"]["d_model"] == Config().model.d_model


def test_other_systems_may_be_added_to_a_workdir(tmp_path: Path) -> None:
    prepare_workdir(tmp_path, parse(["run", "--train.systems=ntp"]).config, create=True)
    (tmp_path / "metrics.jsonl").touch()
    prepare_workdir(tmp_path, parse(["run", "--train.systems=ntp,dpo"]).config, create=False)
    with pytest.raises(InputError, match=r"train\.passes was 3\.0, now 4\.0"):
        prepare_workdir(tmp_path, parse(["run", "--train.passes=4"]).config, create=True)


@pytest.mark.parametrize("code", [0, 2, 130])
def test_a_process_ends_with_the_code_and_at_once_if_interrupted(code: int) -> None:
    script = (
        "import atexit; from pretrainrl_jax import main; atexit.register(print, 'Python ends');"
        f"main.main = lambda arguments: print('said') or {code}; raise SystemExit(main.program())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout.split("\n")[:-1] == ["said"] + ["Python ends"] * (code != 130)
