"""A server on this machine that takes runs as W&B's does, as far as its client asks for it."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Run:
    """What the server knows of a run: its rows as they came, and the last summary."""

    name: str
    project: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    ended: bool = False


class Server(ThreadingHTTPServer):
    """W&B's server; `runs` in the order in which they began, by id."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, Run] = {}
        self.keys: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """The client drops its connections when it ends."""

    def take_run(self, given: dict[str, Any]) -> dict[str, Any]:
        """Make a run, or change one; gives what the client wants to know of it."""
        run = self.runs.setdefault(given["name"], Run("", given["project"]))
        run.name = given["displayName"] or run.name
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "i", "name": given["name"], "displayName": run.name, "config": "{}",
                  "project": project, "historyLineCount": len(run.rows)}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def take_lines(self, run: Run, sent: dict[str, Any]) -> None:
        files = sent.get("files") or {}
        for text in files.get("wandb-history.jsonl", {}).get("content", []):
            run.rows.append(json.loads(text))
        for text in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(text)
        run.ended = run.ended or bool(sent.get("complete"))

    def give_addresses(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/put"} for name in given["files"]]
        return {"createRunFiles": {"runID": "i", "uploadHeaders": [], "files": files}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        """Be silent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.keys.add(self.headers.get("Authorization", ""))
        reply = json.dumps(self.answer(body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def do_PUT(self) -> None:
        self.do_POST()

    def answer(self, body: bytes) -> dict[str, Any]:
        if found := re.fullmatch(r"/files/.+/(\w+)/file_stream", self.path):
            self.server.take_lines(self.server.runs[found[1]], json.loads(body))
            return {}
        if self.path != "/graphql":
            return {}
        asked = json.loads(body)
        given = asked.get("variables") or {}
        if "mutation UpsertBucket" in asked["query"]:
            return {"data": self.server.take_run(given)}
        if "mutation CreateRunFiles" in asked["query"]:
            return {"data": self.server.give_addresses(given)}
        return {"data": {}}


@contextmanager
def wandb_server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
