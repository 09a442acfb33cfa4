"""`facever data fetch lfw`, from a real server that has a small archive made here."""

import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facever.data import lfw
from facever.data.lfw import Remote, fetch_lfw
from facever.data.manifest import read_manifest
from facever.data.workers import lock_file
from facever.errors import DataError, StorageError

PEOPLE = {"Ann_A": 2, "Bo_B": 2, "Cy_C": 2, "Di_D": 2, "Eve_E": 3, "Flo_F": 1}
PAIRS = "2\t1\nAnn_A\t1\t2\nAnn_A\t1\tBo_B\t1\nCy_C\t1\t2\nCy_C\t1\tDi_D\t2\n"
VIEW = "1\nAnn_A\t1\t2\nAnn_A\t1\tBo_B\t1\n"


def archive(extra: str | None = None) -> bytes:
    stream = io.BytesIO()
    rng = np.random.default_rng(0)
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for person, count in PEOPLE.items():
            for i in range(1, count + 1):
                picture = io.BytesIO()
                pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(picture, "JPEG")
                add(tar, f"lfw_funneled/{person}/{person}_{i:04d}.jpg", picture.getvalue())
        if extra:
            add(tar, extra, b"out")
    return stream.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


class Server(SimpleHTTPRequestHandler):
    """Hands files out, in parts where asked; takes requests down; cuts what it is told to."""

    asked: list[tuple[str, str]]
    cut: dict[str, int]

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""

    def do_GET(self) -> None:
        name = self.path.strip("/")
        span = self.headers.get("Range", "")
        self.asked.append((name, span))
        file = Path(self.directory) / name
        if not file.is_file():
            self.send_error(404)
            return
        whole = file.read_bytes()
        start = int(span.removeprefix("bytes=").rstrip("-") or 0)
        if start and start >= len(whole):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(whole) - start))
        self.end_headers()
        self.wfile.write(whole[start : self.cut.pop(name, None)])


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served in place of LFW's addresses, with its files' hashes."""
    folder = tmp_path / "served"
    folder.mkdir()
    Server.asked, Server.cut = [], {}
    files = {"pairs.txt": PAIRS.encode(), "pairsDevTrain.txt": VIEW.encode(),
             "pairsDevTest.txt": VIEW.encode(), "lfw-funneled.tgz": archive()}  # fmt: skip
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for name, data in files.items():
            serve(folder, name, data, server.server_port, monkeypatch)
        monkeypatch.chdir(tmp_path)
        yield folder
        server.shutdown()


def serve(folder: Path, name: str, data: bytes, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_bytes(data)
    remote = Remote(f"http://127.0.0.1:{port}/{name}", hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(lfw._FILES, name, remote)


def test_what_is_fetched_is_what_the_reader_of_lfw_reads(served: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder, files = fetch_lfw(unpacking=lambda *call: seen.append(call))
    assert (folder, files) == (Path("data/lfw"), 12 + 3)
    assert seen[-1] == (12, 12)
    assert sorted(path.name for path in Path("data").iterdir()) == ["lfw"]
    manifest = read_manifest(folder)
    assert manifest.layout == "lfw"
    assert manifest.val_pairs is not None
    assert manifest.val_pairs.mated.tolist() == [1, 0, 1, 0]
    assert manifest.val_pairs.fold.tolist() == [0, 0, 1, 1]
    assert manifest.identities == ("Eve_E", "Flo_F")
    before = len(Server.asked)
    assert fetch_lfw() == (folder, 0)
    assert len(Server.asked) == before


def test_a_download_that_was_cut_goes_on_where_it_stopped(served: Path) -> None:
    Server.cut["lfw-funneled.tgz"] = 300
    whole = (served / "lfw-funneled.tgz").stat().st_size
    with pytest.raises(DataError, match=rf"300 of {whole:,} bytes came\n  is there a way to 127"):
        fetch_lfw(Path("faces"))
    assert not Path("faces").exists()
    fetch_lfw(Path("faces"))
    asked = [span for name, span in Server.asked if name == "lfw-funneled.tgz"]
    assert asked == ["", "bytes=300-"]
    assert len([name for name, _ in Server.asked if name == "pairs.txt"]) == 1
    assert read_manifest("faces").layout == "lfw"


def test_a_kill_after_the_last_byte_costs_nothing(served: Path) -> None:
    store = Path("data/lfw.download")
    store.mkdir(parents=True)
    (store / "lfw-funneled.tgz.part").write_bytes((served / "lfw-funneled.tgz").read_bytes())
    assert fetch_lfw()[1] == 15


def test_a_file_with_other_bytes_is_refused_and_asked_for_again(served: Path) -> None:
    right = (served / "pairs.txt").read_bytes()
    (served / "pairs.txt").write_bytes(b"<html>log in</html>")
    with pytest.raises(DataError, match=r"pairs\.txt\.part: SHA-256 .*, expected"):
        fetch_lfw()
    (served / "pairs.txt").write_bytes(right)
    assert fetch_lfw()[1] == 15


def test_files_that_were_got_elsewhere_are_taken(served: Path) -> None:
    store = Path("data/lfw.download")
    store.mkdir(parents=True)
    for file in list(served.iterdir()):
        file.rename(store / file.name)
    assert fetch_lfw()[1] == 15
    assert Server.asked == []


def test_an_archive_that_leads_out_of_its_folder_is_not_unpacked(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = archive("lfw_funneled/../../../escaped")
    (served / "lfw-funneled.tgz").write_bytes(hostile)
    there = lfw._FILES["lfw-funneled.tgz"]
    remote = Remote(there.url, hashlib.sha256(hostile).hexdigest())
    monkeypatch.setitem(lfw._FILES, "lfw-funneled.tgz", remote)
    with pytest.raises(DataError, match="1 of 13 members are refused"):
        fetch_lfw()
    assert [path.name for path in Path("data").iterdir()] == ["lfw.download"]
    assert not list(served.parent.rglob("escaped"))


def test_where_nobody_answers_it_says_how_to_do_without(
    served: Path, monkeypatch: pytest.MonkeyPatch, facever: Any
) -> None:
    monkeypatch.setattr(lfw, "_TIMEOUT", 0.2)
    (served / "pairsDevTrain.txt").unlink()
    monkeypatch.chdir(served.parent)
    answer = facever("data", "fetch", "lfw")
    assert answer.code == 2
    assert "pairsDevTrain.txt could not be downloaded: the answer is 404" in answer.err
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address, reason in (
            (silent.getsockname()[1], "timed out"), (1, "Connection refused"),
        ):  # fmt: skip
            remote = Remote(f"http://127.0.0.1:{address}/x", "0" * 64)
            monkeypatch.setitem(lfw._FILES, "pairsDevTrain.txt", remote)
            answer = facever("data", "fetch", "lfw")
            assert answer.code == 2
            assert reason in answer.err
            assert f"put it here as {Path('data/lfw.download/pairsDevTrain.txt')}" in answer.err


def test_it_neither_overwrites_nor_races(served: Path) -> None:
    Path("mine").mkdir()
    Path("mine/photo.jpg").touch()
    with pytest.raises(DataError, match="is there already"):
        fetch_lfw(Path("mine"))
    Path("data/lfw.download").mkdir(parents=True)
    with Path("data/lfw.download/pairsDevTrain.txt.part").open("ab") as part:
        lock_file(part, exclusive=True)
        with pytest.raises(StorageError, match="another process"):
            fetch_lfw()
    Path("file").touch()
    with pytest.raises(StorageError):
        fetch_lfw(Path("file/lfw"))


def test_the_command_names_the_next_ones(served: Path, facever: Any) -> None:
    answer = facever("data", "fetch", "lfw", "-o", served.parent / "out")
    assert answer.code == 0, answer.err
    assert f"{served.parent}/out: 15 files of LFW" in answer.out
    assert "facever evaluate --pairs" in answer.out
