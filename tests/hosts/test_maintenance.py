"""Notices of maintenance, from a metadata server as Google Cloud has one."""

import http.server
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.host_processes import ROOT

from pretrainrl_jax.config import HostsConfig
from pretrainrl_jax.hosts import agree, maintenance


class Metadata(http.server.BaseHTTPRequestHandler):
    """Google Cloud's metadata server: it holds a request until an entry is another than that of the tag."""

    values: dict[str, str]

    def do_GET(self) -> None:
        assert self.headers["Metadata-Flavor"] == "Google"
        path, _, query = self.path.partition("?")
        name, options = path.rpartition("/")[2], dict(part.split("=") for part in query.split("&"))
        until = time.monotonic() + min(0.5, float(options["timeout_sec"]))
        while str(hash(self.values[name])) == options["last_etag"] and time.monotonic() < until:
            time.sleep(0.02)
        value = self.values[name]
        self.send_response(200)
        self.send_header("ETag", str(hash(value)))
        self.end_headers()
        self.wfile.write(value.encode())

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch):
    Metadata.values = {"maintenance-event": "NONE", "preempted": "FALSE"}
    server = http.server.ThreadingHTTPServer(("localhost", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"localhost:{server.server_port}")
    monkeypatch.setenv("http_proxy", "http://localhost:1")
    yield Metadata.values
    server.shutdown()
    server.server_close()


MAINTAINED = """
import signal, time
from pretrainrl_jax.config import HostsConfig
from pretrainrl_jax.hosts.maintenance import watch_maintenance
def handle(number, frame): print("SIGTERM", flush=True)
signal.signal(signal.SIGTERM, handle)
watch_maintenance(HostsConfig())
print("ready", flush=True)
while True: time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "notice of maintenance"),
     ("preempted", "TRUE", "notice of preemption")],
)  # fmt: skip
def test_a_notice_is_a_signal(metadata: dict[str, str], name: str, value: str, said: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MAINTAINED],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.8)  # a request comes back with nothing, and the next one is held
        assert process.poll() is None
        metadata[name] = value
        assert process.stdout.readline() == "SIGTERM\n"
        metadata.update({"maintenance-event": "MIGRATE_ON_HOST_MAINTENANCE", "preempted": "TRUE"})
        time.sleep(0.5)
    finally:
        process.kill()
    out, err = process.communicate()
    assert out == ""  # once
    assert err.count("\n") == 1
    assert said in err
    assert f"({name}: {value})" in err


def test_no_notice_is_looked_for_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[str] = []
    monkeypatch.setattr(maintenance.threading, "Thread", lambda **options: started.append(options["name"]))
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    monkeypatch.setattr(maintenance, "PRODUCT", tmp_path / "name")
    maintenance.watch_maintenance(HostsConfig())
    (tmp_path / "name").write_text("Standard PC\n")
    maintenance.watch_maintenance(HostsConfig())
    monkeypatch.setenv("GCE_METADATA_HOST", "localhost:1")
    maintenance.watch_maintenance(HostsConfig(maintenance=False))
    assert started == []
    assert agree.process_count() == 1
