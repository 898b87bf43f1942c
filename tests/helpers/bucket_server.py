"""A small server of the JSON API of Cloud Storage that keeps objects in memory and enforces preconditions.

It knows what gcsfs, google-cloud-storage and TensorStore ask for: lists, reads of ranges, uploads at once, in
parts and resumable, copies and deletions. Whatever else is asked ends with 501: nothing is passed over.
"""

import base64
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

OBJECT = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o/(.+)")
COPY = re.compile(r"(.+)/(rewriteTo|copyTo|moveTo)/(?:b/[^/]+/)?o/(.+)")
Write = tuple[str, str]  # what is done ("put", "delete") and the object's name


@dataclass(frozen=True)
class Stored:
    """One version of an object."""

    data: bytes
    generation: int
    updated: str


@dataclass
class Bucket:
    """One bucket. `before` is called with each change before it is made, and may raise to refuse it."""

    name: str = "bucket"
    url: str = ""
    objects: dict[str, Stored] = field(default_factory=dict)
    changes: list[Write] = field(default_factory=list)
    before: Callable[[str, str], None] = lambda what, name: None
    reading: Callable[[str], None] = lambda name: None  # the same for what is read or listed
    lock: Any = field(default_factory=threading.RLock)
    generation: int = 0
    uploads: dict[str, tuple[str, dict[str, str], bytes]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Of a process that is to use it."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_CLOUD_PROJECT": "none",
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks another service what the bucket is like
        }

    def put(self, name: str, data: bytes, query: dict[str, str]) -> Stored:
        """Raises Refused where a precondition does not hold."""
        self.before("put", name)
        with self.lock:
            self.check(name, query)
            self.generation += 1
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            self.objects[name] = Stored(data, self.generation, now)
            self.changes.append(("put", name))
            return self.objects[name]

    def delete(self, name: str, query: dict[str, str]) -> None:
        """Raises Refused as `put`, and where there is no such object."""
        self.before("delete", name)
        with self.lock:
            self.check(name, query)
            if name not in self.objects:
                raise Refused(404)
            del self.objects[name]
            self.changes.append(("delete", name))

    def check(self, name: str, query: dict[str, str]) -> None:
        """Preconditions: generation 0 means that there is no such object."""
        stored = self.objects.get(name)
        generation = stored.generation if stored else 0
        wanted, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
        if wanted is not None and int(wanted) != generation:
            raise Refused(412)
        if unwanted is not None and int(unwanted) == generation:
            raise Refused(304)

    def read_from(self, folder: Path, prefix: str) -> None:
        """Take the files of a folder as the objects under a prefix."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes(), {})

    def write_to(self, folder: Path, prefix: str) -> Path:
        """Write the objects under a prefix as files into a folder."""
        for name in self.names(f"{prefix}/"):
            path = folder / name.removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.objects[name].data)
        return folder

    def names(self, prefix: str = "") -> list[str]:
        """The objects under a prefix."""
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))


class Refused(Exception):
    """A request ends with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@contextmanager
def serving(bucket: Bucket) -> Iterator[Bucket]:
    """Within it `bucket` is served, and `bucket.url` says where."""

    class Handler(_Handler):
        of = bucket

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    bucket.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that break off: killed processes leave them."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    of: Bucket
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._continue)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def _answer(self, work: Callable[[str, dict[str, str], bytes], None]) -> None:
        split = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        body = self._body()
        try:
            work(split.path, query, body)
        except Refused as refused:
            self._send(refused.status, json.dumps({"error": {"code": refused.status}}).encode())
        except ConnectionError:
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode())

    def _described(self, name: str, stored: Stored) -> dict[str, Any]:
        checksum = google_crc32c.Checksum(stored.data).digest()
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": self.of.name,
            "id": f"{self.of.name}/{name}/{stored.generation}",
            "generation": str(stored.generation),
            "metageneration": "1",
            "size": str(len(stored.data)),
            "updated": stored.updated,
            "timeCreated": stored.updated,
            "crc32c": base64.b64encode(checksum).decode(),
            "contentType": "application/octet-stream",
        }

    def _get(self, path: str, query: dict[str, str], _: bytes) -> None:
        if path == f"/storage/v1/b/{self.of.name}":
            self._json({"kind": "storage#bucket", "name": self.of.name, "id": self.of.name})
        elif path == f"/storage/v1/b/{self.of.name}/o":
            self._list(query)
        elif (found := OBJECT.fullmatch(path)) and found[1] == self.of.name:
            self._read(unquote(found[2]), query)
        elif path.startswith(("/storage/v1/b/", "/download/storage/v1/b/")):
            raise Refused(404)  # another bucket
        else:
            raise Refused(501)

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        self.of.reading(prefix)
        items, prefixes = [], set()
        with self.of.lock:
            for name in self.of.names(prefix):
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
                if not (delimiter and delimiter in rest) or (
                    query.get("includeTrailingDelimiter") == "true" and rest.endswith(delimiter)
                ):
                    items.append(self._described(name, self.of.objects[name]))
        everything = [(item["name"], item) for item in items] + [(prefix, None) for prefix in prefixes]
        everything.sort(key=lambda pair: pair[0])
        begin, size = int(query.get("pageToken") or 0), int(query.get("maxResults") or 1000)
        page = everything[begin : begin + size]
        answer: dict[str, Any] = {"kind": "storage#objects", "items": [item for _, item in page if item]}
        answer["prefixes"] = [name for name, item in page if item is None]
        if begin + size < len(everything):
            answer["nextPageToken"] = str(begin + size)
        self._json({name: value for name, value in answer.items() if value})

    def _read(self, name: str, query: dict[str, str]) -> None:
        self.of.reading(name)
        with self.of.lock:
            stored = self.of.objects.get(name)
            if stored is None:
                raise Refused(404)
            self.of.check(name, query)
        if query.get("alt") != "media":
            return self._json(self._described(name, stored))
        data, status, headers = stored.data, 200, {"x-goog-generation": str(stored.generation)}
        headers["x-goog-stored-content-length"] = str(len(data))
        if (asked := self.headers.get("Range")) and data:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin = int(first) if first else max(0, len(data) - int(last))
            end = min(int(last) + 1 if first and last else len(data), len(data))
            if begin >= len(data):
                raise Refused(416)
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            data, status = data[begin:end], 206
        headers["Content-Type"] = "application/octet-stream"
        self._send(status, data, headers)
        return None

    def _post(self, path: str, query: dict[str, str], body: bytes) -> None:
        if path.removeprefix("/resumable") == f"/upload/storage/v1/b/{self.of.name}/o":
            if "upload_id" in query:
                return self._continue(path, query, body)
            return self._upload(query, body)
        found = OBJECT.fullmatch(path)
        if found and found[1] == self.of.name and (copy := COPY.fullmatch(found[2])):
            source, target = unquote(copy[1]), unquote(copy[3])
            with self.of.lock:
                if source not in self.of.objects:
                    raise Refused(404)
                data = self.of.objects[source].data
            stored = self.of.put(target, data, query)
            if copy[2] == "moveTo":
                self.of.delete(source, {})
                return self._json(self._described(target, stored))
            done = {"kind": "storage#rewriteResponse", "done": True, "objectSize": str(len(data))}
            return self._json(done | {"resource": self._described(target, stored)})
        raise Refused(404 if "/b/" in path and f"/b/{self.of.name}" not in path else 501)

    def _upload(self, query: dict[str, str], body: bytes) -> None:
        kind = query["uploadType"]
        if kind == "media":
            name, data = query["name"], body
        elif kind == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            # Binary content has to be cut by hand: the mail parser changes line ends.
            mark = b"--" + BytesParser().parsebytes(head).get_boundary("").encode()
            end = b"\r\n" if body.startswith(mark + b"\r") else b"\n"  # gcsfs sends the latter
            described, rest = body.split(mark, 2)[1:]
            name = json.loads(described.split(end + end, 1)[1])["name"]
            data = rest.split(end + end, 1)[1].rsplit(end + mark, 1)[0]
        elif kind == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            upload = f"upload{len(self.of.uploads)}"
            self.of.uploads[upload] = (name, query, b"")
            at = f"{self.of.url}/upload/storage/v1/b/{self.of.name}/o?uploadType=resumable&upload_id={upload}"
            return self._send(200, b"{}", {"Location": at})
        else:
            raise Refused(501)
        return self._json(self._described(name, self.of.put(name, data, query)))

    def _continue(self, _: str, query: dict[str, str], body: bytes) -> None:
        name, begun, had = self.of.uploads[query["upload_id"]]
        had += body
        self.of.uploads[query["upload_id"]] = (name, begun, had)
        whole = self.headers.get("Content-Range", "*/*").rpartition("/")[2]
        if whole == "*" or int(whole) > len(had):
            return self._send(308, b"", {"Range": f"bytes=0-{len(had) - 1}"} if had else {})
        return self._json(self._described(name, self.of.put(name, had, begun)))

    def _delete(self, path: str, query: dict[str, str], _: bytes) -> None:
        found = OBJECT.fullmatch(path)
        if not found or found[1] != self.of.name:
            raise Refused(501)
        self.of.delete(unquote(found[2]), query)
        self._send(204, b"")
