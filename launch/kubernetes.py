#!/usr/bin/env python3
"""The manifest of a run on Kubernetes, as a JobSet (https://jobset.sigs.k8s.io), for `kubectl apply -f -`.

    python launch/kubernetes.py --name a-run --image IMAGE --tpu v6e:4x4 -- \\
        --config configs/popqa_qwen3_8b.py --workdir gs://BUCKET/run | kubectl apply -f -

    python launch/kubernetes.py --name a-run --image IMAGE --gpus 8 --nodes 2 --claim workdirs:/shared -- \\
        --config configs/popqa_qwen3_8b.py --workdir /shared/run | kubectl apply -f -

The workdir is one that all hosts see: a bucket, or a volume claim that many may write. Exit code 2 for what
cannot be meant.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

TEMPLATE = Path(__file__).with_name("jobset.yaml.j2")
ACCELERATORS = {"v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice"}
CHIPS = 4  # of a host of a slice of several
ALONE = {"v5e": 8, "v6e": 8, "v5p": 4}  # chips of a host, at most, where it is the only one
PORT = 8476  # of the coordinator among hosts with GPUs
NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")  # with what JobSet appends, a name of DNS


def main(words: Sequence[str] | None = None) -> int:
    """Print the manifest; gives the exit code."""
    print(manifest(sys.argv[1:] if words is None else words))
    return 0


def manifest(words: Sequence[str]) -> str:
    """The manifest of these arguments; exits with 2 where they cannot be meant."""
    words, command = list(words), []
    if "--" in words:
        words, command = words[: words.index("--")], words[words.index("--") + 1 :]
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    parser.add_argument("--name", required=True)
    parser.add_argument("--image", required=True, help="of launch/tpu.Dockerfile or launch/cuda.Dockerfile")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--tpu", default="", help="a slice, as v6e:4x4, v5e:2x4 or v5p:4x4x4")
    what.add_argument("--gpus", type=int, default=0, help="of each node")
    parser.add_argument("--nodes", type=int, default=1, help="with GPUs (1)")
    parser.add_argument("--slices", type=int, default=1, help="of TPUs (1)")
    parser.add_argument("--spot", action="store_true", help="on TPUs that may be taken away")
    parser.add_argument("--claim", default="", help="a volume claim, and where to mount it: workdirs:/shared")
    parser.add_argument("--secret", default="", help="whose keys are variables of the run, as HF_TOKEN")
    parser.add_argument("--service-account", default="", help="whose rights to buckets the run has")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--restarts", type=int, default=10, help="at most (10)")
    options = parser.parse_args(words)
    if not command:
        parser.error("what is to be run stands behind --: -- --config FILE.py --workdir gs://BUCKET/RUN")
    if not NAME.fullmatch(options.name):
        parser.error(f"--name={options.name}: small letters, digits and -, up to 40")
    counts = [options.nodes, options.slices, 1 if options.tpu else options.gpus]
    if min(counts) < 1 or options.restarts < 0:
        parser.error("--gpus, --nodes and --slices are 1 or more, --restarts is not negative")
    if (options.tpu and options.nodes > 1) or (options.gpus and (options.slices > 1 or options.spot)):
        parser.error("--nodes is for --gpus; --slices and --spot are for --tpu")
    claim, _, mount = options.claim.partition(":")
    if options.claim and not (claim and mount.startswith("/")):
        parser.error(f"--claim={options.claim}: give its name and an absolute path, as workdirs:/shared")
    values = _on_tpus(parser, options) if options.tpu else _on_gpus(options)
    # Kubernetes replaces $(NAME) in arguments, and $$ means one $.
    values["words"] = [word.replace("$", "$$") for word in command] + values.pop("hosts_words")
    return _render(vars(options) | {"claim": claim, "mount": mount} | values)


def _on_tpus(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """GKE tells the hosts of a slice of each other, and JAX finds them."""
    kind, _, topology = options.tpu.partition(":")
    sizes = topology.split("x")
    if kind not in ACCELERATORS or not all(re.fullmatch("[1-9][0-9]*", size) for size in sizes):
        parser.error(f"--tpu={options.tpu}: give v5e, v5p or v6e and a topology, as v6e:4x4")
    if len(sizes) != (3 if kind == "v5p" else 2):
        parser.error(f"--tpu={options.tpu}: a topology of {kind} has {3 if kind == 'v5p' else 2} numbers")
    chips = math.prod(map(int, sizes))
    if chips > ALONE[kind] and chips % CHIPS:
        parser.error(f"--tpu={options.tpu}: no slice of several hosts has {chips} chips")
    hosts = 1 if chips <= ALONE[kind] else chips // CHIPS
    tpu = {"accelerator": ACCELERATORS[kind], "topology": topology}
    of_host = {"hosts": hosts, "chips": chips // hosts, "resource": "google.com/tpu"}
    return {"tpu": tpu, "hosts_words": []} | of_host


def _on_gpus(options: argparse.Namespace) -> dict[str, Any]:
    """The first host is the coordinator, under the name that JobSet gives it."""
    words = []
    if options.nodes > 1:
        words.append(f"--hosts.coordinator={options.name}-hosts-0-0.{options.name}:{PORT}")
        words += [f"--hosts.count={options.nodes}", "--hosts.index=$(HOST_INDEX)"]
    gpus = {"tpu": None, "hosts": options.nodes, "chips": options.gpus, "resource": "nvidia.com/gpu"}
    return gpus | {"hosts_words": words}


def _render(values: dict[str, Any]) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)


if __name__ == "__main__":
    sys.exit(main())
