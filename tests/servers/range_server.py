"""A web server with range requests for one folder, in a process of its own: GDAL holds the GIL while it waits for it.

Run as a script with a folder; the first line that it prints is its port, and with a second argument each further one
is a path that was asked for. /account is taken for the same folder, as an Azure blob endpoint has it. With ?short=N the
last N bytes of a file are promised and not sent; with ?bare there is no ETag.
"""

import hashlib
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

root = Path(sys.argv[1])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, code: int, body: bytes = b"", short: int = 0, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) - short] if short else body)
        self.close_connection = short > 0

    def do_GET(self) -> None:
        if len(sys.argv) > 2:
            print(self.path, flush=True)
        path = root / re.sub(r"^/(account/)?", "", self.path.partition("?")[0])
        if not path.is_file():
            return self.answer(404)
        data = path.read_bytes()
        tag = {} if "bare" in self.path else {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        short = int((re.search(r"short=(\d+)", self.path) or [0, 0])[1])
        span = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not span:
            return self.answer(200, data, short, **tag)
        first, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
        lacks = min(max(0, last + 1 - (len(data) - short)), last + 1 - first)
        return self.answer(206, data[first : last + 1], lacks, Content_Range=f"bytes {first}-{last}/{len(data)}", **tag)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
