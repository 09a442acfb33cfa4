"""What is not the face: backdrop, hair behind, neck, clothes, ears, and what hides the face."""

from collections.abc import Callable

import numpy as np

from facever.data.synth.canvas import Pixels, bump, cover, look_up, noise, oval, paint
from facever.data.synth.head import Face, View


def backdrop(face: Face, size: int) -> Pixels:
    """A grid of colours, blended softly or with hard borders."""
    cells = face.backdrop.shape[-1]
    place = (np.arange(size, dtype=np.float32) + 0.5) * (cells / size) - 0.5
    nodes = np.arange(cells, dtype=np.float32)[:, None]
    nearness = np.maximum(1.0 - np.abs(place - nodes), 0.0)[None]  # (1, cells, S)
    weight = np.clip((nearness - 0.5) * face.backdrop_sharp + 0.5, 0.0, 1.0)
    weight /= sum(weight[:, i : i + 1] for i in range(cells)) + 1e-6
    across = np.zeros((*face.backdrop.shape[:-1], size), np.float32)  # (3, B, cells, S)
    canvas = np.zeros((*face.backdrop.shape[:2], size, size), np.float32)
    for i in range(cells):
        across += face.backdrop[..., i, None] * weight[:, None, i, :]
    for i in range(cells):
        canvas += across[:, :, i, None, :] * weight[:, i, :, None]
    return canvas


def paint_body(canvas: Pixels, face: Face, view: View) -> None:
    """Back of the hair, neck, clothes and what shows of the ears beside the head."""
    x, y, sharp = view.x, view.y, view.sharp
    streak = look_up(noise(1, 1), x * 70.0 + 300.0 + face.grain, y * 8.0 + 300.0)
    half = face.head_a * (1.0 + face.hair_volume)
    below = np.minimum(y + 0.05, 0.0) + np.maximum(y - face.hair_end, 0.0) * 3.0
    distance = np.sqrt(oval(x, below, half, face.head_b * (1.02 + face.hair_volume))) - 1.0
    hair = cover(distance * half + streak * (face.curl * 0.008), sharp) * face.hair
    paint(canvas, hair, face.hair_rgb * ((0.4 + streak * 0.12) * face.dim))

    throat = (1.6 - 0.9 * np.clip((1.35 - y) * 2.0, 0.0, 1.0)) * face.dim * 0.55
    neck = cover(np.abs(x) - face.neck * (0.9 + 0.25 * y), sharp) * cover(0.5 - y, sharp)
    paint(canvas, neck, face.skin_rgb * throat)
    cloth = cover(0.98 + face.collar * np.abs(x) - y, sharp)
    paint(canvas, cloth, face.cloth_rgb * (face.dim * (0.9 + streak * 0.05)))

    right, down, _ = view.axes
    for side in (-1.0, 1.0):
        centre = [side * 0.98 * face.head_a, 0.08, -0.1]
        at_x = sum(right[i] * centre[i] for i in range(3))
        at_y = sum(down[i] * centre[i] for i in range(3))
        radius = np.sqrt(oval(x - at_x, y - at_y, 0.05 + face.ear_out, face.ear_h))
        bowl = 1.0 - 0.45 * bump(radius * radius * 2.5)
        paint(canvas, cover((radius - 1.0) * 0.07, sharp), face.skin_rgb * (bowl * face.dim * 0.8))


def _glasses(canvas: Pixels, face: Face, view: View, light: Pixels) -> None:
    u, v = view.u + view.slant_u * 0.1, view.v + view.slant_v * 0.1
    out, high = np.abs(u) - face.eye_x * 1.03, v - 0.03
    round_ = oval(out, high, face.lens_w, face.lens_h)
    square = (out * out * out * out) / face.lens_w**4 + (high * high * high * high) / face.lens_h**4
    radius = np.sqrt(round_ + face.lens_square * (np.sqrt(square) - round_))
    distance = (radius - 1.0) * face.lens_h
    lens = cover(distance, view.sharp) * view.inside
    paint(canvas, lens * face.lens_tint, face.lens_rgb * (0.3 + 0.25 * np.clip(-v * 6.0, 0.0, 1.0)))
    rim = np.abs(distance) - face.frame
    bridge = np.maximum(np.abs(high + 0.03) - face.frame, out + face.lens_w)
    arm = np.maximum(np.abs(high + 0.05) - face.frame, face.lens_w - out)
    wire = cover(np.minimum(np.minimum(rim, bridge), arm), view.sharp) * view.inside
    paint(canvas, wire, face.frame_rgb * (0.4 + 0.6 * light))


def _mask(canvas: Pixels, face: Face, view: View, light: Pixels) -> None:
    u, v = view.u, view.v
    top = v - face.mask_y - 0.14 * u * u + 0.07 * bump(u * u * 20.0)
    fold = v * 11.0
    fold = np.abs(fold - np.floor(fold) - 0.5)
    cloth = cover(np.maximum(-top, v - 0.93), view.sharp) * cover(-view.w + 0.02, view.sharp)
    strap = cover(np.abs(v - 0.2 - 0.1 * np.abs(u)) - 0.012, view.sharp) * (np.abs(u) > 0.4)
    cloth = np.maximum(cloth, strap) * view.inside
    plain = np.clip(0.35 + 0.65 * view.normal[2] + 0.25 * u * face.light_x, 0.2, 1.1)
    paint(canvas, cloth, face.mask_rgb * (plain * (0.75 + 0.25 * fold)) * face.dim)


def _cap(canvas: Pixels, face: Face, view: View, light: Pixels) -> None:
    edge = view.v + 0.4 - 0.12 * view.u * view.u
    shell = np.sqrt(oval(view.x, view.y + 0.05, face.head_a * 1.1, face.head_b * 1.08)) - 1.0
    cloth = cover(np.maximum(shell * face.head_a, edge), view.sharp)
    rib = look_up(noise(1, 1), view.u * 40.0 + 300.0, view.v * 2.0 + 300.0)
    brim = 1.0 - 0.35 * cover(-0.16 - edge, view.sharp)
    lit = 0.35 + 0.5 * view.inside * light.mean(0)
    paint(canvas, cloth, face.cap_rgb * (lit * brim * (1.0 + 0.08 * rib)))


def _hand(canvas: Pixels, face: Face, view: View, light: Pixels) -> None:
    x, y = view.x - face.hand_x, view.y - face.hand_y
    along = x * face.hand_cos + y * face.hand_sin
    across = y * face.hand_cos - x * face.hand_sin
    pitch, radius = 0.125, 0.066
    finger = np.clip(np.floor(across * (1.0 / pitch)) + 0.5, -1.5, 1.5)
    reach = 0.42 - 0.05 * finger * finger
    tip = along - np.clip(along, -0.3, reach)
    off = across - finger * pitch
    fingers = np.sqrt(tip * tip + off * off) - radius
    back = along + 0.25 - np.clip(along + 0.25, -3.0, 0.0)
    palm = np.sqrt(back * back + across * across) - 0.23
    distance = np.minimum(fingers, palm)
    shade = 0.45 + 0.55 * np.clip(distance * -18.0, 0.0, 1.0)
    paint(canvas, cover(distance, view.sharp), face.skin_rgb * (shade * face.dim * 0.95))


OCCLUDERS: dict[str, Callable[[Pixels, Face, View, Pixels], None]] = {
    "glasses": _glasses,
    "mask": _mask,
    "cap": _cap,
    "hand": _hand,
}
