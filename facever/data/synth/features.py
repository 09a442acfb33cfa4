"""What is painted on the face, and how it stands out: skin, mouth, nose, eyes, brows, hair."""

import numpy as np

from facever.data.synth.canvas import Pixels, bump, cover, look_up, noise, oval, paint
from facever.data.synth.head import Face, Relief, View, strip


def paint_face(face: Face, view: View) -> tuple[Pixels, Relief]:
    """Albedo (3, B, S, S) and relief of the head."""
    u, v = view.u, view.v
    side = np.copysign(np.float32(1.0), u)
    mirrored = np.abs(u)
    relief = Relief(np.zeros_like(u), np.zeros_like(v))
    relief.hill(mirrored - 0.37, v - 0.27, 0.22, 0.2, face.cheekbone, side)
    relief.hill(u, v - 0.86, 0.19, 0.13, face.chin)

    albedo = _skin(face, view, mirrored)
    for paint_feature, top, bottom in _FEATURES:
        rows = slice(round(u.shape[1] * top), round(u.shape[1] * bottom))
        paint_feature(albedo[:, :, rows], face, strip(view, rows), strip(relief, rows))
    _paint_hair(albedo, face, view, mirrored)
    return albedo, relief


def _skin(face: Face, view: View, mirrored: Pixels) -> Pixels:
    u, v, sharp = view.u, view.v, view.sharp
    fine = look_up(noise(2, 1), u * 110.0 + 512.0 + face.grain, v * 110.0 + 512.0)
    coarse = look_up(noise(3, 3), u * 40.0 + 512.0 + face.grain, v * 40.0 + 512.0)
    shade = 1.0 + coarse * face.blotchy
    middle = bump(oval(u, v - 0.24, 0.5, 0.3))
    shade -= np.clip(fine - 0.6, 0.0, 1.0) * (middle * face.freckles)
    for i in range(face.moles.shape[0]):
        spot = oval(u - face.moles[i, 0], v - face.moles[i, 1], 1.0, 1.0)
        shade *= 1.0 - 0.7 * cover(np.sqrt(spot) - face.moles[i, 2], sharp)
    shade *= 1.0 - _wrinkles(face, u, v, mirrored)
    albedo: Pixels = face.skin_rgb * shade
    blush = bump(oval(mirrored - 0.36, v - 0.3, 0.22, 0.2)) * face.blush
    albedo *= 1.0 - blush * np.array([0.0, 0.5, 0.45], np.float32)[:, None, None, None]

    # A beard follows the jaw, leaves the lips free and has its own density on the lip.
    low = cover(0.42 + 0.25 * bump(oval(u, v - 0.42, 0.42, 0.6)) - v, sharp * 0.15)
    low *= 1.0 - bump(oval(u, v - face.mouth_y, face.mouth_w * 1.2, 0.11))
    lip = bump(oval(u, v - face.mouth_y + 0.1, face.mouth_w * 1.3, 0.1))
    tuft = bump(oval(u, v - 0.85, 0.26, 0.3))
    beard = np.maximum(np.maximum(low * face.beard, lip * face.moustache), tuft * face.goatee)
    beard *= 0.85 + 0.2 * fine
    paint(albedo, np.clip(beard, 0.0, 0.92), face.beard_rgb * 0.7)
    ear = np.sqrt(oval(v - 0.08, view.w + 0.1, face.ear_h, 0.12))
    rim = cover((np.abs(ear - 0.85) - 0.15) * 0.1, sharp) * cover(0.4 - mirrored, sharp)
    albedo *= 1.0 - 0.35 * rim
    return albedo


def _wrinkles(face: Face, u: Pixels, v: Pixels, mirrored: Pixels) -> Pixels:
    """Darkness of forehead lines and of the folds from nose to mouth."""
    fold: Pixels = np.abs(mirrored - face.nose_w * 1.15 - (v - face.nose_y) * 0.5)
    fold = np.maximum(1.0 - fold * 28.0, 0.0)
    fold *= bump((v - face.nose_y - 0.1) * (v - face.nose_y - 0.1) * 36.0) * face.fold
    level = (v + 0.06 * u * u) * 12.0
    line = np.maximum(np.abs(level - np.floor(level) - 0.5) * 8.0 - 3.0, 0.0)
    line *= bump(oval(u, v + 0.38, 0.42, 0.16)) * face.wrinkles
    fold += line
    return fold


def _paint_mouth(albedo: Pixels, face: Face, view: View, relief: Relief) -> None:
    u, sharp = view.u, view.sharp
    half = face.mouth_w * (1.0 + 0.18 * face.smile)
    across = u * (1.0 / half)
    arch = np.maximum(1.0 - across * across, 0.0)
    line = view.v - face.mouth_y + face.smile * 0.085 * (across * across - 0.4)
    line -= face.crooked * u * 2.0
    top, bottom = arch * (face.mouth_open * -0.3), arch * (face.mouth_open * 0.7)
    dip = face.cupid * bump(across * across * 12.0)
    upper = top - face.lip_up * arch * (1.0 + 0.25 * face.cupid - dip)
    lower = bottom + face.lip_low * arch * (0.6 + 0.4 * arch)
    there = np.clip(arch * 6.0, 0.0, 1.0)
    lips = cover(np.maximum(upper - line, line - lower), sharp) * there
    paint(albedo, lips * 0.85, face.lip_rgb * (1.0 - 0.22 * (line < top)))
    inner = cover(np.maximum(top - line, line - bottom), sharp) * there
    paint(albedo, inner, face.lip_rgb * 0.02 + 0.01)
    teeth = inner * cover(line - top - face.teeth, sharp)
    paint(albedo, teeth, 0.62)
    seam = cover(np.abs(line - 0.5 * (top + bottom)) - 0.008, sharp) * there
    albedo *= 1.0 - 0.6 * seam * face.lips_closed
    relief.hill(u, line - 0.5 * (bottom + lower), half, 0.07, 0.02)
    relief.hill(u, line - upper - 0.015, half, 0.05, 0.012)


def _paint_nose(albedo: Pixels, face: Face, view: View, relief: Relief) -> None:
    """A nose stands out, so that turning the head moves its tip most and its root not at all."""
    v = view.v
    ramp = np.clip(v * (1.0 / face.nose_y), 0.0, 1.0)
    ramp *= np.clip((face.nose_y + 0.16 - v) * 8.0, 0.0, 1.0)
    ramp *= face.nose_up
    u = view.u + view.slant_u * ramp
    v = v + view.slant_v * ramp
    mirrored, side = np.abs(u), np.copysign(np.float32(1.0), u)
    width = face.nose_w
    relief.hill(u, v - 0.17, face.nose_bridge * 1.5, 0.34, face.nose_up * 0.5)
    relief.hill(u, v - face.nose_y + 0.03, width * 0.85, 0.12, face.nose_up * 0.45 + face.nose_tip)
    relief.hill(mirrored - width * 0.72, v - face.nose_y, 0.06, 0.07, 0.028, side)

    hole = oval(mirrored - width * 0.42, v - face.nose_y - 0.045, width * 0.3, 0.022)
    dark = cover((np.sqrt(hole) - 1.0) * 0.025, view.sharp) * 0.75
    wing = np.sqrt(oval(mirrored - width * 0.6, v - face.nose_y, width * 0.5, 0.075))
    rim = np.maximum(1.0 - np.abs(wing - 1.0) * 5.0, 0.0)
    rim *= np.clip((mirrored - width * 0.6) * 30.0, 0.0, 1.0)
    under = bump(oval(u, v - face.nose_y - 0.085, width * 1.1, 0.06))
    albedo *= (1.0 - dark) * (1.0 - 0.3 * rim) * (1.0 - 0.3 * under)


def _paint_eyes(albedo: Pixels, face: Face, view: View, relief: Relief) -> None:
    sharp, mirrored, side = view.sharp, np.abs(view.u), np.copysign(np.float32(1.0), view.u)
    relief.hill(mirrored - face.eye_x, view.v + 0.01, 0.19, 0.12, -face.eye_deep, side)
    out = mirrored - face.eye_x  # grows towards the temple
    high = view.v - out * face.eye_tilt - side * face.crooked
    across = out * (1.0 / face.eye_w)
    lid = np.maximum(1.0 - across * across, 0.0)
    there = np.clip(lid * 5.0, 0.0, 1.0)
    low = lid * face.eye_open * 0.55
    top = low - lid * (face.eye_open * 1.55 * face.lid)
    depth = high - top
    opening = cover(np.maximum(-depth, high - low), sharp) * there

    crease = np.maximum(1.0 - np.abs(depth + face.crease * (0.4 + 0.6 * lid)) * 70.0, 0.0)
    bag = np.maximum(1.0 - np.abs(high - low - 0.055) * 30.0, 0.0) * face.bag
    albedo *= 1.0 - 0.35 * there * np.maximum(crease, bag)

    shadow = 0.45 + 0.55 * np.clip(depth * 22.0, 0.0, 1.0)
    paint(albedo, opening, 0.72 * shadow)
    ring = oval(out - side * face.gaze_x, high - face.gaze_y + 0.008, face.iris_r, face.iris_r)
    radius = np.sqrt(ring)
    iris = opening * cover((radius - 1.0) * face.iris_r, sharp)
    pattern = (1.15 - 0.75 * ring * ring) * shadow
    pattern *= 1.0 - cover((radius - 0.42) * face.iris_r, sharp)
    paint(albedo, iris, face.iris_rgb * pattern)
    glint = oval(out - side * (face.gaze_x + face.glint), high - face.gaze_y + 0.022, 0.014, 0.014)
    paint(albedo, opening * np.clip(1.3 - glint, 0.0, 1.0), 1.0)
    lash = cover(np.abs(depth) - face.lash * (0.6 + 0.4 * across), sharp) * there
    albedo *= 1.0 - 0.85 * lash


def _paint_brows(albedo: Pixels, face: Face, view: View, relief: Relief) -> None:
    mirrored, side = np.abs(view.u), np.copysign(np.float32(1.0), view.u)
    relief.hill(mirrored - 0.22, view.v + face.brow_y, 0.26, 0.09, face.brow_bone, side)
    out = mirrored - face.eye_x * 1.02
    across = out * (1.0 / face.brow_w)
    square = across * across
    middle = view.v + face.brow_y + face.brow_raise * 0.06 + face.brow_arch * (1.0 - square)
    middle -= face.brow_tilt * out + side * face.crooked
    thick = face.brow_thick * (1.0 - 0.35 * across) * np.maximum(1.0 - square * square, 0.0)
    hairs = look_up(noise(1, 1), mirrored * 90.0 + middle * 60.0 + 300.0, middle * 30.0 + 300.0)
    brow = cover(np.abs(middle) - thick, view.sharp * 0.6) * np.clip(thick * 90.0, 0.0, 1.0)
    brow *= face.brow_dark * (0.9 + 0.15 * hairs)
    paint(albedo, np.clip(brow, 0.0, 1.0), face.brow_rgb)


_FEATURES = (  # what is painted, and between which shares of the image's height it can lie
    (_paint_mouth, 0.5, 1.0),
    (_paint_nose, 0.35, 0.85),
    (_paint_eyes, 0.25, 0.6),
    (_paint_brows, 0.2, 0.55),
)


def _paint_hair(albedo: Pixels, face: Face, view: View, mirrored: Pixels) -> None:
    """What grows before the ears and above the hairline."""
    u, v = view.u, view.v
    fan = u / np.maximum(v + 1.9, 0.3)
    streak = look_up(noise(1, 1), fan * 130.0 + 300.0 + face.grain, v * 9.0 + 300.0)
    temple = np.maximum(mirrored - 0.34, 0.0)
    line = v + face.hairline - face.hair_part * u - face.peak * bump(u * u * 30.0)
    line -= temple * temple * face.hair_sides
    line = np.maximum(line, np.minimum(v - face.hair_end, 0.2))
    hair = cover(line + streak * (0.01 + face.curl * 0.02), view.sharp * 0.5) * face.hair
    paint(albedo, hair, face.hair_rgb * np.maximum(0.85 + 0.3 * streak, 0.2))
