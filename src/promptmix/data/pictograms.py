"""The bundled world: pictograms drawn in many styles, with class and style known for every picture.

The shapes are glyphs of DejaVu Sans, the font that matplotlib installs. A picture is a pure function of
``(class, style, seed)``: nothing is read but the font, nothing is random but the generator made from these three.

``PRETRAINING_STYLES`` are the styles the bundled backbone was pretrained on. ``UNSEEN_STYLES`` were never shown to it
and make the few-shot task of ``promptmix demo``: adaptation has something to teach only where the backbone has not been.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

__all__ = [
    "ALL_STYLES",
    "CLASS_NAMES",
    "EFFECTS",
    "IMAGE_SIZE",
    "PRETRAINING_STYLES",
    "STYLE_TEMPLATES",
    "UNSEEN_STYLES",
    "DrawnPicture",
    "draw",
    "draw_set",
]

IMAGE_SIZE = 64
_GLYPH_SIZE = 80  # pixels of the square in which a glyph is kept before it is placed

Pixels = NDArray[np.float32]  # (height, width, 3), 0 to 1
Mask = NDArray[np.float32]  # (height, width), 0 to 1

_CODE_POINTS: dict[str, int] = {
    "sun": 0x2600,
    "cloud": 0x2601,
    "umbrella": 0x2602,
    "snowman": 0x2603,
    "comet": 0x2604,
    "star": 0x2605,
    "telephone": 0x260E,
    "ticked box": 0x2611,
    "crossed box": 0x2612,
    "cup of coffee": 0x2615,
    "shamrock": 0x2618,
    "pointing hand": 0x261E,
    "skull": 0x2620,
    "radiation sign": 0x2622,
    "biohazard sign": 0x2623,
    "winged staff": 0x2624,
    "ankh": 0x2625,
    "crescent and star": 0x262A,
    "peace sign": 0x262E,
    "yin and yang": 0x262F,
    "ship wheel": 0x2638,
    "sad face": 0x2639,
    "smiling face": 0x263A,
    "crescent moon": 0x263E,
    "female sign": 0x2640,
    "male sign": 0x2642,
    "trident": 0x2646,
    "ram sign": 0x2648,
    "bull sign": 0x2649,
    "twins sign": 0x264A,
    "crab sign": 0x264B,
    "lion sign": 0x264C,
    "balance sign": 0x264E,
    "scorpion sign": 0x264F,
    "archer sign": 0x2650,
    "fish sign": 0x2653,
    "chess king": 0x265A,
    "chess queen": 0x265B,
    "chess rook": 0x265C,
    "chess bishop": 0x265D,
    "chess knight": 0x265E,
    "chess pawn": 0x265F,
    "spade": 0x2660,
    "club": 0x2663,
    "heart": 0x2665,
    "diamond": 0x2666,
    "hot spring": 0x2668,
    "musical note": 0x266A,
    "pair of notes": 0x266B,
    "flat sign": 0x266D,
    "sharp sign": 0x266F,
    "recycling sign": 0x267B,
    "wheelchair": 0x267F,
    "dice with one dot": 0x2680,
    "dice with three dots": 0x2682,
    "dice with five dots": 0x2684,
    "flag": 0x2691,
    "crossed hammers": 0x2692,
    "anchor": 0x2693,
    "crossed swords": 0x2694,
    "snake on a staff": 0x2695,
    "pair of scales": 0x2696,
    "retort": 0x2697,
    "flower": 0x2698,
    "gear": 0x2699,
    "atom": 0x269B,
    "lily crest": 0x269C,
    "warning sign": 0x26A0,
    "lightning bolt": 0x26A1,
    "coffin": 0x26B0,
    "urn": 0x26B1,
    "old key": 0x26B7,
    "stack of checkers": 0x26C3,
    "pair of scissors": 0x2702,
    "tape reel": 0x2707,
    "airplane": 0x2708,
    "envelope": 0x2709,
    "victory hand": 0x270C,
    "writing hand": 0x270D,
    "pencil": 0x270F,
    "pen nib": 0x2712,
    "tick": 0x2714,
    "cross mark": 0x2718,
    "plus sign": 0x271A,
    "church cross": 0x271D,
    "knight cross": 0x2720,
    "six pointed star": 0x2721,
    "sparkle": 0x2726,
    "star in a circle": 0x272A,
    "asterisk": 0x2731,
    "sunburst": 0x2739,
    "blossom": 0x273F,
    "daisy": 0x2741,
    "snowflake": 0x2744,
    "four diamonds": 0x2756,
    "quotation mark": 0x275E,
    "exclamation mark": 0x2762,
    "ivy leaf": 0x2766,
    "number one": 0x2776,
    "number four": 0x2779,
    "number eight": 0x277D,
    "arrow": 0x27A1,
    "feathered arrow": 0x27B3,
    "house": 0x2302,
    "looped square": 0x2318,
    "keyboard": 0x2328,
    "benzene ring": 0x232C,
    "mouse": 0x1F42D,
    "cow": 0x1F42E,
    "cat": 0x1F431,
    "monkey": 0x1F435,
    "grinning face": 0x1F600,
    "angel": 0x1F607,
    "devil": 0x1F608,
    "face with sunglasses": 0x1F60E,
    "face with a tongue": 0x1F61B,
    "crying face": 0x1F62D,
    "screaming face": 0x1F631,
    "face with a mask": 0x1F637,
    "playing card": 0x1F0A1,
}
CLASS_NAMES: tuple[str, ...] = tuple(_CODE_POINTS)

# Each style's templates mean one thing; the first is the most usual wording.
STYLE_TEMPLATES: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of a {}.", "a good photo of a {}.", "a photo of the {}."),
    "sketch": ("a sketch of a {}.", "a drawing of a {}.", "a pencil sketch of the {}."),
    "painting": ("a painting of a {}.", "art of the {}.", "a painting of the {}."),
    "pixelated": ("a pixelated photo of a {}.", "a low resolution photo of a {}.", "a pixelated photo of the {}."),
    "blurry": ("a blurry photo of a {}.", "a blurry photo of the {}.", "an unsharp photo of a {}."),
    "dark": ("a dark photo of a {}.", "a dark photo of the {}.", "a photo of a {} at night."),
    "bright": ("a bright photo of a {}.", "a bright photo of the {}.", "an overexposed photo of a {}."),
    "close-up": ("a close-up photo of a {}.", "a close-up photo of the {}.", "a cropped photo of a {}."),
    "small": ("a photo of a small {}.", "a photo of the small {}.", "a tiny {} far away."),
    "many": ("a photo of many {}.", "a picture of several {}.", "a photo of a lot of {}."),
    "negative": ("a negative photo of a {}.", "an inverted photo of a {}.", "a negative photo of the {}."),
    "chalk": ("a chalk drawing of a {} on a board.", "a {} in chalk."),
    "neon": ("a neon sign of a {}.", "a glowing neon {}."),
    "stamp": ("a rubber stamp of a {}.", "a stamped print of a {}."),
    "cross-stitch": ("a cross-stitch of a {}.", "an embroidered {}."),
}
UNSEEN_STYLES: tuple[str, ...] = ("neon", "cross-stitch")
ALL_STYLES: tuple[str, ...] = tuple(STYLE_TEMPLATES)
PRETRAINING_STYLES: tuple[str, ...] = tuple(style for style in ALL_STYLES if style not in UNSEEN_STYLES)


@dataclass(frozen=True, kw_only=True)
class DrawnPicture:
    """One picture of the bundled world, with what is known of it."""

    image: Image.Image
    class_name: str
    style: str


def draw(class_name: str, style: str, seed: int) -> Image.Image:
    """Draw one picture, RGB, ``IMAGE_SIZE`` pixels square; the same arguments give the same pixels.

    Raises:
        ValueError: the class or the style is not of this world, or the seed is negative.
    """
    if class_name not in _CODE_POINTS:
        raise ValueError(f"no pictogram is called {class_name!r}; see pictograms.CLASS_NAMES")
    if style not in _PAINTERS:
        raise ValueError(f"no style is called {style!r}; styles: {', '.join(ALL_STYLES)}")
    entropy = (seed, CLASS_NAMES.index(class_name), ALL_STYLES.index(style))
    generator = np.random.default_rng(entropy)
    pixels = _PAINTERS[style](_CODE_POINTS[class_name], generator)
    return Image.fromarray(np.clip(pixels * 255 + 0.5, 0, 255).astype(np.uint8))


def draw_set(class_names: tuple[str, ...], styles: tuple[str, ...], per_class_and_style: int, seed: int) -> list[DrawnPicture]:
    """Draw ``per_class_and_style`` pictures of every class in every style, class by class.

    Sets drawn with different seeds share no picture: the number of the picture is folded into its own seed.
    """
    return [
        DrawnPicture(image=draw(class_name, style, seed * 1_000_003 + number), class_name=class_name, style=style)
        for class_name in class_names
        for style in styles
        for number in range(per_class_and_style)
    ]


# ---------------------------------------------------------------------------------------------------------- shapes


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib

    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, _GLYPH_SIZE)


@functools.cache
def _glyph(code_point: int) -> Image.Image:
    """The glyph as a mask, its larger side ``_GLYPH_SIZE`` pixels, centred in a square."""
    left, top, right, bottom = (int(edge) for edge in _font().getbbox(chr(code_point)))
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), chr(code_point), font=_font(), fill=255)
    ratio = _GLYPH_SIZE / max(drawn.size)
    drawn = drawn.resize((max(1, round(drawn.width * ratio)), max(1, round(drawn.height * ratio))), Image.Resampling.BICUBIC)
    square = Image.new("L", (_GLYPH_SIZE, _GLYPH_SIZE))
    square.paste(drawn, ((_GLYPH_SIZE - drawn.width) // 2, (_GLYPH_SIZE - drawn.height) // 2))
    return square


def _place(code_point: int, generator: np.random.Generator, size: tuple[float, float], canvas: int = IMAGE_SIZE) -> Image.Image:
    """The glyph turned a little, between ``size`` pixels large, anywhere it is (nearly) whole on the canvas."""
    pixels = generator.uniform(*size)
    angle = generator.uniform(-0.35, 0.35)
    room = max(0.0, (canvas - pixels) / 2) + 2
    centre_x, centre_y = canvas / 2 + generator.uniform(-room, room, 2)
    shrink = _GLYPH_SIZE / pixels
    cosine, sine = np.cos(angle) * shrink, np.sin(angle) * shrink
    middle = _GLYPH_SIZE / 2
    matrix = (
        cosine, sine, middle - cosine * centre_x - sine * centre_y,
        -sine, cosine, middle + sine * centre_x - cosine * centre_y,
    )  # fmt: skip
    return _glyph(code_point).transform((canvas, canvas), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _as_mask(image: Image.Image) -> Mask:
    return _as_pixels(image)


def _as_pixels(image: Image.Image) -> Pixels:
    scaled: Pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return scaled


def _as_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def _blurred(image: Image.Image, radius: float) -> Mask:
    return _as_mask(image.filter(ImageFilter.GaussianBlur(radius)))


def _outline(image: Image.Image, thickness: int) -> Image.Image:
    thick = image.filter(ImageFilter.MaxFilter(thickness))
    return ImageChops.subtract(thick, image.filter(ImageFilter.MinFilter(3)))


# --------------------------------------------------------------------------------------------- colours and grounds


def _colour(generator: np.random.Generator, low: float = 0.0, high: float = 1.0) -> Pixels:
    return generator.uniform(low, high, 3).astype(np.float32)


def _contrasting(generator: np.random.Generator, ground: Pixels) -> Pixels:
    """A colour whose lightness differs from the mean of ``ground`` by at least 0.3."""
    lightness = float(ground.mean())
    if generator.random() < lightness:
        return _colour(generator, 0.0, max(0.05, 2 * (lightness - 0.3)))
    return _colour(generator, min(0.95, 1 - 2 * (0.7 - lightness)), 1.0)


def _smooth_noise(generator: np.random.Generator, cells: int, canvas: int = IMAGE_SIZE) -> Mask:
    coarse = Image.fromarray(generator.integers(0, 256, (cells, cells), dtype=np.uint8))
    return _as_mask(coarse.resize((canvas, canvas), Image.Resampling.BILINEAR))


_ROWS, _COLUMNS = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE].astype(np.float32) / (IMAGE_SIZE - 1)


def _ramp(generator: np.random.Generator) -> Mask:
    angle = generator.uniform(0, 2 * np.pi)
    along: Mask = (_COLUMNS - 0.5) * np.float32(np.cos(angle)) + (_ROWS - 0.5) * np.float32(np.sin(angle))
    ramp: Mask = np.clip(along + 0.5, 0, 1).astype(np.float32)
    return ramp


def _gradient_ground(generator: np.random.Generator) -> Pixels:
    ramp = _ramp(generator)[..., None]
    return _colour(generator) * (1 - ramp) + _colour(generator) * ramp


def _noisy_ground(generator: np.random.Generator) -> Pixels:
    noise = _smooth_noise(generator, int(generator.integers(4, 17)))[..., None]
    first = _colour(generator)
    second = np.clip(first + generator.uniform(-0.35, 0.35, 3), 0, 1).astype(np.float32)
    return first * (1 - noise) + second * noise


def _cluttered_ground(generator: np.random.Generator) -> Pixels:
    base = generator.integers(30, 226, 3)
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), tuple(int(channel) for channel in base))
    pen = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(4, 10))):
        near = np.clip(base + generator.integers(-45, 46, 3), 0, 255)
        fill = (int(near[0]), int(near[1]), int(near[2]))
        x, y, width, height = generator.integers(-8, IMAGE_SIZE, 4)
        box = (int(x), int(y), int(x) + abs(int(width)) // 2 + 2, int(y) + abs(int(height)) // 2 + 2)
        kind = generator.integers(3)
        if kind == 0:
            pen.ellipse(box, fill=fill)
        elif kind == 1:
            pen.rectangle(box, fill=fill)
        else:
            pen.line(box, fill=fill, width=int(generator.integers(1, 4)))
    return _as_pixels(image)


def _ground(generator: np.random.Generator) -> Pixels:
    return (_gradient_ground, _noisy_ground, _cluttered_ground)[int(generator.integers(3))](generator)


def _over(ground: Pixels, mask: Mask, paint: Pixels) -> Pixels:
    return ground + mask[..., None] * (paint - ground)


# ---------------------------------------------------------------------------------------- the styles, one painter each


def _photo(code_point: int, generator: np.random.Generator, size: tuple[float, float] = (34, 50)) -> Pixels:
    """Shaded shape with a soft shadow on a random ground: the plain style, on which several others build."""
    ground = _ground(generator)
    shape = _place(code_point, generator, size)
    shift = generator.integers(1, 4, 2)
    shadow = _blurred(ImageChops.offset(shape, int(shift[0]), int(shift[1])), 2.0) * np.float32(generator.uniform(0.2, 0.6))
    ground = ground * (1 - shadow[..., None])
    light = 0.75 + 0.5 * _ramp(generator)[..., None]
    paint = np.clip(_contrasting(generator, ground) * light, 0, 1)
    return _over(ground, _as_mask(shape), paint)


def _sketch(code_point: int, generator: np.random.Generator) -> Pixels:
    paper = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), generator.uniform(0.85, 1.0), np.float32)
    shape = _place(code_point, generator, (34, 52))
    grain = _smooth_noise(generator, 32)
    stripes = (np.sin((_COLUMNS + _ROWS) * generator.uniform(60, 110)) > generator.uniform(-0.2, 0.5)).astype(np.float32)
    strokes = np.maximum(_as_mask(_outline(shape, 3)), _as_mask(shape) * stripes * 0.6)
    graphite = np.full(3, generator.uniform(0.05, 0.4), np.float32)
    return _over(paper - 0.05 * grain[..., None], strokes * (0.6 + 0.4 * grain), graphite)


def _painted(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    image = _as_image(pixels).filter(ImageFilter.ModeFilter(5))
    painted = np.asarray(image, dtype=np.float32) / 255
    levels = generator.integers(4, 7)
    painted = np.round(painted * levels) / levels
    canvas = 0.06 * (_smooth_noise(generator, 40) - 0.5)
    mean = painted.mean(axis=2, keepdims=True)
    vivid: Pixels = np.clip(mean + 1.5 * (painted - mean) + canvas[..., None], 0, 1).astype(np.float32)
    return vivid


def _pixelated(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    cells = int(generator.integers(16, 23))
    image = _as_image(pixels).resize((cells, cells), Image.Resampling.BOX)
    return _as_pixels(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.NEAREST))


def _blurred_whole(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    return _as_pixels(_as_image(pixels).filter(ImageFilter.GaussianBlur(generator.uniform(1.4, 2.2))))


def _darkened(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    dark = pixels * generator.uniform(0.15, 0.35)
    return dark + generator.normal(0, 0.02, pixels.shape).astype(np.float32)


def _brightened(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    return 1 - (1 - np.clip(pixels, 0, 1)) * np.float32(generator.uniform(0.25, 0.45))


def _negative(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """A colour negative: inverted, with the orange mask and the frame of film."""
    inverted = 1 - np.clip(pixels, 0, 1)
    inverted = inverted * np.array([1.0, 0.72, 0.5], np.float32) + np.array([0.0, 0.02, 0.04], np.float32)
    border = int(generator.integers(2, 5))
    inverted[:border] = inverted[-border:] = 0.04
    return inverted


EFFECTS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "painting": _painted,
    "pixelated": _pixelated,
    "blurry": _blurred_whole,
    "dark": _darkened,
    "bright": _brightened,
    "negative": _negative,
}
"""The styles that are something done to a plain picture, of ``IMAGE_SIZE`` pixels, whatever it shows."""

_EFFECT_SIZES = {"pixelated": (40.0, 56.0), "blurry": (38.0, 54.0)}  # of the glyph in the plain picture; else 34 to 50


def _with_effect(style: str) -> Callable[[int, np.random.Generator], Pixels]:
    size = _EFFECT_SIZES.get(style, (34.0, 50.0))
    return lambda code_point, generator: EFFECTS[style](_photo(code_point, generator, size), generator)


def _close_up(code_point: int, generator: np.random.Generator) -> Pixels:
    return _photo(code_point, generator, (68, 86))


def _small(code_point: int, generator: np.random.Generator) -> Pixels:
    return _photo(code_point, generator, (17, 23))


def _many(code_point: int, generator: np.random.Generator) -> Pixels:
    ground = _ground(generator)
    paint = _contrasting(generator, ground)
    columns = int(generator.integers(2, 4))
    cell = IMAGE_SIZE // columns
    shapes = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
    for row in range(columns):
        for column in range(columns):
            one = _place(code_point, generator, (cell * 0.8, cell * 0.98), canvas=cell)
            shapes.paste(one, (column * cell, row * cell))
    return _over(ground, _as_mask(shapes), paint)


def _chalk(code_point: int, generator: np.random.Generator) -> Pixels:
    board = np.array([(0.10, 0.22, 0.16), (0.11, 0.12, 0.13), (0.12, 0.17, 0.24)][int(generator.integers(3))], np.float32)
    smear = _smooth_noise(generator, 6)[..., None] * generator.uniform(0.05, 0.16)
    ground = np.broadcast_to(board, (IMAGE_SIZE, IMAGE_SIZE, 3)) + smear.astype(np.float32)
    shape = _place(code_point, generator, (38, 54))
    grain = generator.random((IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    stripes = np.sin((_COLUMNS - _ROWS) * generator.uniform(50, 90)) > 0.0
    chalk = np.maximum(_as_mask(_outline(shape, 3)), _as_mask(shape) * (0.25 + 0.3 * stripes)) * (0.45 + 0.55 * (grain > 0.35))
    return _over(ground, chalk.astype(np.float32), _colour(generator, 0.75, 1.0))


def _neon(code_point: int, generator: np.random.Generator) -> Pixels:
    ground = np.broadcast_to(_colour(generator, 0.02, 0.16), (IMAGE_SIZE, IMAGE_SIZE, 3)).copy()
    course = int(generator.integers(7, 11))
    for row in range(0, IMAGE_SIZE, course):
        ground[row] *= 0.5
        offset = course if (row // course) % 2 else 0
        ground[row : row + course, offset :: 2 * course] *= 0.5
    tube = _outline(_place(code_point, generator, (38, 54)), 3)
    hue = _colour(generator, 0.0, 0.35)
    hue[generator.permutation(3)[: generator.integers(1, 3)]] = 1.0
    glow = np.clip(2.2 * _blurred(tube, 3.5), 0, 1)[..., None] * hue
    lit: Pixels = np.clip(ground + 0.9 * glow + _as_mask(tube)[..., None] * (0.55 + 0.45 * hue), 0, 1).astype(np.float32)
    return lit


def _stamp(code_point: int, generator: np.random.Generator) -> Pixels:
    paper = _colour(generator, 0.84, 0.98) - 0.08 * _smooth_noise(generator, 20)[..., None]
    shape = _place(code_point, generator, (28, 40), canvas=IMAGE_SIZE - 16)
    whole = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
    whole.paste(shape, (8, 8))
    pen = ImageDraw.Draw(whole)
    if generator.random() < 0.5:
        pen.ellipse((3, 3, IMAGE_SIZE - 4, IMAGE_SIZE - 4), outline=255, width=3)
    else:
        pen.rectangle((4, 4, IMAGE_SIZE - 5, IMAGE_SIZE - 5), outline=255, width=3)
    inks = ((0.65, 0.08, 0.12), (0.10, 0.16, 0.55), (0.07, 0.38, 0.20), (0.35, 0.12, 0.45))
    ink = np.array(inks[int(generator.integers(4))], np.float32)
    worn = np.clip(1.5 * _smooth_noise(generator, 24) + 0.15, 0, 1) * np.clip(2 * _smooth_noise(generator, 5) + 0.25, 0, 1)
    turned = whole.rotate(generator.uniform(-18, 18), Image.Resampling.BILINEAR)
    return _over(paper, _as_mask(turned) * worn, ink)


def _cross_stitch(code_point: int, generator: np.random.Generator) -> Pixels:
    stitch = 3
    cells = IMAGE_SIZE // stitch + 1
    shape = _place(code_point, generator, (46, 60)).resize((cells, cells), Image.Resampling.BOX)
    filled = np.kron((_as_mask(shape) > 0.38).astype(np.float32), np.ones((stitch, stitch), np.float32))[:IMAGE_SIZE, :IMAGE_SIZE]
    row, column = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] % stitch
    thread = np.where((row == column) | (row + column == stitch - 1), 1.0, 0.45).astype(np.float32)
    weave = np.where((row == 0) | (column == 0), 0.86, 1.0).astype(np.float32)
    cloth = _colour(generator, 0.72, 0.98) * weave[..., None]
    yarn = _contrasting(generator, cloth) * (0.9 + 0.1 * _smooth_noise(generator, 30)[..., None])
    return _over(cloth, filled * thread, yarn)


_PAINTERS: dict[str, Callable[[int, np.random.Generator], Pixels]] = {
    **{style: _with_effect(style) for style in EFFECTS},
    "photo": _photo,
    "sketch": _sketch,
    "close-up": _close_up,
    "small": _small,
    "many": _many,
    "chalk": _chalk,
    "neon": _neon,
    "stamp": _stamp,
    "cross-stitch": _cross_stitch,
}
