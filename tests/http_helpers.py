"""A server on this machine that answers as Kaggle does, and fails to order.

Two ports, as Kaggle has two hosts: the API, which wants a key, and the storage behind signed
addresses, which wants none.
"""

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """What came in; `name` is the API's method, or `upload` or `archive` of the storage."""

    name: str
    headers: dict[str, str]


# In every address of the storage: who has it needs no key.
SIGNATURE = "5e1f" * 8

Fault = Callable[["Handler"], None]


class Kaggle:
    """One competition: its submissions and its data.

    Attributes:
        faults: by name of the request, what the next ones get in place of an answer, if not None.
        scores: status and public score of each submission to come; pending when it runs out.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: dict[str, list[Fault | None]] = {}
        self.submissions: list[dict[str, Any]] = []
        self.scores: list[dict[str, str]] = []
        self.stored: dict[str, bytes] = {}
        self.archive = b""
        self.daily_limit = 0
        self.ranges = True
        self.page_size = 100
        self.over = threading.Event()
        self.api, self.storage = (Server(("127.0.0.1", 0), Handler) for _ in range(2))
        for server in (self.api, self.storage):
            server.kaggle = self
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.over.set()
        for server in (self.api, self.storage):
            server.shutdown()
            server.server_close()

    def named(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.name == name]

    def add_submission(self, **given: Any) -> dict[str, Any]:
        """Have a submission in the list, the newest first."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
        submission = {"ref": 1000 + len(self.submissions), "date": now, "status": "PENDING",
                      "description": "", "fileName": "x.csv"} | given  # fmt: skip
        self.submissions.insert(0, submission)
        return submission

    # What the API's methods answer.

    def get_competition(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"ref": asked["competitionName"], "maxDailySubmissions": self.daily_limit}

    def list_submissions(self, asked: dict[str, Any]) -> dict[str, Any]:
        start = int(asked.get("pageToken", 0))
        end = start + min(asked["pageSize"], self.page_size)
        more = {"nextPageToken": str(end)} if end < len(self.submissions) else {}
        return {"submissions": self.submissions[start:end], **more}

    def start_submission_upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        token = f"token-{len(self.named('StartSubmissionUpload'))}"
        return {
            "token": token,
            "createUrl": f"{self.storage.url}/upload/{token}?signature={SIGNATURE}",
        }

    def create_submission(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["blobFileTokens"] in self.stored
        outcome = self.scores.pop(0) if self.scores else {}
        made = self.add_submission(description=asked["submissionDescription"], **outcome)
        return {"message": "Successfully submitted", "ref": made["ref"]}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    kaggle: Kaggle

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A client that went away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        """Be silent."""

    def do_POST(self) -> None:
        if self.ordered(self.path.rsplit("/", 1)[-1]):
            return
        if not self.headers.get("Authorization"):
            refusing(401, "Unauthenticated")(self)
        elif self.name == "DownloadDataFiles":
            place = f"{self.server.kaggle.storage.url}/a.zip?signature={SIGNATURE}"
            self.answer(302, b"", {"Location": place})
        else:
            self.answer_json(200, self.perform())

    def do_PUT(self) -> None:
        if self.ordered("upload"):
            return
        token = self.path.split("/")[-1].split("?")[0]
        self.server.kaggle.stored[token] = self.body
        self.answer(200, b"", {})

    def do_GET(self) -> None:
        if not self.ordered("archive"):
            self.send_archive()

    def ordered(self, name: str) -> bool:
        """Take the request down, and do what was ordered in place of an answer, if anything."""
        self.name, self.read = name, None
        kaggle = self.server.kaggle
        fault = kaggle.faults[name].pop(0) if kaggle.faults.get(name) else None
        kaggle.requests.append(Request(name, dict(self.headers)))
        if fault is not None:
            with contextlib.suppress(OSError):
                fault(self)
        return fault is not None

    @property
    def body(self) -> bytes:
        """The request's body; a fault that never asks for it breaks in the middle of it."""
        if self.read is None:
            self.read = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self.read

    def perform(self) -> dict[str, Any]:
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", self.name).lower()
        return getattr(self.server.kaggle, method)(json.loads(self.body))

    def send_archive(self, end: int | None = None, stated: int = 0) -> None:
        """Send the archive or the wanted part of it; cut at `end` where that is given."""
        kaggle = self.server.kaggle
        start = int(re.sub(r"\D", "", self.headers.get("Range", "")) or 0) * kaggle.ranges
        length = stated or len(kaggle.archive)
        headers = {
            "ETag": hashlib.md5(kaggle.archive).hexdigest(),
            "Content-Type": "application/zip",
            "Content-Length": str(length - start),
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{length - 1}/{length}"
        self.answer(206 if start else 200, kaggle.archive[start:end], headers)
        self.close_connection = end is not None

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Answer, having read what was sent, as the next request on the connection wants."""
        assert self.body is not None
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def answer_json(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json; charset=utf-8"}
        self.answer(status, json.dumps(answer).encode(), kind | (headers or {}))

    def reset(self) -> None:
        """Break the connection as a network does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()


def refusing(status: int, message: str = "because", **headers: str) -> Fault:
    """Refuse as the API does: a JSON object with code and message."""
    said = {"code": status, "message": message}
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda handler: handler.answer_json(status, said, named)


def saying(status: int, body: bytes, kind: str) -> Fault:
    """Answer as something that is not Kaggle's API."""
    return lambda handler: handler.answer(status, body, {"Content-Type": kind})


def resetting(handler: Handler) -> None:
    """Break the connection before all that was sent is read."""
    handler.reset()


def hanging(handler: Handler) -> None:
    """Take the request and say nothing until the test is over."""
    handler.server.kaggle.over.wait(20)
    handler.close_connection = True


def done_then(fault: Fault) -> Fault:
    """Do what was asked, and lose the answer."""

    def both(handler: Handler) -> None:
        handler.perform()
        fault(handler)

    return both


def cut_at(end: int) -> Fault:
    """Send the archive up to a byte, then close the connection."""
    return lambda handler: handler.send_archive(end)


@contextmanager
def kaggle_server() -> Iterator[Kaggle]:
    kaggle = Kaggle()
    try:
        yield kaggle
    finally:
        kaggle.close()
