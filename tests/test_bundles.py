"""Folders whose images lie in one file: read as if each lay there, and made of an archive."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_helpers import make_folders, make_hw2p2, people, save_image
from process_helpers import killed_at_rename

from facever.data import ImageDataset, read_manifest
from facever.data.archives import unpack
from facever.data.bundles import NAME, Bundle, BundleWriter, open_file
from facever.data.decode import fingerprint
from facever.data.images import read_rgb
from facever.data.lists import Manifest
from facever.errors import DataError


def bundle(file: Path, content: dict[str, bytes]) -> Bundle:
    with file.open("wb") as stream:
        writer = BundleWriter(stream)
        for name, data in content.items():
            stream.write(data)
            writer.add(name)
        writer.finish()
    return Bundle(file)


def zipped(folder: Path, archive: Path) -> Path:
    """Put a folder into an archive, below a folder of its own name."""
    made = shutil.make_archive(
        str(archive.with_suffix("")), "zip" if archive.suffix == ".zip" else "gztar",
        folder.parent, folder.name,
    )  # fmt: skip
    return Path(made)


@pytest.mark.parametrize("content", [{}, {"a": b""}, {"a": b"1", "\udcff\n x": b"22", "": b"333"}])
def test_a_bundle_gives_back_what_was_put_in(tmp_path: Path, content: dict[str, bytes]) -> None:
    found = bundle(tmp_path / "b", content)
    assert {name: found.read(i) for name, i in found.positions.items()} == content
    assert [found.size(i) for i in range(len(found))] == [len(data) for data in content.values()]


def test_a_bundle_that_is_cut_or_no_bundle_is_refused(tmp_path: Path) -> None:
    whole = bundle(tmp_path / "b", {"a": b"123", "bb": b"4567"}).file.read_bytes()
    for cut in (b"", whole[:-1], whole[1:], b"x" + whole, bytes(len(whole)), whole[-24:]):
        (tmp_path / "b").write_bytes(cut)
        with pytest.raises(DataError, match=r"/b: damaged, or no bundle"):
            Bundle(tmp_path / "b")


def test_a_file_on_the_disk_comes_before_one_in_the_bundle(tmp_path: Path) -> None:
    bundle(tmp_path / NAME, {"both": b"bundled", "one": b"alone"})
    (tmp_path / "both").write_bytes(b"loose")
    assert open_file(tmp_path / "both").read() == b"loose"
    assert open_file(tmp_path / "one").read() == b"alone"
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "none")


def test_no_name_in_a_bundle_leads_out_of_its_folder(tmp_path: Path) -> None:
    make_folders(tmp_path / "data", people(3, 2))
    outside = save_image(tmp_path / "secret.png")
    bundle(tmp_path / "data" / "id00" / NAME, {"../../secret.png": outside.read_bytes()})
    shown = [path for path in read_manifest(tmp_path / "data").train.paths if "secret" in path]
    assert shown == []


def facts(manifest: Manifest) -> list[object]:
    """What a run rests on, wherever the data lies."""
    lists = [manifest.train, manifest.dev]
    pairs = [manifest.val_pairs, manifest.test_pairs]
    return [
        manifest.identities,
        *((each.paths, each.labels.tolist()) for each in lists if each),
        *((each.rows, each.sha256) for each in pairs if each),
        fingerprint(manifest.root, manifest.train.paths),
    ]


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_bundled_archive_is_the_unpacked_one(tmp_path: Path, suffix: str) -> None:
    makers = {"hw2p2": make_hw2p2, "tree": lambda root: make_folders(root, people(4, 3))}
    for name, make in makers.items():
        plain = make(tmp_path / name)
        archive = zipped(plain, tmp_path / f"{name}{suffix}")
        files = sum(path.is_file() for path in plain.rglob("*"))
        assert unpack(archive, tmp_path / "bundled" / name, bundled=True) == files
        folder = tmp_path / "bundled" / name / name
        expected, found = read_manifest(plain), read_manifest(folder)
        assert facts(found) == facts(expected)
        assert not list(folder.rglob("*.png"))
        indices = np.arange(len(expected.train))
        np.testing.assert_array_equal(
            ImageDataset(found, image_size=8, pack="memmap").gather(indices),
            ImageDataset(expected, image_size=8).gather(indices),
        )


def test_the_command_packs_an_archive_without_unpacking_its_images(facever, tmp_path) -> None:
    plain = make_hw2p2(tmp_path / "S25")
    archive = zipped(plain, tmp_path / "S25.zip")
    shutil.rmtree(plain)
    answer = facever("data", "pack", archive, "data.image_size=16", "data.pack=blob")
    assert answer.code == 0, answer.err
    assert "next: facever train data.root=data/S25" in answer.out
    folder = Path("data/S25/S25")
    assert [path.name for path in (folder / "ver_data").iterdir()] == [NAME]
    assert len(list((folder / ".facever").glob("*.blob"))) == 4
    archive.unlink()
    inspected = facever("data", "inspect", "data/S25", "--json", "-")
    assert inspected.code == 0, inspected.err
    assert '"unreadable": {}' in inspected.out


def test_the_command_goes_on_where_it_was_killed_and_refuses_a_folder_of_something_else(
    facever, tmp_path
) -> None:
    archive = zipped(make_hw2p2(tmp_path / "S25"), tmp_path / "S25.zip")
    command = ("data", "pack", archive, "-o", "out", "data.image_size=16")
    for rename in (0, 3):
        assert killed_at_rename(rename, lambda: facever(*command))
        assert facever(*command).code == 0
        assert facever(*command).code == 0
        shutil.rmtree("out")
    Path("out").mkdir()
    Path("out/mine").touch()
    answer = facever(*command)
    assert (answer.code, list(Path("out").iterdir())) == (2, [Path("out/mine")])
    assert "out: is there already and not empty" in answer.err


def test_an_archive_that_would_write_elsewhere_is_refused_bundled_too(tmp_path: Path) -> None:
    image = save_image(tmp_path / "a.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../a.png", image)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.png", NAME):
            member = tarfile.TarInfo(name)
            member.size = len(image)
            tar.addfile(member, io.BytesIO(image))
    for name in ("a.zip", "a.tar"):
        with pytest.raises(ValueError, match=r"leads out of the folder|not unpacked: File exists"):
            unpack(tmp_path / name, tmp_path / "out", bundled=True)
        assert not (tmp_path / "out").exists()
    assert read_rgb(tmp_path / "a.png").shape == (8, 8, 3)
