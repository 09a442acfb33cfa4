"""Images to embeddings, and an encoder from one file (A12 of reliability.md)."""

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import save_image
from numpy.typing import NDArray
from torch import Tensor, nn
from training_helpers import SIZE, tiny_checkpoint, tiny_config, tiny_encoder, tiny_state

from facever.data.bundles import NAME, BundleWriter
from facever.data.images import read_rgb
from facever.data.pack import FileImages
from facever.embed import embed_folder, embed_images, load_encoder
from facever.encoder import Encoder
from facever.errors import CheckpointError, DataError, FaceverError
from facever.transforms import EvalTransform, fit

torch.set_num_threads(1)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Five images, of which some must be cut and resampled."""
    sizes = ((SIZE, SIZE), (40, 50), (50, 40), (SIZE, SIZE), (20, 20))
    return [save_image(tmp_path / "faces" / f"{i}.png", i, size) for i, size in enumerate(sizes)]


@pytest.fixture
def images(paths: list[Path]) -> FileImages:
    return FileImages(Path(), [str(path) for path in paths], SIZE)


def by_hand(encoder: Encoder, path: Path, *, flip: bool) -> NDArray[np.float32]:
    """Embed one image with nothing but the encoder."""
    encoder = copy.deepcopy(encoder).eval()
    image = fit(read_rgb(path), SIZE)
    views = [image, np.ascontiguousarray(image[:, ::-1])] if flip else [image]
    with torch.no_grad():
        z = [encoder(encoder.transform(view)[None])[0] for view in views]
    mean: NDArray[np.float32] = torch.stack(z).mean(0).numpy()
    return mean


@pytest.mark.parametrize("flip", [True, False])
def test_an_embedding_is_the_mean_of_the_image_s_and_its_mirror_image_s(
    paths: list[Path], images: FileImages, flip: bool
) -> None:
    encoder = tiny_encoder()
    table = embed_images(encoder, images, 5, flip=flip, batch_size=2)
    assert table.dtype == np.float32
    expected = [by_hand(encoder, path, flip=flip) for path in paths]
    np.testing.assert_allclose(table, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(table, [by_hand(encoder, path, flip=not flip) for path in paths])


def test_batches_of_any_size_give_the_same_and_restore_the_mode(images: FileImages) -> None:
    encoder = tiny_encoder().train()
    before = copy.deepcopy(encoder.state_dict())
    reports: list[tuple[int, int]] = []
    tables = [embed_images(encoder, images, 5, batch_size=size) for size in (1, 2, 5)]
    embed_images(
        encoder, images, 5, batch_size=2, report=lambda a, b, text="": reports.append((a, b))
    )
    for table in tables:
        np.testing.assert_allclose(table, tables[0], rtol=1e-4, atol=1e-6)
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert reports == [(2, 5), (4, 5), (5, 5)]


def test_bf16_agrees_with_fp32_to_its_precision(images: FileImages) -> None:
    encoder = tiny_encoder()
    full, half = (embed_images(encoder, images, 5, precision=p) for p in ("fp32", "bf16"))
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, atol=0.05 * np.abs(full).max())


class Reciprocal(nn.Module):
    """Divides by an image's brightness: infinite for a black one."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 / x.mean((2, 3))


class Hungry(Reciprocal):
    """Wants more memory than there is for more images at once than `enough`."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self.enough = enough
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.enough:
            torch.empty(1 << 50)
        return super().forward(x)


def test_images_that_do_not_fit_are_embedded_in_smaller_batches(images: FileImages) -> None:
    transform = EvalTransform(SIZE, mean=(0.0,) * 3, std=(1.0,) * 3)
    hungry = Hungry(1)
    encoder = Encoder(hungry, nn.Identity(), 3, transform)
    table = embed_images(encoder, images, 5, flip=False)
    assert hungry.seen == [5, 2, 1, 1, 1, 1, 1]
    hungry.enough = 5
    np.testing.assert_array_equal(table, embed_images(encoder, images, 5, flip=False))
    hungry.enough = 0
    with pytest.raises(FaceverError, match=r"out of memory with one image: .*DefaultCPUAllocator"):
        embed_images(encoder, images, 5)


def test_an_embedding_that_is_not_finite_names_its_image(tmp_path: Path) -> None:
    paths = [save_image(tmp_path / f"{name}.png", i, (8, 8)) for i, name in enumerate("abcd")]
    from PIL import Image

    Image.new("RGB", (8, 8)).save(paths[2])
    transform = EvalTransform(8, mean=(0.0,) * 3, std=(1.0,) * 3)
    encoder = Encoder(Reciprocal(), nn.Identity(), 3, transform)
    images = FileImages(Path(), [str(path) for path in paths], 8)
    with pytest.raises(DataError, match="1 of 4 embeddings are not finite\n  first: image 2"):
        embed_images(encoder, images, 4)
    with pytest.raises(DataError, match=rf"1 of 4 .*\n  first: {paths[2]}\n.*precision=fp32"):
        embed_images(encoder, images, 4, names=images.paths)


def test_weights_that_are_not_finite_name_an_image(tmp_path: Path, paths: list[Path]) -> None:
    state = tiny_state()
    with torch.no_grad():
        next(state.encoder.parameters()).fill_(float("nan"))
    embedder = load_encoder(tiny_checkpoint(tmp_path / "run" / "best.pt", state))
    with pytest.raises(DataError, match=rf"5 of 5 embeddings are not finite\n  first: {paths[0]}"):
        embedder.embed_paths(paths)


def test_an_embedding_without_a_direction_names_its_image(
    tmp_path: Path, paths: list[Path]
) -> None:
    state = tiny_state()
    with torch.no_grad():
        for p in state.encoder.projection.parameters():
            p.zero_()
    embedder = load_encoder(tiny_checkpoint(tmp_path / "best.pt", state))
    with pytest.raises(DataError, match=rf"{paths[1]}: its embedding is zero"):
        embedder.embed_paths(paths[1:2])


def test_the_checkpoint_file_alone_gives_the_same_embeddings(
    tmp_path: Path, paths: list[Path], images: FileImages
) -> None:
    state = tiny_state(steps=2)
    written = tiny_checkpoint(tmp_path / "run" / "best.pt", state)
    alone = tmp_path / "elsewhere" / "face.pt"
    alone.parent.mkdir()
    shutil.move(written, alone)
    shutil.rmtree(tmp_path / "run")
    embedder = load_encoder(alone)
    found, norms = embedder.embed_with_norms(paths)
    expected = embed_images(state.encoder, images, 5)
    np.testing.assert_allclose(found * norms[:, None], expected, rtol=1e-5, atol=1e-7)
    assert embedder.transform == state.encoder.transform
    assert embedder.config == tiny_config().to_dict()
    assert embedder.identities == ["id0", "id1", "id2", "id3"]
    assert not embedder.encoder.training
    batch = embedder.transform(fit(read_rgb(paths[0]), SIZE))[None]
    assert torch.equal(embedder(batch), embedder.encoder(batch))


def test_the_normalisation_of_the_checkpoint_is_used(tmp_path: Path, paths: list[Path]) -> None:
    state = tiny_state()
    plain = load_encoder(tiny_checkpoint(tmp_path / "a.pt", state)).embed_paths(paths)
    state.encoder.transform = EvalTransform(SIZE, mean=(0.1, 0.2, 0.3), std=(0.3, 0.3, 0.3))
    other = load_encoder(tiny_checkpoint(tmp_path / "b.pt", state))
    assert other.transform.mean == (0.1, 0.2, 0.3)
    assert not np.allclose(plain, other.embed_paths(paths), atol=1e-3)


def test_the_averaged_weights_are_used_where_the_run_kept_an_average(
    tmp_path: Path, images: FileImages, paths: list[Path]
) -> None:
    state = tiny_state(ema=0.9, steps=3)
    assert state.average is not None
    averaged, present = (
        embed_images(network, images, 5)  # type: ignore[arg-type]
        for network in (state.average.encoder, state.encoder)
    )
    found, norms = load_encoder(tiny_checkpoint(tmp_path / "x.pt", state)).embed_with_norms(paths)
    np.testing.assert_allclose(found * norms[:, None], averaged, rtol=1e-5, atol=1e-7)
    assert not np.allclose(averaged, present, rtol=1e-3)


def test_rows_have_unit_length_and_the_norms_they_had(tmp_path: Path, paths: list[Path]) -> None:
    embedder = load_encoder(tiny_checkpoint(tmp_path / "best.pt"))
    table, norms = embedder.embed_with_norms(paths)
    assert table.shape == (5, 8)
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-6)
    assert (norms > 0).all()
    np.testing.assert_array_equal(embedder.embed_paths([str(p) for p in paths]), table)
    np.testing.assert_allclose(embedder.embed_paths(paths[::-1])[::-1], table, atol=1e-6)


def test_verify_is_symmetric_and_1_for_the_same_file(tmp_path: Path, paths: list[Path]) -> None:
    embedder = load_encoder(tiny_checkpoint(tmp_path / "best.pt"))
    table = embedder.embed_paths(paths[:2]).astype(np.float64)
    score = embedder.verify(paths[0], paths[1])
    assert score == pytest.approx(float(table[0] @ table[1]), abs=1e-6)
    assert score == pytest.approx(embedder.verify(str(paths[1]), str(paths[0])), abs=1e-6)
    for path in paths:
        assert embedder.verify(path, path) == pytest.approx(1, abs=1e-6)
        assert embedder.verify(path, path) <= 1


def test_a_damaged_image_is_named(tmp_path: Path, paths: list[Path]) -> None:
    embedder = load_encoder(tiny_checkpoint(tmp_path / "best.pt"))
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    with pytest.raises(DataError, match=str(paths[1])):
        embedder.embed_paths(paths)
    with pytest.raises(DataError, match=r"absent\.png"):
        embedder.verify(paths[0], tmp_path / "absent.png")


def test_a_folder_becomes_one_file_of_paths_embeddings_and_norms(
    tmp_path: Path, paths: list[Path]
) -> None:
    folder = tmp_path / "faces"
    deep = save_image(folder / "a b" / "é.PNG", 9, (SIZE, SIZE))
    (folder / "notes.txt").write_text("no image")
    source = tiny_checkpoint(tmp_path / "best.pt")
    output = tmp_path / "out" / "faces.npz"
    assert embed_folder(folder, output, source) == 6
    with np.load(output, allow_pickle=False) as found:
        assert set(found) == {"paths", "embeddings", "norms", "checkpoint"}
        names = found["paths"].tolist()
        assert names == ["0.png", "1.png", "2.png", "3.png", "4.png", "a b/é.PNG"]
        assert found["embeddings"].dtype == np.float32
        embedder = load_encoder(source)
        for name, row in zip(names, found["embeddings"], strict=True):
            expected = embedder.embed_paths([folder / name])[0]
            np.testing.assert_allclose(row, expected, atol=1e-6)
        assert found["norms"].shape == (6,)
    assert deep.exists()
    assert [p.name for p in output.parent.iterdir()] == ["faces.npz"]


def test_images_in_a_bundle_are_embedded_under_their_names(
    tmp_path: Path, paths: list[Path]
) -> None:
    """Where `data pack ARCHIVE` put them."""
    source = tiny_checkpoint(tmp_path / "best.pt")
    embed_folder(tmp_path / "faces", tmp_path / "plain.npz", source)
    inner = tmp_path / "packed" / "faces"
    inner.mkdir(parents=True)
    with (inner / NAME).open("wb") as stream:
        writer = BundleWriter(stream)
        for path in (*paths, save_image(tmp_path / "notes.png", 9).rename(tmp_path / "notes")):
            stream.write(path.read_bytes())
            writer.add(path.name)
        writer.finish()
    assert embed_folder(tmp_path / "packed", tmp_path / "packed.npz", source) == 5
    with np.load(tmp_path / "plain.npz") as plain, np.load(tmp_path / "packed.npz") as packed:
        assert packed["paths"].tolist() == [f"faces/{name}" for name in plain["paths"]]
        np.testing.assert_array_equal(packed["embeddings"], plain["embeddings"])


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "best.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no images"):
        embed_folder(tmp_path / "empty", tmp_path / "out.npz", source)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {}}, "describes no encoder: 'model'"),
        ({"config": {"model": {"backbone": "x"}}}, "describes no encoder"),
        ({"preprocess": {"image_size": SIZE}}, "describes no encoder: 'mean'"),
        ({"encoder": {}}, "does not fit: .* is missing"),
        ({"encoder": {"stranger": torch.zeros(1)}}, "does not fit"),
    ],
)
def test_a_checkpoint_that_describes_no_encoder_is_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    path = tiny_checkpoint(tmp_path / "best.pt", **change)
    with pytest.raises(CheckpointError, match=rf"best\.pt: {reason}"):
        load_encoder(path)


def test_an_unknown_backbone_of_another_timm_is_a_checkpoint_error(tmp_path: Path) -> None:
    config = tiny_config().to_dict()
    config["model"]["backbone"] = "resnet_of_tomorrow"
    path = tiny_checkpoint(tmp_path / "best.pt", config=config)
    with pytest.raises(CheckpointError, match=r"describes no encoder: .*resnet_of_tomorrow"):
        load_encoder(path)
