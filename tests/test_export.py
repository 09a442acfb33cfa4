"""An encoder carried away: what the files give, and that bad ones are never written."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from data_helpers import save_image
from safetensors.torch import save_file
from torch import Tensor, nn
from training_helpers import SIZE, tiny_checkpoint, tiny_config, tiny_payload, tiny_state

from facever import checkpoint
from facever.data.images import read_rgb
from facever.embed import Embedder, embedder_of, load_encoder
from facever.encoder import Encoder
from facever.errors import CheckFailed, CheckpointError, DataError
from facever.export import export, facts_of, write_hub_folder, write_onnx
from facever.export.onnx_file import agreement_of, onnx_bytes
from facever.metrics import equal_error_rate
from facever.plainyaml import dump_yaml
from facever.transforms import EvalTransform, fit

METRICS = {"EER": 9.8, "EER_low": 7.97, "EER_high": 11.88, "threshold": 0.25, "n_mated": 500,
           "n_non_mated": 500}  # fmt: skip
DOCS = Path(__file__).parents[1] / "docs" / "export.md"


def write_checkpoint(path: Path, **changes: object) -> Path:
    """A run with an average of its weights, which is what is used of it, and with figures."""
    state = tiny_state(ema=0.5, steps=2)
    state.metrics = dict(METRICS)
    return tiny_checkpoint(path, state, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, images of several sizes, and the ONNX file, as everybody gets it."""
    folder = tmp_path_factory.mktemp("export")
    write_checkpoint(folder / "best.pt")
    sizes = ((SIZE, SIZE), (40, 50), (57, 40), (20, 20), (SIZE, SIZE), (100, 33))
    for i, size in enumerate(sizes):
        save_image(folder / "faces" / f"{i}.png", i, size)
    answer = export(folder / "best.pt", folder / "e.onnx", "onnx", images=folder / "faces")
    assert answer.agreement is not None
    assert answer.agreement.images == 16 + len(sizes)
    assert answer.agreement.cosine >= 0.99999
    return folder


@pytest.fixture(scope="module")
def session(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "e.onnx", providers=["CPUExecutionProvider"])


def faces(folder: Path) -> list[Path]:
    return sorted((folder / "faces").iterdir())


def read_all(paths: list[Path]) -> np.ndarray:
    return np.stack([fit(read_rgb(path), SIZE) for path in paths])


@pytest.mark.parametrize("size", [1, 2, 6])
def test_batches_of_any_size_give_the_embeddings_of_torch(
    folder: Path, session: onnxruntime.InferenceSession, size: int
) -> None:
    paths = faces(folder)[:size]
    unit, norms = session.run(["embedding", "norm"], {"images": read_all(paths)})
    expected, lengths = load_encoder(folder / "best.pt").embed_with_norms(paths)
    assert unit.shape == expected.shape
    np.testing.assert_allclose(unit, expected, atol=1e-5)
    np.testing.assert_allclose(norms, lengths, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)


def test_the_eer_is_that_of_torch(folder: Path, session: onnxruntime.InferenceSession) -> None:
    paths = faces(folder)
    table = session.run(["embedding"], {"images": read_all(paths)})[0]
    left, right = np.triu_indices(len(paths), 1)
    mated = np.random.default_rng(0).random(len(left)) < 0.5
    eers = [
        equal_error_rate((rows[left] * rows[right]).sum(1), mated)
        for rows in (table, load_encoder(folder / "best.pt").embed_paths(paths))
    ]
    assert eers[0] == pytest.approx(eers[1], abs=1e-9)


def test_the_file_says_what_it_is_and_tells_no_names_or_paths(
    folder: Path, session: onnxruntime.InferenceSession
) -> None:
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["checkpoint_sha256"] == checkpoint.file_digest(folder / "best.pt")
    assert float(facts["threshold"]) == METRICS["threshold"]
    assert (facts["identities"], facts["image_size"], facts["flip"]) == ("4", str(SIZE), "true")
    content = (folder / "e.onnx").read_bytes()
    for private in (b"id0", b"site-packages", b"stack_trace", str(Path.cwd()).encode()):
        assert private not in content


def test_the_script_of_the_docs_gives_the_score_of_verify(folder: Path, tmp_path: Path) -> None:
    script = next(text for text in code_blocks(DOCS) if "onnxruntime" in text)
    imported = {
        name.name.partition(".")[0] if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported == {"sys", "numpy", "onnxruntime", "PIL"}
    (tmp_path / "score.py").write_text(script)
    left, right = faces(folder)[1:3]
    out = subprocess.run(
        [sys.executable, "score.py", folder / "e.onnx", left, right],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout.split(maxsplit=1)  # fmt: skip
    score = load_encoder(folder / "best.pt").verify(left, right)
    assert float(out[0]) == pytest.approx(score, abs=1e-5)
    assert out[1].strip() == ("match" if score >= METRICS["threshold"] else "no match")


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


class Plain(nn.Module):
    """The least that embeds an image; torch exports it in no time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(48, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.reshape(-1, 48))


class Noisy(Plain):
    """Gives another embedding each time, which no file can agree with."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 3 * torch.rand(images.shape[0], 8)


class Deciding(Plain):
    """Does what depends on the values of its input, which no exporter follows."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.sum() > 0 else -images)


def embedder_with(backbone: nn.Module, tmp_path: Path) -> Embedder:
    """An embedder that knows what a checkpoint knows, with another network."""
    embedder = load_encoder(write_checkpoint(tmp_path / "best.pt"))
    embedder.encoder = Encoder(backbone, nn.Identity(), 8, EvalTransform(4)).eval()
    embedder.transform = embedder.encoder.transform
    return embedder


def test_without_flip_mirror_images_play_no_part_and_the_threshold_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = embedder_with(Plain(), tmp_path)
    write_onnx(embedder, tmp_path / "new" / "e.onnx", flip=False)
    assert "measured with flip=True" in capsys.readouterr().err
    session = onnxruntime.InferenceSession(tmp_path / "new" / "e.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["flip"] == "false"
    assert not {"threshold", "EER"} & facts.keys()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    _, norms = session.run(None, {"images": pixels})
    z = embedder(embedder.transform.batch(torch.from_numpy(pixels)))
    np.testing.assert_allclose(norms, z.norm(dim=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "error", "said"),
    [(Noisy, CheckFailed, "lowest cosine 0"), (Deciding, CheckpointError, "cannot export it")],
)
def test_a_file_that_would_not_do_what_the_encoder_does_is_never_written(
    tmp_path: Path, backbone: type[Plain], error: type[Exception], said: str
) -> None:
    embedder = embedder_with(backbone(), tmp_path)
    with pytest.raises(error, match=f"{said}.*\n.*--to safetensors"):
        write_onnx(embedder, tmp_path / "e.onnx")
    assert not list(tmp_path.glob("*e.onnx*"))


def test_bytes_that_are_no_model_are_told_as_such(tmp_path: Path) -> None:
    encoder = embedder_with(Plain(), tmp_path).encoder
    with pytest.raises(CheckFailed, match="does not run what torch exported"):
        agreement_of(b"\0" * 99, encoder, np.zeros((2, 4, 4, 3), np.uint8), flip=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"backbone": "resnet18", "stem": "face", "checkpointing": True},
        {"backbone": "convnext_atto", "neck": "gap-linear"},
        {"backbone": "mobilenetv3_small_050"},
        {"backbone": "mobilefacenet", "neck": "gdc"},
        {"backbone": "resnet18-face", "squeeze_excitation": True},
        {"backbone": "convnext_face", "drop_path_rate": 0.1},
        {"backbone": "iresnet18", "neck": "bn-linear-shift"},
    ],
    ids=lambda model: model["backbone"],
)
def test_backbones_of_all_families_are_exported(model: dict[str, object]) -> None:
    from facever.encoder import build_encoder

    torch.manual_seed(0)
    encoder = build_encoder(**{"embedding_dim": 64, "neck": "bn-linear-bn", **model}).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    agreement = agreement_of(
        onnx_bytes(encoder, flip=True, metadata={}), encoder, pixels, flip=True
    )
    assert agreement.cosine >= 0.99999
    assert agreement.norm < 1e-3


@pytest.mark.parametrize("form", ["safetensors", "hub-folder"])
def test_weights_come_back_bit_for_bit(folder: Path, tmp_path: Path, form: str) -> None:
    export(folder / "best.pt", tmp_path / "out", form)
    file = tmp_path / "out" if form == "safetensors" else tmp_path / "out" / "model.safetensors"
    before, after = load_encoder(folder / "best.pt"), load_encoder(file)
    assert before.state_dict().keys() == after.state_dict().keys()
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])
    paths = faces(folder)
    np.testing.assert_array_equal(before.embed_paths(paths), after.embed_paths(paths))
    assert (after.transform, after.flip, after.digest) == (
        before.transform, before.flip, before.digest,
    )  # fmt: skip
    assert after.metrics == METRICS
    assert b"id0" not in file.read_bytes()
    # An encoder that comes from a file says the same of itself as one from the checkpoint.
    assert facts_of(after) == facts_of(before)


def test_a_run_s_own_way_with_mirror_images_is_kept(tmp_path: Path) -> None:
    config = tiny_config(eval={"flip": False}).to_dict()
    source = write_checkpoint(tmp_path / "best.pt", config=config)
    export(source, tmp_path / "e.safetensors", "safetensors")
    assert load_encoder(tmp_path / "e.safetensors").flip is False
    facts = facts_of(load_encoder(source))
    assert (facts["flip"], facts["threshold"]) == (False, METRICS["threshold"])


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "no readable safetensors file"),
        ({}, "describes no encoder: 'model'"),
        ({"model": "["}, "describes no encoder"),
        ({"model": "[" * 100_000}, "describes no encoder"),
        ({"image_size": "9", "model": "{}"}, "describes no encoder"),
    ],
    ids=["damaged", "foreign", "no json", "deep", "lacking"],
)
def test_files_of_strangers_are_refused(
    tmp_path: Path, metadata: dict[str, str] | None, said: str
) -> None:
    file = tmp_path / "e.safetensors"
    if metadata is None:
        file.write_bytes(b"\xff" * 8 + b"{" * 92)
    else:
        save_file({"weight": torch.zeros(2)}, file, metadata=metadata)
    with pytest.raises(CheckpointError, match=said):
        load_encoder(file)


def test_what_is_no_file_at_all_is_no_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(CheckpointError, match="no such checkpoint"):
            load_encoder(path)


def test_a_file_with_other_weights_than_its_description_is_refused(tmp_path: Path) -> None:
    from safetensors import safe_open

    file = tmp_path / "e.safetensors"
    export(write_checkpoint(tmp_path / "best.pt"), file, "safetensors")
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file({"weight": torch.zeros(2)}, file, metadata=metadata)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_encoder(file)


def test_a_hub_folder_has_a_card_of_the_checkpoint_s_own_facts(
    folder: Path, tmp_path: Path
) -> None:
    import yaml

    export(folder / "best.pt", tmp_path / "my-encoder", "hub-folder")
    names = {path.name for path in (tmp_path / "my-encoder").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors"}
    card = (tmp_path / "my-encoder" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    # The licence is the user's to state.
    assert "license" not in yaml.safe_load(front)
    assert yaml.safe_load(front)["library_name"] == "facever"
    for fact in (
        "# my-encoder\n", "| 8 images of 4 identities |", "EER **9.80 %** (95 %: 7.97 to 11.88 %)",
        "500 mated and 500 non-mated pairs", "threshold of 0.2500", "`test_resnet`, `gap-linear`",
    ):  # fmt: skip
        assert fact in body
    config = json.loads((tmp_path / "my-encoder" / "config.json").read_text())
    assert config["model"]["backbone"] == "test_resnet"
    assert "root" not in json.dumps(config)


def test_a_card_without_figures_says_so(tmp_path: Path) -> None:
    embedder = load_encoder(tiny_checkpoint(tmp_path / "best.pt"))
    write_hub_folder(embedder, tmp_path / "out")
    assert "holds no figures" in (tmp_path / "out" / "README.md").read_text()


def test_a_hub_folder_is_never_written_over_another(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(DataError, match="not empty"):
        export(folder / "best.pt", tmp_path / "out", "hub-folder")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_a_checkpoint_without_facts_is_told_as_such(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "best.pt", lineage={})
    embedder = embedder_of(path, tiny_payload(lineage={}), torch.device("cpu"))
    with pytest.raises(CheckpointError, match="lacks facts to export"):
        facts_of(embedder)


def test_the_python_of_the_docs_and_of_the_card_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(folder / "best.pt", tmp_path / "card", "hub-folder")
    monkeypatch.chdir(tmp_path / "card")
    shutil.copy("model.safetensors", "encoder.safetensors")
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        save_image(Path(name), seed, (SIZE, SIZE))
    blocks = [*code_blocks(DOCS), *code_blocks(Path("README.md"))]
    scores = []
    for block in blocks:
        if "load_encoder" in block:
            values: dict[str, float] = {}
            exec(block, values)
            scores.append(values["score"])
    assert scores == [load_encoder(folder / "best.pt").verify("a.jpg", "b.jpg")] * 2


def test_the_commands_for_photographs_take_an_exported_encoder(facever, folder, tmp_path):
    """With its threshold; a gallery that was embedded with the checkpoint fits it too."""
    export(folder / "best.pt", tmp_path / "e.safetensors", "safetensors")
    images = folder / "faces"
    left, right = faces(folder)[1:3]
    assert facever("embed", images, "-o", "a.npz", "--from", folder / "best.pt").code == 0
    assert facever("embed", images, "-o", "b.npz", "--from", "e.safetensors").code == 0
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()
    for arguments in (("verify", left, right), ("identify", left, "--gallery", "a.npz")):
        told = [
            json.loads(facever(*arguments, "--from", source, "--json", "-").out)
            for source in (folder / "best.pt", "e.safetensors")
        ]
        for answer in told:
            assert answer.pop("checkpoint") == answer["basis"].pop("source")
        assert told[0] == told[1]
    answer = facever("verify", left, right, "--from", "e.safetensors", "--fmr", "0.5")
    assert (answer.code, "expected the best.pt of a finished run" in answer.err) == (2, True)


def test_the_command_takes_the_newest_best_and_says_so(facever, folder, tmp_path):
    run = tmp_path / "checkpoints" / "train-1"
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns("*.onnx", "faces"))
    (run / "config.yaml").write_text(dump_yaml(tiny_config().to_dict()))
    answer = facever("export", "--to", "safetensors", "-o", "out/e.safetensors", "--json", "-")
    assert answer.code == 0, answer.err
    assert "checkpoints/train-1/best.pt, the newest best.pt" in answer.err
    told = json.loads(answer.out)
    assert told["bytes"] == (tmp_path / "out" / "e.safetensors").stat().st_size
    assert told["checkpoint_sha256"] == checkpoint.file_digest(run / "best.pt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "onx"), "'onnx', 'safetensors', 'hub-folder'"),
        (("--to", "safetensors", "--no-flip"), "--flip and --images have no effect"),
        (("--to", "onnx", "--images", "nowhere"), "nowhere: no images"),
        (("--to", "onnx"), "absent.pt: no such checkpoint"),
    ],
)
def test_what_cannot_be_exported_is_one_message_and_no_file(facever, tmp_path, arguments, said):
    answer = facever("export", "absent.pt", "-o", "e.onnx", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "absent"),
    [("onnx", ["onnxscript", "onnxruntime"]), ("hub-folder", ["safetensors"])],
)
def test_packages_that_are_not_installed_are_named_with_the_command(
    facever, monkeypatch, form, absent
):
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    answer = facever("export", "absent.pt", "--to", form, "-o", "out")
    assert answer.code == 2
    assert f"-m pip install {' '.join(absent)}`" in answer.err
