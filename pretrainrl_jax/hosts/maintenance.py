"""On Google Cloud: a machine that is to be stopped says so before, and the run saves."""

import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path

from pretrainrl_jax.config import HostsConfig

PRODUCT = Path("/sys/class/dmi/id/product_name")
HELD_SECONDS = 60  # the server holds a request for so long where nothing changes
AGAIN_SECONDS = 5.0
NOTICES = {"maintenance-event": ("maintenance", "NONE"), "preempted": ("preemption", "FALSE")}


def watch_maintenance(settings: HostsConfig) -> None:
    """From now on a notice that this machine will be stopped is a SIGTERM, once, and a line on stderr.

    Nothing is started where hosts.maintenance is off, or on a machine that is not Google's.
    """
    host = os.environ.get("GCE_METADATA_HOST", "")
    is_google = PRODUCT.is_file() and "Google" in PRODUCT.read_text()
    if not settings.maintenance or not (host or is_google):
        return
    once = threading.Lock()
    for name in NOTICES:
        values = (host or "metadata.google.internal", name, once)
        threading.Thread(target=_watch, args=values, name=f"hosts-{name}", daemon=True).start()


def _watch(host: str, name: str, once: threading.Lock) -> None:
    tag = "0"  # answered at once, with the state of now
    while True:
        try:
            value, tag = _ask(host, name, tag)
        except (OSError, ValueError):  # the server is not there, or restarts, or is none of Google's
            time.sleep(AGAIN_SECONDS)
            continue
        notice, none = NOTICES[name]
        if value in ("", none):
            continue
        if once.acquire(blocking=False):
            print(
                f"Google Cloud gives notice of {notice} of this machine ({name}: {value}): the run "
                "saves and stops, unless hosts.maintenance=false",
                file=sys.stderr,
                flush=True,
            )
            os.kill(os.getpid(), signal.SIGTERM)
        return


def _ask(host: str, name: str, tag: str) -> tuple[str, str]:
    """The value of an entry once it is another than that of `tag`, or after a while; and its new tag."""
    url = (
        f"http://{host}/computeMetadata/v1/instance/{name}"
        f"?wait_for_change=true&timeout_sec={HELD_SECONDS}&last_etag={tag}"
    )
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    with opener.open(request, timeout=HELD_SECONDS + 30) as answer:
        return answer.read(200).decode().strip(), answer.headers.get("ETag", "0")
