"""Photographs to aligned faces: the geometry, and OpenCV's detector on a network made here."""

from pathlib import Path

import numpy as np
import pytest
from data_helpers import save_image
from hypothesis import given, settings
from hypothesis import strategies as st

from facever.align import SIDE, TEMPLATE, AlignedImages, Detector, align_face, similarity
from facever.errors import DataError

POINTS = np.array([(220, 230), (330, 225), (276, 300), (235, 350), (322, 346)], dtype=float)
BOX = (190.0, 170.0, 180.0, 230.0)


@given(st.floats(-3, 3), st.floats(0.1, 20), st.floats(-500, 500), st.floats(-500, 500))
@settings(max_examples=50, deadline=None)
def test_points_that_were_turned_scaled_and_shifted_come_back_to_their_places(turn, scale, x, y):
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    moved = TEMPLATE @ np.array([[c, s], [-s, c]]) + (x, y)
    matrix = similarity(moved, TEMPLATE)
    back = moved @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(back, TEMPLATE, atol=1e-6)


def test_no_other_similarity_lies_closer():
    def distance(matrix):
        return np.square(POINTS @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE).sum()

    best = similarity(POINTS, TEMPLATE)
    rng = np.random.default_rng(0)
    for a, b, x, y in rng.normal(scale=1e-3, size=(200, 4)):
        assert distance(best + np.array([[a, -b, x], [b, a, y]])) > distance(best)
    mirrored = POINTS * (-1, 1)
    assert np.linalg.det(similarity(mirrored, TEMPLATE)[:, :2]) > 0


@pytest.mark.parametrize(("zoom", "size"), [(1, 112), (3.3, 112), (8, 112), (2, 56), (0.5, 112)])
def test_the_points_of_a_picture_lie_at_the_template_s_places_in_the_aligned_face(zoom, size):
    """Each point is a bright spot, whose centre is looked for in the result."""
    points = TEMPLATE * zoom + (40, 25)
    side = int(zoom * 112) + 100
    ys, xs = np.mgrid[:side, :side]
    for k, (x, y) in enumerate(points):
        spot = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * (3 * zoom) ** 2))
        face = align_face(np.repeat(spot.astype(np.uint8)[:, :, None], 3, 2), points, size)
        assert face.shape == (size, size, 3)
        assert face.dtype == np.uint8
        weights = face[:, :, 0].astype(float)
        rows, columns = np.mgrid[:size, :size]
        centre = [np.average(axis, weights=weights) for axis in (columns, rows)]
        expected = (TEMPLATE[k] + 0.5) * size / 112 - 0.5
        np.testing.assert_allclose(centre, expected, atol=0.1)


def test_an_aligned_face_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align_face(image, TEMPLATE), image)


def test_a_large_face_is_averaged_and_not_sampled():
    """Every eighth column of stripes is white or none is, if only some pixels are looked at."""
    image = np.zeros((896, 896, 3), np.uint8)
    image[:, ::8] = 255
    face = align_face(image, (TEMPLATE + 0.5) * 8 - 0.5)
    assert abs(face[8:-8, 8:-8].mean() - 255 / 8) < 2


def test_the_largest_face_of_a_photograph_is_found_at_its_own_scale(yunet, tmp_path):
    detector = Detector(yunet)
    small = np.zeros((500, 640, 3), np.uint8)
    np.testing.assert_allclose(detector.find(small, "small"), POINTS, atol=1e-3)
    large = np.zeros((2000, 2560, 3), np.uint8)
    np.testing.assert_allclose(detector.find(large, "large"), 4 * POINTS, atol=1e-2)

    path = save_image(tmp_path / "a.png", 1, (640, 500))
    found = AlignedImages([str(path)], 32, detector).gather(np.array([0, 0]))
    from facever.data.images import read_rgb

    np.testing.assert_array_equal(found[0], align_face(read_rgb(path), POINTS, 32))
    assert found.shape == (2, 32, 32, 3)


def test_no_face_no_file_and_another_network_are_said(tmp_path):
    nobody = Detector(write_yunet(tmp_path / "none.onnx", []))
    with pytest.raises(DataError, match=r"me\.jpg: no face found"):
        nobody.find(np.zeros((50, 50, 3), np.uint8), "me.jpg")
    with pytest.raises(DataError, match=r"absent\.onnx: no such file\n  expected YuNet"):
        Detector(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(DataError, match=r"text\.onnx: OpenCV cannot use it as YuNet"):
        Detector(tmp_path / "text.onnx").find(np.zeros((50, 50, 3), np.uint8), "me.jpg")


@pytest.fixture(scope="module")
def yunet(tmp_path_factory) -> Path:
    """A network with YuNet's outputs that sees two faces in whatever it is shown."""
    smaller = (POINTS / 4 + 300, (350.0, 340.0, 45.0, 57.0))
    path = tmp_path_factory.mktemp("yunet") / "yunet.onnx"
    return write_yunet(path, [smaller, (POINTS, BOX)])


def write_yunet(path: Path, faces) -> Path:
    """Write a network whose twelve outputs are constants: faces of (points, box)."""
    onnx = pytest.importorskip("onnx")
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("ReduceMean", ["input"], ["mean"], axes=[1, 2, 3], keepdims=0),
        node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    constants = [onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")]
    outputs = []
    for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            cells = (SIDE // stride) ** 2
            values = np.zeros((1, cells, width), np.float32)
            for points, box in faces if stride == 8 else []:
                cell, told = as_told(points, box)
                values[0, cell] = told[kind]
            name = f"{kind}_{stride}"
            constants.append(onnx.numpy_helper.from_array(values, f"{name}_values"))
            nodes.append(node("Add", ["nothing", f"{name}_values"], [name]))
            outputs.append(info(name, onnx.TensorProto.FLOAT, values.shape))
    given = [info("input", onnx.TensorProto.FLOAT, [1, 3, SIDE, SIDE])]
    graph = onnx.helper.make_graph(nodes, "yunet", given, outputs, constants)
    opset = [onnx.helper.make_opsetid("", 13)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def as_told(points, box):
    """The cell of the finest grid that a face belongs to, and what YuNet says in it."""
    x, y, width, height = box
    middle = np.array([x + width / 2, y + height / 2]) / 8
    column, row = middle.astype(int)
    told = {
        "cls": 1,
        "obj": 1,
        "bbox": [*(middle - (column, row)), *np.log(np.array([width, height]) / 8)],
        "kps": (points / 8 - (column, row)).ravel(),
    }
    return row * (SIDE // 8) + column, told
