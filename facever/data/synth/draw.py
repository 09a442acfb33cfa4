"""Traits in, picture out: a head in three dimensions, painted, lit and partly hidden."""

import numpy as np

from facever.data.synth.canvas import Pixels, paint
from facever.data.synth.features import paint_face
from facever.data.synth.head import Face, Relief, View, pick, view_head
from facever.data.synth.scene import OCCLUDERS, backdrop, paint_body


def draw(face: Face, size: int) -> Pixels:
    """Pictures with values in [0, 1], (3, B, S, S)."""
    view = view_head(face, size)
    canvas = backdrop(face, size)
    paint_body(canvas, face, view)
    albedo, relief = paint_face(face, view)
    light = _shade(face, view, relief)
    paint(canvas, view.inside, albedo * light)
    for name, occlude in OCCLUDERS.items():
        worn = np.flatnonzero(getattr(face, name))
        if worn.size:  # what few wear should not cost the others
            part = canvas[:, worn]
            occlude(part, pick(face, worn), pick(view, worn), light[:, worn])
            canvas[:, worn] = part
    return _develop(canvas, face)


def _shade(face: Face, view: View, relief: Relief) -> Pixels:
    """Light that reaches each pixel of the head, (3, B, S, S)."""
    across, down, ahead = view.normal
    across, down = across - relief.u, down - relief.v
    length = np.sqrt(across * across + down * down + ahead * ahead)
    right_axis, down_axis, ahead_axis = view.axes
    # Towards the light, in the head's axes.
    source = right_axis * face.light_x + down_axis * face.light_y + ahead_axis * face.light_z
    facing = (across * source[0] + down * source[1] + ahead * source[2]) / length
    towards = (across * ahead_axis[0] + down * ahead_axis[1] + ahead * ahead_axis[2]) / length
    lambert = np.maximum(facing + 0.2, 0.0) * (1.0 / 1.2)
    gleam = np.maximum(0.5 * (facing + towards), 0.0)
    for _ in range(4):
        gleam *= gleam
    lambert += gleam * face.gloss
    hollow = 0.55 + 0.45 * np.maximum(towards, 0.0)
    light: Pixels = face.light_rgb * lambert + face.ambient_rgb * hollow
    return light


def _develop(canvas: Pixels, face: Face) -> Pixels:
    """Linear light to display values: exposure, gamma 2, saturation."""
    canvas *= face.exposure
    np.clip(canvas, 0.0, 1.0, out=canvas)
    np.sqrt(canvas, out=canvas)
    grey = canvas[0] * 0.3 + canvas[1] * 0.59 + canvas[2] * 0.11
    canvas -= grey
    canvas *= face.saturation
    canvas += grey
    np.clip(canvas, 0.0, 1.0, out=canvas)
    return canvas
