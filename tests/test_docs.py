"""README and docs: every command that they show is understood and runs, or says what it needs."""

import contextlib
import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.command_line import call, undrawn

from pretrainrl_jax.command_line import help_for, parse
from pretrainrl_jax.errors import InputError

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
MAIN = ["python", "-m", "pretrainrl_jax.main"]
COMMANDS = ("python ", "pip ", "pytest", "mkdocs ", "pretrainrl ", "PYTHONPATH=")
# What a block that is not run may name as the reason, in a comment before it: <!-- needs: GPU, data -->
NEEDS = {"network", "GPU", "TPU", "hours", "hosts", "data", "adapters", "a process", "your own loop"}
MARK = re.compile(r"<!-- needs: (.*) -->")
OTHER_FILES = {
    "prompts.jsonl": '{"prompt": "Who wrote Emma?", "answer": {"value": "Jane Austen", "aliases": []}}\n',
    "pairs.jsonl": '{"prompt": "The sky is", "chosen": " blue.", "rejected": [" green.", " red."]}\n',
    "triples.jsonl": '{"subject": "Arno", "property": "capital", "object": "Florence"}\n',
}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    needs: tuple[str, ...]

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command."""
        commands = []
        for line in self.text.replace("\\\n", " ").splitlines():
            commands += [shlex.split(part) for part in line.split("&&")]
        return commands


def blocks(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, with what the comment before each says."""
    lines, fenced, at = text.splitlines(), [], 0
    while at < len(lines):
        if lines[at].startswith("```"):
            end = lines.index("```", at + 1)
            before = next((line for line in reversed(lines[:at]) if line.strip()), "")
            needs = MARK.fullmatch(before)
            reasons = tuple(needs[1].split(", ")) if needs else ()
            inside = "\n".join(lines[at + 1 : end])
            fenced.append(Block(page, at + 1, lines[at].removeprefix("```"), inside, reasons))
            at = end
        at += 1
    return fenced


TEXTS = {page: path.read_text(encoding="utf-8") for page, path in PAGES.items()}
BLOCKS = [block for page, text in TEXTS.items() for block in blocks(page, text)]
SHELL = [block for block in BLOCKS if block.language == "bash"]
INLINE = [
    (page, code)
    for page, text in TEXTS.items()
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
]


def name_of(block: Block) -> str:
    return f"{block.page}:{block.line}"


# What is on the pages.


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 150


def test_blocks_say_what_they_are():
    for block in BLOCKS:
        assert block.language in ("bash", "python", "text", "json", "math"), name_of(block)
        shows = [line for line in block.text.splitlines() if line.startswith(COMMANDS)]
        assert not shows or block.language == "bash", (
            f"{name_of(block)}: a command, in a block of another kind"
        )
        assert set(block.needs) <= NEEDS, name_of(block)


def test_marks_stand_before_a_block_of_commands():
    marks = sum(len(MARK.findall(text)) for text in TEXTS.values())
    assert marks == sum(bool(block.needs) for block in BLOCKS if block.language in ("bash", "python"))


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", TEXTS["README.md"]):
        assert "://" in target or (ROOT / target).is_file(), target


def test_ci_runs_the_commands_of_the_readme():
    text = (ROOT / ".ci" / "run").read_text().replace(" -q", "")
    lines = [line.strip() for line in text.splitlines()]
    for command in ("pip install -e .", "pip install -e '.[test]'", "pytest"):
        assert command in lines
    assert any(line.startswith(" ".join(MAIN)) for line in lines)
    shown = [" ".join(command) for block in SHELL if block.page == "README.md" for command in block.commands]
    assert shown == ["pip install -e .", " ".join(MAIN), "pip install -e .[test]", "pytest"]


# Every command is understood.


def as_a_reader_has_it(folder: Path) -> None:
    """What stands beside a run."""
    for name in ("configs", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    (example,) = (block.text for block in BLOCKS if block.language == "json")
    for name, text in {"mine.jsonl": example + "\n", **OTHER_FILES}.items():
        (folder / name).write_text(text)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader has it, without a run."""
    as_a_reader_has_it(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def with_run(here: Path, finished: Path) -> Path:
    """The same after the quickstart, which was a smaller one."""
    shutil.copytree(finished, here / "runs" / "quickstart")
    return here


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """One for all that change nothing."""
    folder = tmp_path_factory.mktemp("reader")
    as_a_reader_has_it(folder)
    shutil.copytree(finished, folder / "runs" / "quickstart")
    return folder


@pytest.fixture
def looking(read_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(read_only)


def check(arguments: list[str]) -> None:
    """The command line takes these arguments; InputError if not."""
    if not help_for(arguments):
        parse(arguments)


def understood(words: list[str]) -> None:
    """A command's verb, settings, files and options are there."""
    if words[0] == "pretrainrl":
        words = [*MAIN, *words[1:]]
    if words[:3] == MAIN:
        check(words[3:])
    elif words[:3] == ["pip", "install", "-e"]:
        extras = re.fullmatch(r"\.(?:\[(.*)\])?", words[3])
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert extras, words
        assert set(filter(None, (extras[1] or "").split(","))) <= set(project["optional-dependencies"])
    elif words[0] == "python" and words[1].startswith("benchmarks/"):
        program = (ROOT / words[1]).read_text()
        assert all(f'"{word}"' in program for word in words[2:] if word.startswith("--")), words
    elif words[0] == "sbatch":
        (script,) = (at for at, word in enumerate(words) if word.endswith(".sbatch"))
        assert (ROOT / words[script]).exists()
        check(words[script + 1 :])  # as the script passes them on
    elif words[0] == "python" and words[1] == "launch/tpu.py":
        options = runpy.run_path(str(ROOT / words[1]))["parse"](words[2:])
        as_sent = {Path(name).name: name for name in getattr(options, "send", [])}
        assert all((ROOT / name).is_file() for name in as_sent.values()), words
        check([as_sent.get(word, word) for word in options.command] or ["--help"])
    elif words[0] == "python" and words[1] == "launch/kubernetes.py":
        assert runpy.run_path(str(ROOT / words[1]))["manifest"](words[2:])
        check(words[words.index("--") + 1 :])
    elif words[0] == "docker":
        assert words[:3] == ["docker", "build", "-f"], words
        assert (ROOT / words[3]).is_file()
    elif words[0] == "gcloud":
        assert " ".join(words[1:3]) in (
            "services enable",
            "storage buckets",
            "storage cp",
            "storage cat",
            "auth application-default",
        ) or (words[1:4] == ["iam", "service-accounts", "create"]), words
    elif words[0] == "pytest":
        assert all((ROOT / word).exists() for word in words[1:] if "/" in word), words
    else:
        assert words[:2] in (["mkdocs", "build"], ["xprof", "WORKDIR/profile"], ["pip", "install"]), words


@pytest.mark.parametrize("block", SHELL, ids=name_of)
def test_a_command_is_understood(block: Block, looking: None):
    for words in block.commands:
        understood([word for word in words if word != "PYTHONPATH=."])


def test_commands_within_sentences_are_understood(looking: None):
    inline = [code for _, code in INLINE if code.startswith(COMMANDS) and "…" not in code]
    assert len(inline) > 5
    for code in inline:
        understood(shlex.split(code))


def test_settings_within_sentences_exist(looking: None):
    shown = {(page, code) for page, code in INLINE if re.match(r"--(?!section)[a-z_]+\.[a-z_]", code)}
    assert len(shown) > 30
    for page, code in shown:
        name, _, value = code.partition("=")
        said = ""
        try:
            check([f"{name}={value.split('|')[0] or 1}"])
        except InputError as error:  # of another verb, or of a value that stands for any
            said = str(error)
        assert "unknown setting" not in said, page


# Every command runs.


def small(words: list[str], tiny_config: Path) -> list[str | Path]:
    """The arguments of a command as it is run here: `run` is the tiny run's, in its workdir."""
    if words and words[0] != "run" and not words[0].startswith("-"):
        return list(words)
    return [*words, "--config", tiny_config, "--workdir", "runs/quickstart"]


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS if block.language in ("bash", "python")})
)
def test_what_a_page_shows_runs(page: str, with_run: Path, tiny_config: Path):
    """Its blocks one after another, the Python of a page in one namespace."""
    names: dict[str, object] = {"__name__": page}
    for block in BLOCKS:
        if block.page != page or block.language not in ("bash", "python"):
            continue
        if block.language == "python":
            program = compile(block.text, name_of(block), "exec")
            if not block.needs:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(program, names)
            continue
        for words in block.commands if not block.needs else ():
            if words[:2] == ["mkdocs", "build"]:
                continue  # below
            assert words[:3] == MAIN, (
                f"{name_of(block)}: no test runs {shlex.join(words)}: mark what it needs"
            )
            arguments = words[3:] if "--help" in words else small(words[3:], tiny_config)
            with undrawn():
                ran = call(*arguments)
            assert ran.code == 0, f"{shlex.join(words)}\n{ran.err}"


def test_the_site_builds_and_reads_without_a_network(tmp_path: Path):
    pytest.importorskip("material", reason="needs the extra docs")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert {f"{path.stem}.html" for page, path in PAGES.items() if page != "README.md"} < {
        path.name for path in site.glob("*.html")
    }
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]*src=\"?(?:https?:)?//", page), path
        assert not re.findall(r"<link[^>]*rel=\"?stylesheet[^>]*href=\"?(?:https?:)?//", page), path
    formulas = sum(block.language == "math" for block in BLOCKS)
    assert (site / "methods.html").read_text(encoding="utf-8").count('class="formula"><svg') == formulas
    assert "Prompts decoded at a time" not in TEXTS["docs/python.md"]  # the reference is the docstrings'
    assert "prompts decoded at a time" in (site / "python.html").read_text(encoding="utf-8")
