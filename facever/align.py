"""A photograph -> the face on it, upright and where aligned faces have theirs.

Five points (the eyes, the tip of the nose, the corners of the mouth) are moved to their places
in the 112-pixel crops that recognition is trained on, as closely as turning, scaling and
shifting can.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facever.data.images import read_rgb
from facever.errors import DataError

UInt8 = NDArray[np.uint8]
Points = NDArray[np.float64]

# Deng et al., CVPR 2019 (arXiv:1801.07698): `arcface_dst` of insightface's face_align.py. The
# left of a pair is the picture's left.
TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
     (70.7299, 92.2041)]
)  # fmt: skip
TEMPLATE_SIZE = 112

# YuNet's files are made for this side, from which not every OpenCV can depart; of such a picture
# it finds faces of some 10 to 300 pixels (Wu et al., Machine Intelligence Research 20, 2023).
SIDE = 640
CONFIDENCE = 0.6
OVERLAP = 0.3
FACES = 100


class Detector:
    """YuNet by OpenCV: the five points of the largest face.

    Args:
        model: the `.onnx` file, from OpenCV's collection of models.

    Raises:
        DataError: there is no such file, or it is no such network.
    """

    def __init__(self, model: Path) -> None:
        import cv2

        if not model.is_file():
            raise DataError(
                f"{model}: no such file\n  expected YuNet, a face_detection_yunet_*.onnx of "
                "OpenCV's model zoo"
            )
        self.model = model
        # OpenCV says on standard error what it would rather compute on.
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            self._network: Any = cv2.FaceDetectorYN.create(
                str(model), "", (SIDE, SIDE), CONFIDENCE, OVERLAP, FACES
            )
        except cv2.error as error:
            raise self._strange(error) from error
        finally:
            cv2.utils.logging.setLogLevel(level)

    def find(self, image: UInt8, name: str) -> Points:
        """Find the points (5, 2), x and y, of the largest face of an image (H, W, 3).

        Raises:
            DataError: there is no face; `name` is what the image is called.
        """
        import cv2

        height, width = image.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        canvas[: size[1], : size[0]] = small[:, :, ::-1]
        try:
            faces = self._network.detect(canvas)[1]
        except cv2.error as error:
            raise self._strange(error) from error
        if faces is None or not len(faces):
            raise DataError(
                f"{name}: no face found\n  expected one, upright and not too small; an aligned "
                "crop needs no detector"
            )
        # A row is x, y, width, height, the points, and the confidence.
        largest = faces[np.argmax(faces[:, 2] * faces[:, 3])].astype(np.float64)
        points: Points = largest[4:14].reshape(5, 2) * (width / size[0], height / size[1])
        return points

    def _strange(self, error: Exception) -> DataError:
        reason = getattr(error, "err", None) or error
        return DataError(f"{self.model}: OpenCV cannot use it as YuNet: {reason}")


class AlignedImages:
    """Photographs whose faces are found and aligned each time.

    Args:
        paths: the files.
        size: side of the aligned faces.
        detector: finds the points.
    """

    def __init__(self, paths: Sequence[str], size: int, detector: Detector) -> None:
        self.paths, self.size, self.detector = paths, size, detector

    def __len__(self) -> int:
        return len(self.paths)

    def gather(self, indices: NDArray[np.int64]) -> UInt8:
        """Give the faces (B, size, size, 3) of the images at these positions (B,)."""
        return np.stack([self._face(self.paths[i]) for i in indices])

    def _face(self, path: str) -> UInt8:
        image = read_rgb(path)
        return align_face(image, self.detector.find(image, path), self.size)


def align_face(image: UInt8, points: ArrayLike, size: int = TEMPLATE_SIZE) -> UInt8:
    """Turn, scale and shift an image so that five points come to lie as in aligned faces.

    Args:
        image: shape (H, W, 3).
        points: eyes, nose and corners of the mouth as in `TEMPLATE`, x and y; shape (5, 2).
        size: side of the result.

    Returns:
        (size, size, 3); black where the image ends.
    """
    import cv2

    template = _rescaled(TEMPLATE, size / TEMPLATE_SIZE)
    found = np.asarray(points, dtype=np.float64)
    scale = float(np.linalg.norm(similarity(found, template)[:, 0]))
    # The warp looks at four pixels only: a large face is averaged before.
    if (cells := int(1 / scale) if scale > 0 else 1) > 1:
        height, width = (side // cells for side in image.shape[:2])
        whole = image[: height * cells, : width * cells]
        image = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
        found = _rescaled(found, 1 / cells)
    face = cv2.warpAffine(image, similarity(found, template), (size, size))
    return face.astype(np.uint8, copy=False)


def similarity(source: Points, target: Points) -> Points:
    """Least-squares turn, scale and shift of points (K, 2) onto others, as a (2, 3) matrix.

    With points as complex numbers it is w = a z + b, a = <z - mean z, w - mean w> / |z - mean z|^2:
    the minimum of Umeyama, PAMI 13(4), 1991, which never mirrors.
    """
    z, w = source @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _rescaled(points: Points, factor: float) -> Points:
    """Move points with a picture that is resized; pixel 0 has its centre at 0."""
    moved: Points = (points + 0.5) * factor - 0.5
    return moved
