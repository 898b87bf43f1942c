"""A stand-in for gcloud: it knows the documented commands and flags of TPU VMs, and fails on any other.

Two workers are folders of this machine, in which commands really run. The folder that STAND_IN names holds
`calls` (a JSON list a line), `states` (what the resource goes through, a line each time it is asked for), and
one home a worker.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["STAND_IN"])
WORKERS = 2
# gcloud 528.0.0, `gcloud compute tpus … --help`.
WIDE = {"--project", "--zone", "--format", "--quiet", "--verbosity"}
KNOWN = {
    ("queued-resources", "create"): {
        "--runtime-version", "--accelerator-type", "--topology", "--type", "--node-id", "--node-count",
        "--node-prefix", "--async", "--data-disk", "--description", "--guaranteed", "--internal-ips",
        "--labels",
        "--metadata", "--metadata-from-file", "--network", "--range", "--reserved", "--scopes",
        "--service-account", "--shielded-secure-boot", "--spot", "--subnetwork", "--tags",
        "--valid-after-duration", "--valid-after-time", "--valid-until-duration", "--valid-until-time",
        "--reservation-host-folder", "--reservation-host-organization", "--reservation-host-project",
    },
    ("queued-resources", "list"): {"--filter", "--limit", "--page-size", "--sort-by", "--uri"},
    ("queued-resources", "describe"): set(),
    ("queued-resources", "delete"): {"--async", "--force"},
    ("tpu-vm", "ssh"): {
        "--dry-run", "--force-key-file-overwrite", "--internal-ip", "--plain", "--ssh-flag", "--ssh-key-file",
        "--strict-host-key-checking", "--worker", "--command", "--output-directory", "--ssh-key-expiration",
        "--ssh-key-expire-after",
    },
    ("tpu-vm", "scp"): {
        "--compress", "--dry-run", "--force-key-file-overwrite", "--internal-ip", "--plain", "--recurse",
        "--scp-flag", "--ssh-key-file", "--strict-host-key-checking", "--worker", "--ssh-key-expiration",
        "--ssh-key-expire-after",
    },
}  # fmt: skip


def main() -> int:
    words = sys.argv[1:]
    with (FOLDER / "calls").open("a") as file:
        file.write(json.dumps(words) + "\n")
    assert words[:2] == ["compute", "tpus"], words
    verb, rest = tuple(words[2:4]), words[4:]
    assert verb in KNOWN, f"no such command: {verb}"
    flags = dict(word.partition("=")[::2] for word in rest if word.startswith("--"))
    names = [word for word in rest if not word.startswith("--")]
    assert flags.keys() <= KNOWN[verb] | WIDE, f"{verb} knows no {flags.keys() - KNOWN[verb] - WIDE}"
    assert flags["--project"] == "a project", flags
    assert flags["--zone"], flags
    at = FOLDER / "interrupt"
    if at.exists() and at.read_text() == "-".join(verb):
        os.kill(os.getppid(), signal.SIGINT)
        signal.pause()
    some = FOLDER / "fails"
    if some.exists() and int(some.read_text()):
        some.write_text(str(int(some.read_text()) - 1))
        print("ERROR: quota exceeded", file=sys.stderr)
        return 1
    fails = FOLDER / "fail"
    if fails.exists() and fails.read_text() == "-".join(verb):
        print("ERROR: quota exceeded", file=sys.stderr)
        return 1
    return {"queued-resources": resources, "tpu-vm": machines}[verb[0]](verb[1], names, flags)


def resources(verb: str, names: list[str], flags: dict[str, str]) -> int:
    path = FOLDER / "states"
    states = path.read_text().split() if path.exists() else []
    if verb == "create":
        assert len(names) == 1
        assert flags["--accelerator-type"]
        assert flags["--runtime-version"]
        assert "--node-id" in flags
        path.write_text("WAITING_FOR_RESOURCES PROVISIONING ACTIVE")
    elif verb == "list":
        found = [{"name": "projects/p/locations/z/queuedResources/other", "state": {"state": "ACTIVE"}}]
        if states:
            found.append(
                {"name": "projects/p/locations/z/queuedResources/a-run", "state": {"state": states[0]}}
            )
            path.write_text(" ".join(states[1:] or states))
        print(json.dumps(found))
    elif verb == "delete":
        if not states:
            print("ERROR: NOT_FOUND", file=sys.stderr)
            return 1
        path.unlink()
        for home in FOLDER.glob("worker*"):
            shutil.rmtree(home)
    return 0


def machines(verb: str, names: list[str], flags: dict[str, str]) -> int:
    states = (FOLDER / "states").read_text().split() if (FOLDER / "states").exists() else []
    if states[:1] != ["ACTIVE"]:
        print("ERROR: no such TPU", file=sys.stderr)
        return 1
    worker, codes = flags.get("--worker", "0"), []
    for number in range(WORKERS) if worker == "all" else [int(worker)]:
        home = FOLDER / f"worker{number}"
        home.mkdir(exist_ok=True)
        if verb == "scp":
            *sources, target = names
            place, _, folder = target.partition(":")
            assert place == "a-run"
            for source in sources:
                shutil.copy2(source, home / folder.removeprefix("~/"))
            continue
        assert names == ["a-run"]
        environment = {"HOME": str(home), "PATH": f"{FOLDER}/bin:/usr/bin:/bin", "WORKER": str(number)}
        ran = subprocess.run(["bash", "-c", flags["--command"]], env=environment)
        codes.append(ran.returncode)
    return next(filter(None, codes), 0)


sys.exit(main())
