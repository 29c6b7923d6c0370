"""Published weights: which file, and a download that survives what networks do, against a server on this machine."""

import fcntl
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.cli.main import main
from resnet_jax.data.transforms.preprocess import PREPROCESS
from resnet_jax.errors import UserError
from resnet_jax.weights import download, pretrained
from resnet_jax.weights.pretrained import PRETRAINED, fetch_pretrained, find_weights, recipe_of

CONTENT = np.random.default_rng(0).bytes(1_000_000)
OTHER = np.random.default_rng(1).bytes(1_000_000)
FILE = f"tiny-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
TABLE = {("tiny", "IMAGENET1K_V1"): FILE, ("tiny2", "IMAGENET1K_V2"): "tiny2-00000000.pth"}


class Server(ThreadingHTTPServer):
    """Serves `content`; `faults` are what happens to the first requests: bytes to send before a cut, or a status."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.mark, self.ranges, self.faults, self.pause = CONTENT, {"ETag": '"1"'}, True, [], 0.0
        self.requests, self.num_sent = [], []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_):
        """A client that gives up is no error here."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/models"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        time.sleep(server.pause)
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, str):
            self.send_error(int(fault))
            return
        start = 0
        if server.ranges and self.headers.get("Range") and self.headers.get("If-Range", self.mark()) == self.mark():
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            first = start if fault is None else 0  # a fault here is a wrong range
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(server.content) - start))
        for name, value in server.mark.items():
            self.send_header(name, value)
        self.end_headers()
        body = server.content[start:][:fault]
        server.num_sent.append(len(body))
        self.wfile.write(body)

    def mark(self):
        return next(iter(self.server.mark.values()), None)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(pretrained, "PRETRAINED", TABLE)
    monkeypatch.setattr(download, "RETRY_PAUSES_SECONDS", (0.0, 0.0))
    server = Server()
    monkeypatch.setenv("RESNET_JAX_PRETRAINED_URL", server.url + "/")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pretrained" / FILE


@pytest.fixture
def partial(path):
    """Half of the file, received by an earlier call."""
    path.parent.mkdir()
    partial = download.partial_of(path)
    partial.write_bytes(CONTENT[:500_000])
    return partial


def leftovers(path):
    return {other.name.removeprefix(FILE) for other in path.parent.iterdir()} - {"", ".lock"}


def test_table_holds_torchvisions_files():
    models = "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d"
    assert list(dict.fromkeys(name for name, _ in PRETRAINED)) == [
        *models.split(),
        "wide_resnet50_2",
        "wide_resnet101_2",
    ]
    only_v1 = {"resnet18", "resnet34", "resnext101_64x4d"}
    assert {name for name, tag in PRETRAINED if tag == "IMAGENET1K_V2"} == {name for name, _ in PRETRAINED} - only_v1
    assert len(set(PRETRAINED.values())) == len(PRETRAINED) == 17
    for (name, _), file in PRETRAINED.items():
        stem, digits = file.removesuffix(".pth").rsplit("-", 1)
        assert (stem, len(digits), int(digits, 16) > 0) == (name, 8, True)


def test_files_are_evaluated_by_their_tags_recipe_but_resnext101_64x4d_by_v2s():
    assert {recipe_of(file) for file in PRETRAINED.values()} <= set(PREPROCESS)
    assert recipe_of("resnet50-0676ba61.pth") == "IMAGENET1K_V1"
    assert recipe_of("resnet50-11ad3fa6.pth") == "IMAGENET1K_V2"
    assert recipe_of("resnext101_64x4d-173b62eb.pth") == "IMAGENET1K_V2"


def test_fresh_download_brings_the_file_into_the_cache(server, path, capsys):
    assert fetch_pretrained("tiny") == path
    assert (path.read_bytes(), leftovers(path)) == (CONTENT, set())
    assert server.requests == [(f"/models/{FILE}", None, None)]
    output, errors = capsys.readouterr()
    assert (output, errors) == ("", f"downloading {server.url}/{FILE} to {path}\n")


def test_cached_file_is_returned_without_a_request_or_a_word(server, path, capsys):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    path.parent.chmod(0o500)  # a cache that others share
    assert fetch_pretrained("tiny") == path
    assert (server.requests, capsys.readouterr(), leftovers(path)) == ([], ("", ""), set())


def test_partial_download_is_continued_from_its_end(server, path, partial):
    fetch_pretrained("tiny")
    assert server.requests == [(f"/models/{FILE}", "bytes=500000-", None)]
    assert (server.num_sent, path.read_bytes(), leftovers(path)) == ([500_000], CONTENT, set())


def test_connection_that_is_cut_is_taken_up_where_it_broke(server, path):
    server.faults = [300_000]
    fetch_pretrained("tiny")
    assert [request[1:] for request in server.requests] == [(None, None), ("bytes=300000-", '"1"')]
    assert (server.num_sent, path.read_bytes()) == ([300_000, 700_000], CONTENT)


def test_third_failure_ends_the_call_and_the_next_call_continues(server, path):
    server.faults = [300_000, "429", "503"]
    with pytest.raises(UserError, match=rf"{FILE} cannot be downloaded \(HTTP 503 .*\): put that file at {path}$"):
        fetch_pretrained("tiny")
    fetch_pretrained("tiny")
    assert [request[1] for request in server.requests] == [None, *["bytes=300000-"] * 3]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "mark", [{"ETag": '"1"'}, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}], ids=["etag", "last-modified"]
)
def test_file_that_changed_on_the_server_is_not_spliced(server, path, mark):
    server.content, server.mark, server.faults = OTHER, mark, [300_000, "503", "503"]
    with pytest.raises(UserError, match="HTTP 503"):
        fetch_pretrained("tiny")
    server.content, server.mark = CONTENT, {name: value.replace("1", "2") for name, value in mark.items()}
    fetch_pretrained("tiny")
    assert server.requests[-1][1:] == ("bytes=300000-", *mark.values())
    assert (server.num_sent[-1], path.read_bytes()) == (1_000_000, CONTENT)


def test_weak_etag_which_promises_no_equal_bytes_is_not_sent_back(server, path):
    server.mark, server.faults = {"ETag": 'W/"1"'}, [300_000]
    fetch_pretrained("tiny")
    assert server.requests[-1][1:] == ("bytes=300000-", None)


def test_server_without_ranges_sends_the_file_anew(server, path, partial):
    server.ranges = False
    fetch_pretrained("tiny")
    assert (server.num_sent, path.read_bytes()) == ([1_000_000], CONTENT)


def test_partial_that_is_longer_than_the_file_is_started_over(server, path, partial):
    partial.write_bytes(CONTENT + b"more")
    fetch_pretrained("tiny")
    assert [request[1] for request in server.requests] == ["bytes=1000004-", None]
    assert path.read_bytes() == CONTENT


def test_wrong_range_from_the_server_is_started_over(server, path, partial):
    server.faults = [1000]
    fetch_pretrained("tiny")
    assert [request[1] for request in server.requests] == ["bytes=500000-", None]
    assert path.read_bytes() == CONTENT


def test_wrong_content_is_removed_and_both_hashes_named(server, path):
    server.content = OTHER
    promised, actual = FILE[5:13], hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(UserError, match=rf"{FILE} sent another file .* begin with {promised} and is {actual}"):
        fetch_pretrained("tiny")
    assert not path.exists()
    assert leftovers(path) == set()


def test_damaged_cached_file_is_named_with_both_hashes_and_kept(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    actual = hashlib.sha256(CONTENT[:-1]).hexdigest()
    with pytest.raises(UserError, match=rf"{path} is damaged .* begin with {FILE[5:13]} and is {actual}; delete it or"):
        fetch_pretrained("tiny")
    assert (server.requests, path.exists()) == ([], True)


def test_missing_file_is_told_at_once_without_retries(server, path):
    server.faults = ["404"]
    with pytest.raises(UserError, match=rf"HTTP 404 Not Found\): put that file at {path}$"):
        fetch_pretrained("tiny")
    assert len(server.requests) == 1


def test_closed_port_is_tried_three_times_then_told_where_to_put_the_file(server, path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        download, "urlopen", lambda *a, urlopen=download.urlopen, **k: opened.append(1) or urlopen(*a, **k)
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("RESNET_JAX_PRETRAINED_URL", url)
        with pytest.raises(UserError) as info:
            fetch_pretrained("tiny")
    assert str(info.value) == f"{url}/{FILE} cannot be downloaded (Connection refused): put that file at {path}"
    assert len(opened) == 3


def test_network_that_stays_silent_is_given_up_once(server, path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    server.pause = 1.0
    with pytest.raises(UserError, match=rf"\(no answer in 0\.2 s\): put that file at {path}$"):
        fetch_pretrained("tiny")
    assert len(server.requests) == 1


def test_name_that_is_not_resolved_for_long_is_given_up(server, path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    hanging = threading.Event()
    monkeypatch.setattr(download, "urlopen", lambda *_, **__: hanging.wait(30))
    started = threading.active_count()
    with pytest.raises(UserError, match=rf"\(no answer in 0\.2 s\): put that file at {path}$"):
        fetch_pretrained("tiny")
    assert threading.active_count() == started + 1  # it hangs still, and nobody waits for it
    hanging.set()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_full_disk_is_told_in_one_line(server, path):
    path.parent.mkdir()
    download.partial_of(path).symlink_to("/dev/full")
    with pytest.raises(UserError, match=rf"^{path} cannot be written or read \(No space left on device\): .*_HOME"):
        fetch_pretrained("tiny")


def test_cache_that_cannot_be_made_is_told_in_one_line(server, path):
    path.parent.touch()
    with pytest.raises(UserError, match=rf"^{path} cannot be written or read \(.*\): .* or set RESNET_JAX_HOME"):
        fetch_pretrained("tiny")


def test_threads_that_want_the_same_file_download_it_once(server, path):
    server.pause = 0.1
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(fetch_pretrained, ["tiny"] * 4)) == {path}
    assert (len(server.requests), path.read_bytes()) == (1, CONTENT)


def test_process_waits_for_another_that_downloads_and_finds_its_file(server, path):
    path.parent.mkdir()
    code = (
        "from resnet_jax.distributed.log_handler import install_log_handler; "
        "from resnet_jax.weights import pretrained; "
        f"install_log_handler(); pretrained.PRETRAINED = {TABLE!r}; print(pretrained.fetch_pretrained('tiny'))"
    )
    with path.with_name(FILE + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        assert process.stderr.readline() == f"waiting for another process that downloads {path}\n"
        path.write_bytes(CONTENT)
    assert process.communicate(timeout=60) == (f"{path}\n", "")
    assert server.requests == []


def test_terminal_shows_a_bar_and_no_line(server, path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes standard error for a terminal
    fetch_pretrained("tiny")
    output, errors = capsys.readouterr()
    assert output == ""
    assert f"{FILE} " in errors
    assert "downloading" not in errors


def test_unknown_name_or_tag_is_told_what_there_is(monkeypatch):
    with pytest.raises(
        UserError, match=r"^'resnet51' has no published .* resnet18, resnet34, .*; did you mean 'resnet5"
    ):
        fetch_pretrained("resnet51")
    with pytest.raises(UserError, match=r"^resnet18 has no weights 'IMAGENET1K_V2': tag must be one of IMAGENET1K_V1;"):
        fetch_pretrained("resnet18", "IMAGENET1K_V2")
    with pytest.raises(UserError, match=r"one of IMAGENET1K_V1, IMAGENET1K_V2$"):
        fetch_pretrained("resnet50", "newest")


@pytest.mark.parametrize("url", ["file:///etc", "ftp://host/models", "host/models", "http://", "http://[bad"])
def test_address_that_is_not_http_is_refused(server, monkeypatch, url):
    monkeypatch.setenv("RESNET_JAX_PRETRAINED_URL", url)
    with pytest.raises(UserError, match=r"^RESNET_JAX_PRETRAINED_URL='.*' must be an http:// or https:// address"):
        fetch_pretrained("tiny")


def test_weights_are_found_by_path_or_by_the_tag_of_a_model(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path))
    assert find_weights("some/where.pth", None) == Path("some/where.pth")
    published = tmp_path / "pretrained" / "resnet50-11ad3fa6.pth"
    assert find_weights("IMAGENET1K_V2", "resnet50", download=False) == published
    with pytest.raises(ValueError, match="resnet18 has no weights 'IMAGENET1K_V2'"):
        find_weights("IMAGENET1K_V2", "resnet18", download=False)
    assert main(["predict", "x.jpg", "--weights", "IMAGENET1K_V2"]) == 2
    assert "IMAGENET1K_V2 is published of many networks: name the model too" in capsys.readouterr().err
