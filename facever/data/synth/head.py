"""The head in three dimensions: which of its points each pixel shows.

Face coordinates: u to the right, v down, w towards the viewer, origin at the head's centre,
which is level with the eyes; the unit is half an image width.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from facever.data.synth.canvas import Pixels, bump, cover

Face = SimpleNamespace  # the traits of a batch, named as in `people`
Batch = TypeVar("Batch", SimpleNamespace, "View")
Place = TypeVar("Place", "View", "Relief")

_EYES_AT = -0.14  # image height of the eyes, as in aligned crops of the competition


@dataclass(frozen=True)
class View:
    """Where each pixel's ray meets the head."""

    x: Pixels  # camera coordinates, origin at the head's centre
    y: Pixels
    u: Pixels  # the point of the head, in the head's own axes
    v: Pixels
    w: Pixels
    normal: Pixels  # of the ellipsoid, unit length, (3, B, S, S)
    inside: Pixels  # how much of the pixel the head covers
    sharp: Pixels  # pixels per unit of length, (B, 1, 1)
    slant_u: Pixels  # shift of u and v per unit of height above the head, (B, 1, 1)
    slant_v: Pixels
    axes: Pixels  # camera's right, down, towards the viewer in the head's, (3, 3, B, 1, 1)


@dataclass(frozen=True)
class Relief:
    """Slope of the face against the ellipsoid along u and v, a sum over hills."""

    u: Pixels
    v: Pixels

    def hill(
        self,
        u: Pixels,
        v: Pixels,
        half_u: Pixels | float,
        half_v: Pixels | float,
        height: Pixels | float,
        side: Pixels | float = 1.0,
    ) -> None:
        """Add a hill at the origin of (u, v); `side` turns the slope of mirrored ones."""
        across, along = u * (1.0 / half_u), v * (1.0 / half_v)
        steep = np.maximum(1.0 - across * across - along * along, 0.0)
        steep *= height * -4.0
        across *= side / half_u
        across *= steep
        along *= 1.0 / half_v
        along *= steep
        np.add(self.u, across, out=self.u)
        np.add(self.v, along, out=self.v)


def view_head(face: Face, size: int) -> View:
    """Follow every pixel back through shift, roll and zoom to an ellipsoid."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    column, row = axis[None, None, :] - face.shift_x, axis[None, :, None] - face.shift_y - _EYES_AT
    right, down, ahead = _camera_axes(face)
    depth = face.head_c * 0.6  # a crop follows the eyes, and the nose and mouth hold it back
    x = (face.roll_cos * column + face.roll_sin * row) * face.zoom + right[2] * depth
    y = (face.roll_cos * row - face.roll_sin * column) * face.zoom + down[2] * depth
    x = x / _outline(face, y)

    radii = np.stack([face.head_a, face.head_b, face.head_c])
    right_n, down_n, ahead_n = right / radii, down / radii, ahead / radii
    along = (ahead_n**2).sum(0)
    on_x, on_y = (right_n * ahead_n).sum(0) / along, (down_n * ahead_n).sum(0) / along
    reach = (  # squared distance from the axis of sight; 1 on the outline
        ((right_n**2).sum(0) - on_x * on_x * along) * (x * x)
        + ((down_n**2).sum(0) - on_y * on_y * along) * (y * y)
        + (2.0 * ((right_n * down_n).sum(0) - on_x * on_y * along)) * (x * y)
    )
    height = np.sqrt(np.maximum(1.0 - reach, 0.0)) / np.sqrt(along) - on_x * x - on_y * y
    point = [x * right[i] + y * down[i] + height * ahead[i] for i in range(3)]
    sharp = size / 2.0 / face.zoom
    normal = [point[i] / radii[i] ** 2 for i in range(3)]
    length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
    length += 1e-6
    return View(
        x=x,
        y=y,
        u=point[0],
        v=point[1],
        w=point[2],
        normal=np.stack(normal) / length,
        inside=cover((np.sqrt(np.maximum(reach, 0.0)) - 1.0) * face.head_a, sharp),
        sharp=sharp,
        slant_u=ahead[0] / ahead[2],
        slant_v=ahead[1] / ahead[2],
        axes=np.stack([right, down, ahead]),
    )


def _camera_axes(face: Face) -> tuple[Pixels, Pixels, Pixels]:
    """The camera's right, down and towards-the-viewer, in the head's axes."""
    sin_y, cos_y, sin_p, cos_p = face.yaw_sin, face.yaw_cos, face.pitch_sin, face.pitch_cos
    right = np.stack([cos_y, np.zeros_like(cos_y), sin_y])
    down = np.stack([sin_p * sin_y, cos_p, -sin_p * cos_y])
    ahead = np.stack([-cos_p * sin_y, sin_p, cos_p * cos_y])
    return right, down, ahead


def _outline(face: Face, y: Pixels) -> Pixels:
    """Width of the head at a height, against the ellipsoid's: jaw, cheeks, taper."""
    level = y * (1.0 / face.head_b)
    width: Pixels = 1.0 - face.taper * np.maximum(level, 0.0)
    width += face.jaw * 2.0 * bump(((level - 0.72) * (1 / 0.4)) ** 2)
    width += face.cheek * bump(((level - 0.25) * (1 / 0.35)) ** 2)
    return width


def pick(batch: Batch, rows: npt.NDArray[np.intp]) -> Batch:
    """Some pictures of a batch; the batch is the third axis from the right everywhere."""
    parts = {name: values.take(rows, axis=-3) for name, values in vars(batch).items()}
    return type(batch)(**parts)


def strip(place: Place, rows: slice) -> Place:
    """Some rows of the pixels; traits, which are one pixel high, stay whole."""
    parts = {
        name: values[..., rows, :] if values.shape[-2] > 1 else values
        for name, values in vars(place).items()
    }
    return type(place)(**parts)
