"""A bucket on this machine: moto's S3 server, and before it a proxy that fails as stores and networks do."""

import contextlib
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

from processes import free_port

BUCKET = "bucket"
START_SECONDS = 60
_ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message></Error>"
_S3_KEY = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
# (method, key and query, number of the request) -> None: pass it on; "drop": cut the connection; a number of seconds:
# wait, then pass it on; "late answer": pass it on and cut the connection; (status, code): answer so; "old listing": of
# a listing, answer what was answered the last time but one.
Fault = Callable[[str, str, int], object]


class BucketServer:
    """Moto behind a proxy; a context manager. `fault` decides what becomes of each request."""

    def __init__(self):
        self.port, self._moto_port = free_port(), free_port()
        self.fault: Fault = lambda method, path, number: None
        self.requests: list[tuple[str, str]] = []
        self.ignores_conditions = False  # of writes, as simple servers do
        self._listings: dict[str, list[tuple]] = {}
        self._generations: dict[str, str] = {}  # Google's number of an object's version: S3's tag
        self._lock = threading.Lock()

    def environment(self, **more):
        """Returns what clients of S3 and of Google's store need to find it."""
        return {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "GOOGLE_SERVICE_ACCOUNT": str(self._account),
            **more,
        }  # fmt: skip

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._account = Path(self._folder.name, "account.json")
        keys = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        base = f"http://127.0.0.1:{self.port}"
        self._account.write_text(json.dumps({**keys, "gcs_base_url": base, "disable_oauth": True}))
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._moto_port)]
        self._moto = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._moto_port)):
                break
            assert time.monotonic() < end, "moto's server did not start"
            time.sleep(0.1)
        self.start()
        assert self.ask("PUT", f"/{BUCKET}")[0] == 200
        return self

    def __exit__(self, *_):
        self.stop()
        self._moto.terminate()
        self._moto.wait()
        self._folder.cleanup()

    def start(self):
        """Listens, again after `stop`."""
        handler = type("Handler", (_Handler,), {"bucket": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        """Goes away: connections are refused."""
        self._server.shutdown()
        self._server.server_close()

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, body) of moto's answer, past all faults."""
        connection = http.client.HTTPConnection("127.0.0.1", self._moto_port, timeout=60)
        try:
            connection.request(method, path, body, headers or {"authorization": _S3_KEY})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def get(self, key):
        """An object's bytes; None if there is none."""
        status, _, body = self.ask("GET", f"/{BUCKET}/{key}")
        return body if status == 200 else None

    def put(self, key, data):
        """Writes an object."""
        assert self.ask("PUT", f"/{BUCKET}/{key}", data)[0] == 200

    def delete(self, key):
        """Removes an object."""
        assert self.ask("DELETE", f"/{BUCKET}/{key}")[0] == 204

    def keys(self, prefix=""):
        """All keys that begin with `prefix`."""
        _, _, body = self.ask("GET", f"/{BUCKET}?list-type=2&max-keys=1000&prefix={prefix}")
        return [part.partition("</Key>")[0] for part in body.decode().split("<Key>")[1:]]

    def as_s3(self, headers):
        """A request's headers for S3: Google's numbers of versions are made tags; moto breaks at Google's keys."""
        if not headers.get("authorization", "").startswith("AWS4"):
            headers["authorization"] = _S3_KEY
        wanted = headers.pop("x-goog-if-generation-match", None)
        if wanted == "0":
            headers["If-None-Match"] = "*"
        elif wanted is not None:
            headers["If-Match"] = self._generations.get(wanted, '"no such"')
        if self.ignores_conditions:
            headers = {
                name: value for name, value in headers.items() if name.lower() not in ("if-match", "if-none-match")
            }
        return headers

    def as_google(self, tag):
        """The number of the version that has a tag."""
        with self._lock:
            for generation, known in self._generations.items():
                if known == tag:
                    return generation
            self._generations[str(len(self._generations) + 1)] = tag
            return str(len(self._generations))


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True

    def handle_error(self, *_):
        """Says nothing of clients that go away: tests kill them."""


class _Handler(BaseHTTPRequestHandler):
    bucket: BucketServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _serve(self):
        bucket = self.bucket
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with bucket._lock:
            bucket.requests.append((self.command, self.path))
            number = len(bucket.requests)
        fault = bucket.fault(self.command, self.path, number)
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if isinstance(fault, tuple):
            status, code = fault
            self._answer(status, {"Content-Type": "application/xml"}, _ERROR.format(code, code).encode())
            return
        if isinstance(fault, int | float):
            time.sleep(fault)
        headers = bucket.as_s3({name: value for name, value in self.headers.items() if name.lower() != "host"})
        path, _, query = self.path.partition("?")  # Google's clients quote slashes, which moto does not understand
        status, answered, data = bucket.ask(
            self.command, "?".join(filter(None, (quote(unquote(path)), query))), body, headers
        )
        if "list-type" in query:
            listings = bucket._listings.setdefault(self.path, [])
            listings[:] = [*listings[-1:], (status, answered, data)]
            if fault == "old listing":
                status, answered, data = listings[0]
        if fault == "late answer":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer(status, answered, data)

    def _answer(self, status, headers, data):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
            if name.lower() == "etag":
                self.send_header("x-goog-generation", self.bucket.as_google(value))
        length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.command != "HEAD":
                self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815, http.server's names


@contextlib.contextmanager
def environment_of(bucket, **more):
    """Has this process find the bucket."""
    values = bucket.environment(**more)
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield bucket
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


logging.getLogger("werkzeug").setLevel(logging.ERROR)


def main():
    """python tests/bucket_server.py [--put FOLDER] COMMAND …: run it where a bucket is, with a folder's files in it."""
    words = sys.argv[1:]
    with BucketServer() as bucket:
        if words[:1] == ["--put"]:
            folder, words = Path(words[1]), words[2:]
            for path in folder.rglob("*"):
                if path.is_file():
                    bucket.put(quote(f"{folder.name}/{path.relative_to(folder).as_posix()}"), path.read_bytes())
        return subprocess.run(words, env={**os.environ, **bucket.environment()}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
