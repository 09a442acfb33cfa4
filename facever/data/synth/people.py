"""Who is in a picture and how it was taken: traits drawn from (seed, identity, image).

An identity is a geometry and an albedo; a shot is pose, expression, light, occlusion and the
damage done by the camera. Each is drawn from its own generator, so a picture depends on nothing
but its three numbers. Lengths are in half image widths, angles in radians, colours are albedos
in [0, 1], linear in light; whatever is worn or grows is a share in [0, 1].
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Traits = dict[str, float | Array]

# Streams of one seed. Keys have one length, because SeedSequence pads short ones with zeros.
_WHO, _SHOT, _NOISE, PLAN = range(4)

# What varies freely between people: mean and standard deviation.
_GEOMETRY = {
    "head_a": (0.655, 0.036),
    "head_b": (0.97, 0.045),
    "head_c": (0.78, 0.04),
    "taper": (0.14, 0.06),
    "jaw": (0.03, 0.055),
    "cheek": (0.0, 0.035),
    "cheekbone": (0.03, 0.02),
    "chin": (0.035, 0.02),
    "ear_h": (0.17, 0.02),
    "ear_out": (0.03, 0.025),
    "eye_x": (0.275, 0.018),
    "eye_w": (0.125, 0.012),
    "eye_open": (0.052, 0.011),
    "eye_tilt": (-0.06, 0.09),
    "eye_deep": (0.035, 0.015),
    "iris_r": (0.05, 0.004),
    "crease": (0.045, 0.014),
    "brow_y": (0.16, 0.022),
    "brow_w": (0.17, 0.02),
    "brow_arch": (0.035, 0.022),
    "brow_tilt": (0.0, 0.11),
    "brow_thick": (0.026, 0.007),
    "brow_dark": (0.75, 0.15),
    "nose_y": (0.39, 0.032),
    "nose_w": (0.125, 0.019),
    "nose_up": (0.13, 0.03),
    "nose_bridge": (0.07, 0.014),
    "nose_tip": (0.02, 0.012),
    "mouth_y": (0.61, 0.03),
    "mouth_w": (0.21, 0.024),
    "lip_up": (0.036, 0.011),
    "lip_low": (0.052, 0.013),
    "cupid": (0.25, 0.15),
    "hairline": (0.55, 0.06),
    "hair_part": (0.0, 0.16),
    "hair_volume": (0.1, 0.045),
    "peak": (0.0, 0.04),
    "crooked": (0.0, 0.009),
    "neck": (0.4, 0.04),
}
# How far being a man rather than a woman pulls, from one end to the other.
_MALE_PULL = {
    "brow_thick": 0.014,
    "jaw": 0.08,
    "nose_w": 0.02,
    "nose_up": 0.02,
    "lip_low": -0.014,
    "lip_up": -0.008,
    "head_b": 0.03,
    "eye_open": -0.01,
    "neck": 0.1,
    "brow_y": -0.02,
}
# Paths of display colours: skin by melanin, hair and iris from dark to light, cloth at random.
_SKIN = ((0.95, 0.80, 0.72), (0.88, 0.70, 0.58), (0.70, 0.50, 0.38), (0.42, 0.28, 0.21))
_HAIR = ((0.09, 0.07, 0.07), (0.24, 0.16, 0.12), (0.48, 0.33, 0.20), (0.80, 0.65, 0.42))
_IRIS = ((0.20, 0.12, 0.08), (0.42, 0.28, 0.16), (0.42, 0.48, 0.30), (0.45, 0.60, 0.72))
_MASKS = ((0.62, 0.78, 0.88), (0.93, 0.94, 0.95), (0.12, 0.12, 0.14))
_RED_HAIR, _GREY_HAIR = (0.62, 0.27, 0.12), (0.72, 0.71, 0.70)


def noise_generator(seed: int, identity: int, image: int) -> np.random.Generator:
    """The random numbers of the sensor that took a picture."""
    return _generator(seed, _NOISE, identity, image)


def identity_traits(seed: int, identity: int) -> Traits:
    """Everything that stays the same from one picture of a person to the next."""
    rng = _generator(seed, _WHO, identity, 0)
    spread = np.clip(rng.standard_normal(len(_GEOMETRY)), -2.5, 2.5).tolist()
    pairs = zip(_GEOMETRY.items(), spread, strict=True)
    geometry = {name: mean + deviation * z for (name, (mean, deviation)), z in pairs}
    male, age, melanin = rng.random(3).tolist()
    for name, pull in _MALE_PULL.items():
        geometry[name] += pull * (male - 0.5)
    return {
        **geometry,
        **_colours(rng, melanin, age, male),
        **_marks(rng, age, male, melanin),
        **_hair_style(rng, age, male),
        **_own_glasses(rng, age),
        "brow_bone": 0.01 + 0.02 * male,
    }


def shot_traits(seed: int, identity: int, image: int, who: Mapping[str, float | Array]) -> Traits:
    """Everything that changes from one picture of a person to the next."""
    rng = _generator(seed, _SHOT, identity, image)
    return {
        **_pose(rng),
        **_expression(rng),
        **_light(rng),
        **_surroundings(rng),
        **_worn(rng, float(who["glasses_habit"])),
        **_damage(rng),
        "fold": float(who["fold"]) + 0.12 * rng.random(),
        "beard": float(who["beard"]) * rng.choice([0.5, 0.9, 1.0]),
    }


def quality(shot: Mapping[str, float | Array]) -> float:
    """How much of the identity a picture still shows, in (0, 1]; 1 is an undamaged portrait.

    A product over causes, because each hides what the others have left.
    """
    turned = (float(shot["yaw"]) / 1.1) ** 2 + (float(shot["pitch"]) / 0.9) ** 2
    losses = {
        "pose": min(turned, 0.8),
        "blur": min(float(shot["blur"]) / 4.5, 0.9),
        "resolution": 0.9 * (1.0 - float(shot["resolution"])) ** 2,
        "noise": min(float(shot["noise"]) * 3.0, 0.6),
        "occlusion": min(float(shot["occlusion"]), 0.9),
        "light": 0.5 * float(shot["harshness"]),
        "jpeg": 0.3 * (95.0 - float(shot["jpeg"])) / 70.0,
    }
    return math.prod(1.0 - loss for loss in losses.values())


def _generator(seed: int, stream: int, identity: int, image: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream, identity, image])


def _along(path: tuple[tuple[float, ...], ...], at: float) -> Array:
    """Colour at `at` in [0, 1] on a path, linear between its points."""
    points = np.array(path)
    place = min(max(at, 0.0), 1.0) * (len(points) - 1)
    low = min(int(place), len(points) - 2)
    colour: Array = points[low] + (place - low) * (points[low + 1] - points[low])
    return colour


def _linear(display: Array) -> Array:
    """Albedo of a display colour."""
    albedo: Array = np.clip(display, 0.03, 0.98) ** 2
    return albedo


# --- the person ---------------------------------------------------------------------------


def _colours(rng: np.random.Generator, melanin: float, age: float, male: float) -> Traits:
    # Light hair and light eyes are found with light skin.
    lightness = (1.0 - melanin) * rng.random()
    skin = _along(_SKIN, melanin) * (1.0 + 0.025 * rng.standard_normal(3))
    hair = _along(_HAIR, 0.05 + 1.2 * lightness + 0.05 * rng.standard_normal())
    if melanin < 0.4 and rng.random() < 0.12:
        hair = np.array(_RED_HAIR)
    grey = min(max((age - 0.7) * 3.0 * rng.random() * 2.0, 0.0), 1.0)
    beard = hair * 0.9
    hair = hair + grey * (np.array(_GREY_HAIR) - hair)
    lips = skin * np.array([0.86, 0.62, 0.62])
    rouge = (1.0 - male) * rng.random() * (male < 0.5)
    lips = lips + rouge * (np.array([0.75, 0.2, 0.25]) - lips) * 0.8
    return {
        "skin_rgb": _linear(skin),
        "hair_rgb": _linear(hair),
        "brow_rgb": _linear(hair * 0.7),
        "beard_rgb": _linear(beard),
        "lip_rgb": _linear(lips),
        "iris_rgb": _linear(_along(_IRIS, 0.1 + 1.1 * (1.0 - melanin) * rng.random())),
    }


def _marks(rng: np.random.Generator, age: float, male: float, melanin: float) -> Traits:
    moles = np.stack([rng.uniform(-0.5, 0.5, 3), rng.uniform(-0.4, 0.9, 3), np.zeros(3)], axis=1)
    moles[:, 2] = np.where(rng.random(3) < 0.4, rng.uniform(0.012, 0.026, 3), -1.0)
    return {
        "moles": moles,
        "freckles": 0.45 * max(0.6 - melanin, 0.0) * (rng.random() < 0.3),
        "blush": 0.5 * rng.random(),
        "blotchy": 0.02 + 0.03 * rng.random(),
        "wrinkles": 0.3 * max(age - 0.45, 0.0) * rng.random() * 2.0,
        "fold": 0.35 * age * rng.random(),
        "bag": 0.15 + 0.75 * age * rng.random(),
        "lash": 0.006 + 0.008 * (1.0 - male) * rng.random(),
        "gloss": 0.1 + 0.25 * rng.random(),
        "grain": float(rng.integers(4096)),
    }


def _hair_style(rng: np.random.Generator, age: float, male: float) -> Traits:
    is_male = male > 0.5
    bald = is_male and rng.random() < 0.05 + 0.3 * age
    fringe = rng.random() < (0.12 if is_male else 0.3)
    long = rng.random() < (0.08 if is_male else 0.8)
    bearded = is_male and rng.random() < 0.45
    traits: Traits = {
        "hair": 0.0 if bald else 1.0,
        "hair_end": rng.uniform(0.4, 1.8) if long else rng.uniform(-0.15, 0.05),
        "hair_sides": rng.uniform(8.0, 16.0) if long else rng.uniform(3.0, 7.0),
        "curl": rng.random() ** 2 * 2.0,
        "beard": bearded * rng.choice([0.0, 0.25, 0.5, 0.9]),
        "moustache": bearded * rng.choice([0.0, 0.4, 0.9]),
        "goatee": bearded * rng.choice([0.0, 0.3, 0.9]),
    }
    if fringe:
        traits["hairline"] = rng.uniform(0.26, 0.36)
    elif is_male:
        traits["hairline"] = 0.55 + 0.12 * age * rng.random() + 0.05 * rng.standard_normal()
    return traits


def _own_glasses(rng: np.random.Generator, age: float) -> Traits:
    return {
        "glasses_habit": rng.choice([0.03, 0.9]) if rng.random() < 0.3 + 0.2 * age else 0.03,
        "lens_w": rng.uniform(0.165, 0.215),
        "lens_h": rng.uniform(0.105, 0.165),
        "lens_square": rng.random(),
        "frame": rng.uniform(0.008, 0.022),
        "frame_rgb": _linear(rng.choice([0.1, 0.25, 0.5]) * rng.uniform(0.5, 1.5, 3)),
    }


# --- the shot -----------------------------------------------------------------------------


def _pose(rng: np.random.Generator) -> Traits:
    yaw = float(np.clip(rng.standard_normal() * rng.choice([0.12, 0.4]), -0.8, 0.8))
    pitch = float(np.clip(rng.standard_normal() * 0.14, -0.4, 0.4))
    roll = float(np.clip(rng.standard_normal() * 0.06, -0.2, 0.2))
    traits: Traits = {"yaw": yaw, "pitch": pitch, "roll": roll}
    for name in ("yaw", "pitch", "roll"):
        angle = float(traits[name])
        traits |= {f"{name}_sin": math.sin(angle), f"{name}_cos": math.cos(angle)}
    shift_x, shift_y, zoom = (rng.standard_normal(3) * (0.02, 0.02, 0.03)).tolist()
    return traits | {"shift_x": shift_x, "shift_y": shift_y, "zoom": 0.92 + zoom}


def _expression(rng: np.random.Generator) -> Traits:
    mouth_open = max(rng.normal(-0.03, 0.07), 0.0)
    smile = float(np.clip(rng.normal(0.3, 0.5), -0.5, 1.0))
    return {
        "smile": smile,
        "mouth_open": mouth_open,
        "lips_closed": 1.0 - min(mouth_open * 20.0, 1.0),
        "teeth": mouth_open * 0.6 * max(smile, 0.0) - 0.005,
        "brow_raise": rng.normal(0.0, 0.5),
        "lid": 0.08 if rng.random() < 0.05 else float(np.clip(rng.normal(0.95, 0.18), 0.3, 1.3)),
        "gaze_x": rng.normal(0.0, 0.018),
        "gaze_y": rng.normal(0.0, 0.008),
    }


def _light(rng: np.random.Generator) -> Traits:
    harshness = rng.random() ** 2
    azimuth, height = rng.normal(0.0, 0.4 + 0.6 * harshness), rng.normal(0.45, 0.3)
    warmth = rng.normal(0.0, 0.1)
    tint = np.array([1.0 + warmth, 1.0, 1.0 - warmth])
    ambient = 0.55 - 0.45 * harshness
    exposure = math.exp(rng.normal(0.0, 0.18 + 0.5 * harshness))
    return {
        "light_x": math.sin(azimuth) * math.cos(height),
        "light_y": -math.sin(height),
        "light_z": math.cos(azimuth) * math.cos(height),
        "light_rgb": tint * (1.15 - ambient),
        "ambient_rgb": np.array([1.0 - warmth, 1.0, 1.0 + warmth]) * ambient,
        "glint": 0.02 * math.copysign(1.0, azimuth),
        "dim": 0.3 + 0.6 * ambient,
        "exposure": exposure,
        "saturation": 0.0 if rng.random() < 0.04 else rng.uniform(0.6, 1.15),
        "harshness": min(0.6 * harshness + 0.5 * abs(math.log(exposure)), 1.0),
    }


def _surroundings(rng: np.random.Generator) -> Traits:
    base = rng.uniform(0.15, 0.9) + 0.08 * rng.standard_normal((3, 1, 1))
    cells = base + rng.uniform(0.0, 0.07) * rng.standard_normal((3, 5, 5))
    cells += rng.uniform(0.0, 0.25) * rng.standard_normal((1, 5, 5))
    return {
        "backdrop": _linear(cells),
        "backdrop_sharp": rng.choice([1.0, 1.0, 3.0, 12.0]),
        "cloth_rgb": _linear(rng.uniform(0.05, 0.95) * rng.uniform(0.5, 1.1, 3)),
        "collar": rng.uniform(-0.2, 0.5),
    }


def _worn(rng: np.random.Generator, glasses_habit: float) -> Traits:
    mask, cap, hand, shades, glasses = rng.random(5) < (0.05, 0.06, 0.05, 0.06, glasses_habit)
    from_right = rng.choice([-1.0, 1.0])
    angle = math.atan2(-1.0, -0.8 * from_right) + rng.normal(0.0, 0.3)
    return {
        "mask": float(mask),
        "cap": float(cap),
        "hand": float(hand),
        "glasses": float(glasses or shades),
        "lens_tint": 0.95 if shades else 0.07,
        "lens_rgb": _linear(np.full(3, 0.12 if shades else 0.9)),
        "mask_y": rng.uniform(0.16, 0.42),
        "mask_rgb": _linear(np.array(_MASKS[rng.integers(len(_MASKS))])),
        "cap_rgb": _linear(rng.uniform(0.1, 0.9, 3)),
        "hand_x": from_right * rng.uniform(0.15, 0.45),
        "hand_y": rng.uniform(0.35, 0.85),
        "hand_cos": math.cos(angle),
        "hand_sin": math.sin(angle),
        "occlusion": 0.5 * mask + 0.35 * shades + 0.4 * hand + 0.12 * cap + 0.06 * glasses,
    }


def _damage(rng: np.random.Generator) -> Traits:
    """What camera and web do to the picture.

    Blur is in pixels of a 112-pixel image, resolution a share of the size, noise a share of
    full scale, JPEG quality as Pillow counts it.
    """
    blurred, small, noisy, squeezed = rng.random(4) < (0.35, 0.35, 0.5, 0.3)
    return {
        "blur": rng.exponential(1.3) if blurred else 0.0,
        "resolution": math.exp(rng.uniform(math.log(0.12), 0.0)) if small else 1.0,
        "noise": rng.uniform(0.0, 0.1) if noisy else rng.uniform(0.0, 0.015),
        "jpeg": float(rng.integers(25, 70) if squeezed else rng.integers(80, 96)),
    }
