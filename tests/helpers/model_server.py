"""A small model server of OpenAI's protocol whose every reply a test decides, over real sockets."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Ill:
    """What comes in the place of a reply."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    half: bool = False  # the connection is dropped in the middle
    hangs: float = 0.0  # seconds before anything comes


Replies = Callable[[str, int], "str | Ill"]  # of a message and the number of the request, from 0


@dataclass
class ModelServer:
    """What it was asked, and what it says."""

    replies: Replies
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)  # bodies
    keys: list[str] = field(default_factory=list)  # of each, what authorises it
    at_once: int = 0  # requests in hand
    most_at_once: int = 0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def texts(self) -> list[str]:
        """The messages that it was asked."""
        return [body["messages"][0]["content"] for body in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each reply waits 40 ms, until its head has been acknowledged
    owner: ModelServer

    def do_POST(self) -> None:
        owner = self.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with owner.lock:
            number = len(owner.asked)
            owner.asked.append(body)
            owner.keys.append(self.headers.get("Authorization", ""))
            owner.at_once += 1
            owner.most_at_once = max(owner.most_at_once, owner.at_once)
        try:
            if self.path != "/v1/chat/completions":
                self._send(Ill(404, '{"error": {"message": "no such path"}}'))
                return
            given = owner.replies(body["messages"][0]["content"], number)
            self._send(given if isinstance(given, Ill) else Ill(body=json.dumps(completion(body, given))))
        finally:
            with owner.lock:
                owner.at_once -= 1

    def _send(self, given: Ill) -> None:
        time.sleep(given.hangs)
        data = given.body.encode()
        self.send_response(given.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))} | given.headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if given.half else data)
        if given.half:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


class _Threads(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that left before the reply are no fault of the test."""


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler], owner: Any, port: int = 0) -> Iterator[str]:
    """The address at which requests are handled, with the owner at hand; then the port is free again."""
    server = _Threads(("127.0.0.1", port), type("Handler", (handler,), {"owner": owner}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(body: dict[str, Any], text: str) -> dict[str, Any]:
    """A reply of the protocol; every token is four characters."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": len(body["messages"][0]["content"]) // 4, "completion_tokens": len(text) // 4}
    usage["total_tokens"] = sum(usage.values())
    about = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
    return about | {"choices": [choice], "usage": usage}


@contextmanager
def model_server(replies: Replies, port: int = 0) -> Iterator[ModelServer]:
    """The server, at its `url`; when the block is left it is gone, and its port can be had again."""
    owner = ModelServer(replies)
    with listening(_Handler, owner, port) as owner.url:
        yield owner
