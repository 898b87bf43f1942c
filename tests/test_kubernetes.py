"""launch/kubernetes.py: what its manifests say, and whether JobSet's published schema (v0.9.1) takes them."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCHEMA = Path(__file__).parent / "fixtures" / "kubernetes" / "jobset.schema.json.gz"
ON_TPUS = ("--name=a-run", "--image=host/image:1", "--tpu=v6e:4x4")
ON_GPUS = ("--name=a-run", "--image=host/image:1", "--gpus=8", "--nodes=2", "--claim=workdirs:/shared")
COMMAND = ("--", "--config", "a.py", "--workdir", "gs://b/r")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(ROOT / "launch" / "kubernetes.py"), *words]
    return subprocess.run(script, capture_output=True, text=True, timeout=60)


def manifest(*words: str) -> dict[str, Any]:
    ran = run(*words)
    assert (ran.returncode, ran.stderr) == (0, "")
    values = yaml.safe_load(ran.stdout)
    jsonschema.validate(values, json.loads(gzip.decompress(SCHEMA.read_bytes())))
    return values


def job(values: dict[str, Any]) -> dict[str, Any]:
    (only,) = values["spec"]["replicatedJobs"]
    return only["template"]["spec"]


def pod(values: dict[str, Any]) -> dict[str, Any]:
    return job(values)["template"]["spec"]


def test_the_schema_refuses_what_it_does_not_know():
    values = manifest(*ON_TPUS, *COMMAND)
    pod(values)["containers"][0]["comand"] = []
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.validate(values, json.loads(gzip.decompress(SCHEMA.read_bytes())))


@pytest.mark.parametrize(
    ("slice_of", "accelerator", "hosts", "chips"),
    [
        ("v6e:1x1", "tpu-v6e-slice", 1, 1),
        ("v6e:2x4", "tpu-v6e-slice", 1, 8),
        ("v6e:4x4", "tpu-v6e-slice", 4, 4),
        ("v5e:16x16", "tpu-v5-lite-podslice", 64, 4),
        ("v5p:2x2x1", "tpu-v5p-slice", 1, 4),
        ("v5p:4x4x4", "tpu-v5p-slice", 16, 4),
    ],
)
def test_a_slice_has_its_hosts_and_chips(slice_of: str, accelerator: str, hosts: int, chips: int):
    values = manifest("--name=a-run", "--image=i", f"--tpu={slice_of}", *COMMAND)
    assert pod(values)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": slice_of.partition(":")[2],
    }
    assert (job(values)["parallelism"], job(values)["completions"]) == (hosts, hosts)
    assert pod(values)["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert ("annotations" in values["metadata"]) == (hosts > 1)
    assert not any("--hosts." in word for word in pod(values)["containers"][0]["args"])


def test_hosts_with_gpus_know_their_coordinator_and_their_number():
    values = manifest(*ON_GPUS, *COMMAND)
    (container,) = pod(values)["containers"]
    assert container["args"][-3:] == [
        "--hosts.coordinator=a-run-hosts-0-0.a-run:8476",
        "--hosts.count=2",
        "--hosts.index=$(HOST_INDEX)",
    ]
    assert container["env"][0]["name"] == "HOST_INDEX"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert {"name": "workdirs", "mountPath": "/shared"} in container["volumeMounts"]
    assert {"name": "workdirs", "persistentVolumeClaim": {"claimName": "workdirs"}} in pod(values)["volumes"]
    alone = manifest("--name=a-run", "--image=i", "--gpus=1", *COMMAND)
    assert pod(alone)["containers"][0]["args"] == list(COMMAND[1:])


def test_words_arrive_as_they_are():
    words = [
        "it's",
        '"quoted"',
        "$HOME",
        "$(HOST_INDEX)",
        "$$",
        "a: b",
        "- c",
        "{{ d }}",
        "é\n",
        "",
        "#x",
        "'",
    ]
    values = manifest(*ON_TPUS, "--", *words)
    args = pod(values)["containers"][0]["args"]
    # Kubernetes' own rule: $(NAME) is replaced, $$ is one $.
    assert [word.replace("$$", "$") for word in args] == words
    assert "$(HOST_INDEX)" not in "".join(args).replace("$$", "")


def test_all_options_arrive():
    more = ["--slices=3", "--spot", "--secret=hf", "--service-account=me", "--namespace=ours", "--restarts=4"]
    values = manifest(*ON_TPUS, *more, "--claim=disk:/data", *COMMAND)
    assert values["spec"]["replicatedJobs"][0]["replicas"] == 3
    assert values["metadata"]["namespace"] == "ours"
    assert values["spec"]["failurePolicy"]["maxRestarts"] == 4
    assert pod(values)["serviceAccountName"] == "me"
    assert pod(values)["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod(values)["containers"][0]["envFrom"] == [{"secretRef": {"name": "hf"}}]


def test_all_hosts_are_started_again_together():
    values = manifest(*ON_TPUS, *COMMAND)
    assert values["spec"]["failurePolicy"] == {"maxRestarts": 10}
    assert job(values)["backoffLimit"] == 0
    assert pod(values)["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--name=A_run", *ON_TPUS[1:], *COMMAND], "--name=A_run"),
        ([*ON_TPUS[:2], "--tpu=v9:4x4", *COMMAND], "--tpu=v9:4x4"),
        ([*ON_TPUS[:2], "--tpu=v6e:4", *COMMAND], "has 2 numbers"),
        ([*ON_TPUS[:2], "--tpu=v5p:4x4", *COMMAND], "has 3 numbers"),
        ([*ON_TPUS[:2], "--tpu=v6e:3x3", *COMMAND], "no slice of several hosts has 9 chips"),
        ([*ON_TPUS[:2], "--tpu=v6e:0x4", *COMMAND], "--tpu=v6e:0x4"),
        ([*ON_TPUS, "--nodes=2", *COMMAND], "--nodes is for --gpus"),
        ([*ON_GPUS, "--spot", *COMMAND], "--slices and --spot are for --tpu"),
        ([*ON_GPUS, "--tpu=v6e:4x4", *COMMAND], "not allowed with argument"),
        ([*ON_TPUS, "--claim=workdirs", *COMMAND], "--claim=workdirs"),
        ([*ON_TPUS[:2], *COMMAND], "one of the arguments --tpu --gpus is required"),
        ([*ON_TPUS[:2], "--gpus=-1", *COMMAND], "--gpus, --nodes and --slices are 1 or more"),
        ([*ON_TPUS], "what is to be run stands behind --"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], told: str):
    ran = run(*words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert told in ran.stderr
