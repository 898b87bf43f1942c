#!/usr/bin/env python3
"""From nothing to a finished run on a slice of TPU VMs: a thin layer over gcloud, which must be installed.

    python launch/tpu.py create  --project P --zone Z --name N --accelerator-type v6e-16 --runtime-version v2-alpha-tpuv6e --spot
    python launch/tpu.py wait    --project P --zone Z --name N
    python launch/tpu.py install --project P --zone Z --name N --package .
    python launch/tpu.py run     --project P --zone Z --name N -- --config popqa_qwen3_8b.py --workdir gs://B/run
    python launch/tpu.py logs    --project P --zone Z --name N --follow
    python launch/tpu.py status  --project P --zone Z --name N
    python launch/tpu.py resume  … the options of create, install and run
    python launch/tpu.py delete  --project P --zone Z --name N

With --dry-run what would be run is printed, and nothing is. Exit codes: 0 done, 1 failed, 2 bad usage, 130
interrupted; `logs --follow` and `status` end with that of the first worker that failed.
"""  # noqa: E501

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SECONDS = 30  # between two looks at a resource that is waited for
ATTEMPTS = 10  # of which all fail in a row
HOME = "pretrainrl"  # on each worker, below its home folder: venv, log, pid, exit
EXTRAS = "[tpu,gcs,data]"

# Of TPU VMs the system's Python is older than 3.11: uv brings one.
INSTALL = """\
set -e; mkdir -p ~/{home}; cd ~/{home}
python3 -m pip install -q --user uv
[ -d venv ] || python3 -m uv venv -q --python 3.12 venv
python3 -m uv pip install -q --python venv/bin/python {package}
venv/bin/python -c 'import jax; print("{name}: jax", jax.__version__)'"""

IDLE = """\
mkdir -p ~/{home}; cd ~/{home}
if [ -f pid ] && [ ! -f exit ] && kill -0 "$(cat pid)" 2>/dev/null; then echo "$(hostname): a run is at work" >&2; exit 3; fi"""  # noqa: E501
# The run is the leader of a session of its own: the end of ssh is not its end.
RUN = """\
{idle}
rm -f exit
setsid nohup bash -c {command} >> log 2>&1 < /dev/null &
echo $! > pid; echo "$(hostname): started\""""
COMMAND = """\
if [ -f environment ]; then . ./environment; fi
venv/bin/python -m pretrainrl_jax.main {words}
echo $? > exit.partial; mv exit.partial exit"""

STATUS = """\
cd ~/{home} 2>/dev/null || {{ echo "$(hostname): nothing was installed"; exit 1; }}
if [ -f exit ]; then echo "$(hostname): ended with $(cat exit)"; exit "$(cat exit)"; fi
if [ ! -f pid ]; then echo "$(hostname): nothing was run"; exit 0; fi
if kill -0 "$(cat pid)" 2>/dev/null; then echo "$(hostname): at work: $(tail -n 1 log | tr '\\r' '\\n' | tail -n 1)"; exit 0; fi
echo "$(hostname): gone, without a word: the machine was started anew, or all was killed"; exit 1"""  # noqa: E501
LOGS = "cd ~/{home} && tail -n {lines} log"
FOLLOW = """\
cd ~/{home} && tail -n {lines} -F --pid="$(cat pid)" log
sleep 1; if [ -f exit ]; then exit "$(cat exit)"; fi; exit 1"""


class Refused(Exception):
    """What was asked for cannot be done: exit code 2. `there`: a slice may be."""

    def __init__(self, text: str, there: bool = False) -> None:
        super().__init__(text)
        self.there = there


class Failed(Exception):
    """A command failed: its exit code, and what it was."""

    def __init__(self, code: int, words: Sequence[str]) -> None:
        super().__init__(f"{shlex.join(words[:6])} ended with {code}")
        self.code = code


def main(words: Sequence[str] | None = None) -> int:
    """One verb; gives the exit code."""
    options = parse(sys.argv[1:] if words is None else words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as Ctrl-C does
    try:
        check(options)
        return VERBS[options.verb](options)
    except FileNotFoundError as error:
        if error.filename != "gcloud":
            raise
        print("error: gcloud is not installed: https://cloud.google.com/sdk/docs/install", file=sys.stderr)
        return 2
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        if error.there:
            warn(options)
        return 2
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        warn(options)
        return error.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        warn(options)
        return 130


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The verb and its options; what stands behind -- is the run's."""
    words, command = list(words), []
    if "--" in words:
        words, command = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    of = {name: verbs.add_parser(name, allow_abbrev=False) for name in VERBS}
    for verb in of.values():
        for name in ("project", "zone", "name"):
            verb.add_argument(f"--{name}", required=True)
        verb.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
    for name in ("create", "resume"):
        of[name].add_argument("--accelerator-type", required=True, help="as v6e-16 or v5p-128")
        of[name].add_argument("--runtime-version", required=True, help="as v2-alpha-tpuv6e")
        kind = of[name].add_mutually_exclusive_group()
        kind.add_argument("--spot", action="store_true", help="cheaper; may be taken away at any time")
        kind.add_argument("--reserved", action="store_true", help="from a reservation of the project")
        of[name].add_argument("--service-account", default="", help="whose rights the workers have")
    for name in ("wait", "resume"):
        of[name].add_argument("--hours", type=float, default=24.0, help="to wait for the resource (24)")
    for name in ("install", "resume"):
        of[name].add_argument("--package", required=True, help="pretrainrl_jax==X, a wheel, or a checkout")
    for name in ("run", "resume"):
        of[name].add_argument("--send", action="append", default=[], help="a file to copy beside the run")
        of[name].add_argument("--env", action="append", default=[], help="a variable to take along: HF_TOKEN")
    of["logs"].add_argument("--worker", default="0", help="which worker's (0)")
    of["logs"].add_argument("--lines", type=int, default=100)
    of["logs"].add_argument("--follow", action="store_true", help="until the run ends, with its exit code")
    options = parser.parse_args(words)
    options.command = command
    if bool(command) != (options.verb in ("run", "resume")):
        parser.error("what is to be run stands behind --: -- --config FILE.py --workdir gs://BUCKET/RUN")
    return options


def gcloud(options: argparse.Namespace, *words: str) -> list[str]:
    """A command of gcloud on the project and the zone."""
    where = [f"--project={options.project}", f"--zone={options.zone}"]
    return ["gcloud", "compute", "tpus", *words, *where]


def do(options: argparse.Namespace, *words: str) -> None:
    """Run a command of gcloud, or print it. Raises Failed."""
    command = gcloud(options, *words)
    print(shlex.join(command) if options.dry_run else f"+ {shlex.join(command[:6])}", flush=True)
    if not options.dry_run and (code := subprocess.call(command)):
        raise Failed(code, command)


def state(options: argparse.Namespace) -> str:
    """The state of the queued resource, as ACTIVE or SUSPENDED; "" where there is none. Raises Failed."""
    command = gcloud(options, "queued-resources", "list", "--format=json")
    if options.dry_run:
        print(shlex.join(command))
        return ""
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        raise Failed(ran.returncode, command)
    try:
        found = json.loads(ran.stdout or "[]")
    except ValueError:
        raise Failed(1, command) from None
    for one in found:
        if one["name"].rpartition("/")[2] == options.name:
            return one.get("state", {}).get("state", "UNKNOWN")
    return ""


def ssh(options: argparse.Namespace, script: str, worker: str = "all") -> None:
    """Run a script of bash on the workers. Raises Failed with the exit code of one that failed."""
    do(options, "tpu-vm", "ssh", options.name, f"--worker={worker}", f"--command={script}")


def copy(options: argparse.Namespace, *files: Path) -> None:
    """Copy files into the run's folder on all workers."""
    ssh(options, f"mkdir -p ~/{HOME}")
    do(options, "tpu-vm", "scp", *map(str, files), f"{options.name}:~/{HOME}/", "--worker=all")


def check(options: argparse.Namespace) -> None:
    """Raise Refused for files and variables that are not there, before anything is begun."""
    if missing := [name for name in getattr(options, "env", []) if name not in os.environ]:
        raise Refused(f"--env={missing[0]}: it is not set here")
    if missing := [name for name in getattr(options, "send", []) if not Path(name).is_file()]:
        raise Refused(f"--send={missing[0]}: no such file")
    if hasattr(options, "package"):
        wanted(options.package)


def wanted(package: str) -> Path | str:
    """A wheel or a checkout, or what pip is to be asked for, with our extras. Raises Refused."""
    path = Path(package)
    if (path.suffix == ".whl" and path.is_file()) or (path / "pyproject.toml").is_file():
        return path
    named = re.fullmatch(r"([A-Za-z0-9_-]+)([=<>~!].*)?", package)
    if not named:
        raise Refused(f"--package={package}: no such wheel or checkout")
    return f"{named[1]}{EXTRAS}{named[2] or ''}"


def create(options: argparse.Namespace) -> int:
    """Ask for the slice."""
    if found := state(options):
        raise Refused(
            f"{options.name} is there already ({found}): give another --name, or delete it", there=True
        )
    kinds = [f"--{kind}" for kind in ("spot", "reserved") if getattr(options, kind)]
    if options.service_account:
        kinds.append(f"--service-account={options.service_account}")
    do(
        options,
        *("queued-resources", "create", options.name, f"--node-id={options.name}"),
        f"--accelerator-type={options.accelerator_type}",
        f"--runtime-version={options.runtime_version}",
        *kinds,
    )
    warn(options)
    return 0


def wait(options: argparse.Namespace) -> int:
    """Wait until the slice is there."""
    began, before, failures = time.monotonic(), None, 0
    while not options.dry_run:
        try:
            now, failures = state(options), 0
        except Failed:
            failures += 1
            if failures == ATTEMPTS:
                raise
            time.sleep(SECONDS)
            continue
        if now == "ACTIVE":
            break
        if now != before:
            print(f"{options.name}: {now or 'no such resource'}", flush=True)
        if now in ("", "FAILED", "SUSPENDED"):
            raise Failed(1, ["wait", options.name, now or "no such resource"])
        if time.monotonic() - began > 3600 * options.hours:
            raise Failed(1, ["wait", options.name, f"not there after {options.hours:g} hours"])
        before = now
        time.sleep(SECONDS)
    if options.dry_run:
        state(options)
    else:
        print(f"{options.name}: ACTIVE", flush=True)
        if options.verb == "wait":
            warn(options)
    return 0


def install(options: argparse.Namespace) -> int:
    """Install the package on all workers, from PyPI, a wheel or a checkout."""
    package = wanted(options.package)
    if isinstance(package, str):
        return _install(options, package)
    with tempfile.TemporaryDirectory() as folder:
        wheel = package
        if wheel.is_dir():
            build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(package)]
            if options.dry_run:
                print(shlex.join([*build[:7], "FOLDER", str(package)]))
                wheel = Path("FOLDER") / "pretrainrl_jax-VERSION-py3-none-any.whl"
            elif code := subprocess.call(build):
                raise Failed(code, build)
            else:
                wheel = next(Path(folder).glob("*.whl"))
        copy(options, wheel)
        return _install(options, f"./{wheel.name}{EXTRAS}")


def _install(options: argparse.Namespace, package: str) -> int:
    ssh(options, INSTALL.format(home=HOME, package=shlex.quote(package), name=options.name))
    return 0


def run(options: argparse.Namespace) -> int:
    """Start the same command on all workers."""
    workdir = [word.partition("=")[2] for word in options.command if word.startswith("--workdir=")]
    workdir += [b for a, b in zip(options.command, options.command[1:], strict=False) if a == "--workdir"]
    if not any(place.startswith("gs://") for place in workdir):
        print(
            "warning: without --workdir gs://… nothing is left when the slice is taken away", file=sys.stderr
        )
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(name) for name in options.send]
        if options.env:  # in a file that its owner alone reads, never in a command or a log
            environment = Path(folder) / "environment"
            environment.touch(mode=0o600)
            if not options.dry_run:
                lines = (f"export {name}={shlex.quote(os.environ[name])}\n" for name in options.env)
                environment.write_text("".join(lines))
            files.append(environment)
        if files:
            copy(options, *files)
    kept = f"chmod 600 ~/{HOME}/environment" if options.env else f"rm -f ~/{HOME}/environment"
    ssh(options, kept)
    command = COMMAND.format(words=shlex.join(options.command))
    ssh(options, RUN.format(idle=IDLE.format(home=HOME), command=shlex.quote(command)))
    warn(options)
    return 0


def logs(options: argparse.Namespace) -> int:
    """What a worker has printed."""
    script = (FOLLOW if options.follow else LOGS).format(home=HOME, lines=options.lines)
    ssh(options, script, options.worker)
    return 0


def status(options: argparse.Namespace) -> int:
    """What the slice and each worker are at."""
    found = state(options)
    if not options.dry_run:
        print(f"{options.name}: {found or 'no such resource: nothing runs, and nothing costs'}", flush=True)
    if found == "ACTIVE" or options.dry_run:
        ssh(options, STATUS.format(home=HOME))
    if found:
        warn(options)
    return 0


def resume(options: argparse.Namespace) -> int:
    """Go on after a preemption, or begin: whatever of create, wait, install and run is missing."""
    found = state(options)
    if options.dry_run:
        print("# where it was taken away:")
    if found in ("SUSPENDED", "SUSPENDING", "FAILED") or options.dry_run:
        delete(options)
        found = ""
    if options.dry_run:
        print("# where it is not there, or no longer:")
    if not found:
        create(options)
    wait(options)
    ssh(options, IDLE.format(home=HOME))
    install(options)
    return run(options)


def delete(options: argparse.Namespace) -> int:
    """Delete the slice, with all that lies on its machines; workdirs in buckets stay."""
    do(options, "queued-resources", "delete", options.name, "--force", "--quiet")
    return 0


def warn(options: argparse.Namespace) -> None:
    """The last line of whatever leaves something running."""
    if options.dry_run:
        return
    words = ["python", "launch/tpu.py", "delete", f"--project={options.project}", f"--zone={options.zone}"]
    how = shlex.join([*words, f"--name={options.name}"])
    print(f"{options.name} may be running and costing money; delete it with: {how}", file=sys.stderr)


VERBS = {
    "create": create,
    "wait": wait,
    "install": install,
    "run": run,
    "logs": logs,
    "status": status,
    "resume": resume,
    "delete": delete,
}

if __name__ == "__main__":
    sys.exit(main())
