"""A hub of models on this machine, of files in memory, for the real client."""

import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from golden import weights

FOLDERS = json.loads((Path(__file__).parent / "golden" / "model-folders.json").read_text())["folders"]
COMMIT = "0123456789" * 4
OLDER = "9876543210" * 4
TOKEN = "hf_right"
# By a repository's name: what the server says to those without the right token.
CLOSED = {"owner/private": (404, "RepoNotFound"), "owner/gated": (403, "GatedRepo")}


class Server(ThreadingHTTPServer):
    """Serves `files`, by repository and name; what is asked of it is kept in `requests`, and `cut` is how many bytes of
    a file of weights it sends.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.cut, self.status = {}, [], None, 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_):
        """A client that gives up is no error here."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(b"")

    def do_GET(self):
        self.answer(None)

    def answer(self, body):
        path = self.path.partition("?")[0].strip("/").split("/")
        if len(path) < 5 or path[2] != "resolve":
            return self.refuse(404, "")
        repository, revision, name = "/".join(path[:2]), path[3], "/".join(path[4:])
        self.server.requests.append(f"{self.command} {name}")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.server.status:
            return self.refuse(self.server.status, "")
        if token not in ("", TOKEN):
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if repository in CLOSED and token != TOKEN:
            return self.refuse(*CLOSED[repository])
        if repository not in self.server.files:
            return self.refuse(404, "RepoNotFound")
        if revision not in ("main", COMMIT, OLDER):
            return self.refuse(404, "RevisionNotFound")
        content = self.server.files[repository].get(name)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        self.send_response(200)
        self.send_header("X-Repo-Commit", OLDER if revision == OLDER else COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(
            content[: self.server.cut if name.endswith(".safetensors") else None] if body is None else body
        )
        return None

    def refuse(self, status, code, message=""):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def published(name):
    """The configs of a model of FOLDERS, as files, and tensors of its names and shapes."""
    one = FOLDERS[name]
    tensors = {key: np.asarray(weights.tensor(key, tuple(shape))) for key, shape in one["shapes"].items()}
    tensors = {key: a.astype(np.float32) if a.dtype.kind == "f" else a for key, a in tensors.items()}
    return {file: json.dumps(content).encode() for file, content in one["files"].items()}, tensors


def environment(server, cache):
    """The environment of a process whose hub is the server."""
    own = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1",
    }
    return {**{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}, **own}
