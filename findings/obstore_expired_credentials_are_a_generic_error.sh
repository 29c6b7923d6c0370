#!/usr/bin/env bash
# obstore, with credentials that S3 no longer accepts: the answer 403 AccessDenied raises PermissionDeniedError. The
# answer 400 ExpiredToken, which S3 documents for temporary credentials that have run out, raises GenericError, the
# class of server errors and broken connections. You would expect the same class for both, or UnauthenticatedError. A
# program that retries after GenericError, as it should while a store is away, retries with dead credentials until its
# patience ends. The code in the message separates the two; `resnet_jax/storage/object_store.py` looks for it.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "obstore==0.12.1"

cat > "$folder/ask.py" <<'END'
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

import obstore
from obstore.store import S3Store

ANSWERS = {"denied": (403, "AccessDenied"), "expired": (400, "ExpiredToken"), "broken": (500, "InternalError")}


class S3(BaseHTTPRequestHandler):
    """Answers as S3 documents its errors."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status, code = ANSWERS[self.path.rpartition("/")[2]]
        body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), S3)
threading.Thread(target=server.serve_forever, daemon=True).start()
store = S3Store(
    "bucket", endpoint=f"http://127.0.0.1:{server.server_port}", region="us-east-1", access_key_id="key",
    secret_access_key="secret", session_token="token", client_options={"allow_http": True}, retry_config={"max_retries": 0},
)
print("obstore", version("obstore"))
kinds = {}
for name, (status, code) in ANSWERS.items():
    try:
        obstore.get(store, name)
    except obstore.exceptions.BaseError as error:
        kinds[name] = type(error).__name__
    print(f"{status} {code}: {kinds[name]}")
assert kinds == {"denied": "PermissionDeniedError", "expired": "GenericError", "broken": "GenericError"}, "it is otherwise now"
END
"$folder/venv/bin/python" "$folder/ask.py"
