"""A Google Cloud Storage of this machine: the part of its HTTP interface that the three real clients here use.

gcsfs (through etils.epath), tensorstore (Orbax's arrays) and ArrayRecord's C++ reader all talk to it, so that nothing
of this project or of the libraries is replaced in a test. It is an object store as the real one is: objects appear
whole, cannot be appended to, and folders do not exist.
"""

import base64
import dataclasses
import email.parser
import email.policy
import json
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

_TIME = "2026-01-01T00:00:00.000Z"


@dataclasses.dataclass
class Blob:
    data: bytes
    generation: int


class Store:
    """The buckets, and the requests to them.

    Attributes:
      objects: (bucket, name) → Blob.
      requests: "METHOD /path" in order.
      refuse: a pattern of requests that get status 403.
    """

    def __init__(self, buckets: tuple[str, ...] = ("bucket",)) -> None:
        self.buckets = buckets
        self.objects: dict[tuple[str, str], Blob] = {}
        self.requests: list[str] = []
        self.refuse: str | None = None
        self.uploads: dict[str, tuple[str, str, bytearray]] = {}
        self.lock = threading.Lock()
        self._generation = 1

    def put(self, bucket: str, name: str, data: bytes) -> Blob:
        self._generation += 1
        blob = self.objects[bucket, name] = Blob(bytes(data), self._generation)
        return blob

    def names(self, prefix: str = "", bucket: str = "bucket") -> list[str]:
        return sorted(n for b, n in self.objects if b == bucket and n.startswith(prefix))

    def read(self, name: str, bucket: str = "bucket") -> bytes:
        return self.objects[bucket, name].data


def metadata(bucket: str, name: str, blob: Blob) -> dict[str, Any]:
    crc = google_crc32c.value(blob.data).to_bytes(4, "big")
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{blob.generation}",
        "bucket": bucket,
        "name": name,
        "size": str(len(blob.data)),
        "generation": str(blob.generation),
        "metageneration": "1",
        "crc32c": base64.b64encode(crc).decode(),
        "etag": f"e{blob.generation}",
        "contentType": "application/octet-stream",
        "storageClass": "STANDARD",
        "timeCreated": _TIME,
        "updated": _TIME,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def _handle(self) -> None:
        body = self._body()
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        with self.store.lock:
            request = f"{self.command} {unquote(url.path)}"
            self.store.requests.append(request)
            if self.store.refuse and re.search(self.store.refuse, request):
                return self._error(403, "Forbidden")
            upload = re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", url.path)
            if upload:
                return self._upload(upload[1], query, body)
            found = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", url.path)
            if not found:
                return self._error(404, "Not Found")
            bucket, name = found[1], found[2]
            if bucket not in self.store.buckets:
                return self._error(404, "The specified bucket does not exist.")
            if name is None:
                is_list = url.path.endswith("/o")
                return self._list(bucket, query) if is_list else self._json({"name": bucket})
            source, move, target = name.partition("/moveTo/o/")
            if move:
                return self._move(bucket, unquote(source), unquote(target))
            source, rewrite, target = name.partition("/rewriteTo/b/")
            if rewrite:
                return self._copy(bucket, unquote(source), *target.split("/o/"))
            return self._object(bucket, unquote(name), query)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _object(self, bucket: str, name: str, query: dict[str, str]) -> None:
        blob = self.store.objects.get((bucket, name))
        if blob is None:
            return self._error(404, f"No such object: {bucket}/{name}")
        if self.command == "DELETE":
            del self.store.objects[bucket, name]
            return self._send(204, b"")
        if query.get("ifGenerationNotMatch") == str(blob.generation):
            return self._send(304, b"")
        if query.get("alt") != "media":
            return self._json(metadata(bucket, name, blob))
        size = len(blob.data)
        headers = {
            "x-goog-generation": str(blob.generation),
            "x-goog-metageneration": "1",
            "x-goog-stored-content-length": str(size),
            "x-goog-storage-class": "STANDARD",
        }
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return self._send(200, blob.data, headers)
        if asked[1]:
            first = int(asked[1])
            last = min(int(asked[2] or size - 1), size - 1)
        else:
            first, last = max(0, size - int(asked[2])), size - 1
        if first > last:
            return self._error(416, "Range not satisfiable")
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return self._send(206, blob.data[first : last + 1], headers)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        start, end = query.get("startOffset", ""), query.get("endOffset")
        items, prefixes = [], set()
        for name in self.store.names(prefix, bucket):
            if name < start or (end and name >= end):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(metadata(bucket, name, self.store.objects[bucket, name]))
        self._json({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _copy(self, bucket: str, name: str, to_bucket: str, to_name: str) -> None:
        blob = self.store.objects.get((bucket, name))
        if blob is None:
            return self._error(404, f"No such object: {bucket}/{name}")
        new = self.store.put(to_bucket, unquote(to_name), blob.data)
        size = str(len(new.data))
        resource = metadata(to_bucket, unquote(to_name), new)
        self._json(
            {"done": True, "objectSize": size, "totalBytesRewritten": size, "resource": resource}
        )

    def _move(self, bucket: str, name: str, to_name: str) -> None:
        blob = self.store.objects.pop((bucket, name), None)
        if blob is None:
            return self._error(404, f"No such object: {bucket}/{name}")
        self._json(metadata(bucket, to_name, self.store.put(bucket, to_name, blob.data)))

    def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        if bucket not in self.store.buckets:
            return self._error(404, "The specified bucket does not exist.")
        if "upload_id" in query:
            return self._continue_upload(query["upload_id"], body)
        kind = query.get("uploadType")
        if kind == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            identity = str(zlib.crc32(f"{name}{len(self.store.uploads)}".encode()))
            self.store.uploads[identity] = (bucket, name, bytearray())
            host = f"http://{self.headers['Host']}"
            where = (
                f"{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={identity}"
            )
            return self._send(200, b"", {"Location": where})
        if kind == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            boundary = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head)
            mark = b"--" + str(boundary.get_boundary()).encode()
            # Split by hand: the binary payload may contain any line endings.
            _, first, second = body.split(mark, 2)
            name = json.loads(re.split(rb"\r?\n\r?\n", first, maxsplit=1)[1])["name"]
            payload = re.split(rb"\r?\n\r?\n", second, maxsplit=1)[1]
            data = payload[: payload.rindex(mark)]
            data = data.removesuffix(b"\n").removesuffix(b"\r")
        else:
            name, data = query["name"], body
        expected = query.get("ifGenerationMatch")
        old = self.store.objects.get((bucket, name))
        if expected is not None and expected != str(old.generation if old else 0):
            return self._error(412, "conditionNotMet")
        self._json(metadata(bucket, name, self.store.put(bucket, name, data)))

    def _continue_upload(self, identity: str, body: bytes) -> None:
        bucket, name, data = self.store.uploads[identity]
        data += body
        total = (self.headers.get("Content-Range") or "*/*").rpartition("/")[2]
        if total == "*" or int(total) > len(data):
            return self._send(308, b"", {"Range": f"bytes=0-{len(data) - 1}"} if data else {})
        self._json(metadata(bucket, name, self.store.put(bucket, name, data)))

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, code: int, message: str) -> None:
        error = {"error": {"code": code, "message": message, "errors": [{"message": message}]}}
        self._send(code, json.dumps(error).encode(), {"Content-Type": "application/json"})

    def _send(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if code != 204 and code != 304:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: clients drop connections that they no longer need."""


@contextmanager
def serve(store: Store) -> Iterator[str]:
    """Serve `store` and yield its address, such as `http://127.0.0.1:40001`."""
    handler = type("Handler", (_Handler,), {"store": store})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def environment(address: str) -> dict[str, str]:
    """Return the variables that direct the clients of a process to `address`; set them before first use."""
    return {
        "STORAGE_EMULATOR_HOST": address,  # gcsfs, google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": address,
        "TENSORSTORE_GCS_HTTP_VERSION": "1.1",
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,  # ArrayRecord
        "GCE_METADATA_ROOT": address,  # credentials are looked up there and not found
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask a gRPC service for the kind of bucket
        "GOOGLE_CLOUD_PROJECT": "stand-in",
    }


def use_no_credentials() -> None:
    """Make gcsfs anonymous in this process; it would use the credentials of the machine."""
    from fsspec.config import conf

    for protocol in ("gs", "gcs"):
        conf.setdefault(protocol, {})["token"] = "anon"
