"""From whatever a person calls a picture to RGB pixels, with a decided behaviour for each way a file can be wrong."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from promptmix.errors import DataError

__all__ = [
    "LARGEST_FILE",
    "MAX_PIXELS",
    "PICTURE_SUFFIXES",
    "FileState",
    "PictureSource",
    "StoredPicture",
    "UnusablePicture",
    "content_key",
    "file_bytes",
    "file_state",
    "open_picture",
    "refuse_changed",
]

FileState: TypeAlias = tuple[int, int]
"""When a file was last written, in nanoseconds, and its size in bytes."""


class StoredPicture(ABC):
    """A picture that lies inside another file: a member of an archive, a row of a table.

    What kinds there are are frozen dataclasses of plain attributes, so that they can be hashed and sent to other processes.

    Attributes:
        name: what people know it by, unique within its source, such as ``shards/0001.tar/cat_3.jpg``.
    """

    name: str

    @abstractmethod
    def read(self) -> bytes:
        """The bytes of the picture's file, read anew each time.

        Raises:
            DataError: they cannot be read, or the file they lie in has changed.
        """

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class UnusablePicture(StoredPicture):
    """What stands in a source in the place of a picture and cannot be one, so that it is told of in its place, with the others."""

    name: str
    reason: str

    def read(self) -> bytes:
        raise DataError(self.reason)


def file_state(file: Path | int) -> FileState:
    """The state of a file, by its path or by the number under which it is open.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        status = os.stat(file)
    except OSError as problem:
        raise DataError(f"{file} cannot be read: {problem.strerror}; check the path") from problem
    return status.st_mtime_ns, status.st_size


def refuse_changed(picture: str, file: Path, listed: FileState, now: FileState) -> None:
    """Raise where a file is not as it was when its pictures were listed: they may be others now, or have other labels.

    Raises:
        DataError: it has changed; the message names picture and file.
    """
    if listed != now:
        raise DataError(f"{picture}: {file} has changed since it was listed; start again")


PictureSource: TypeAlias = str | Path | Image.Image | NDArray[Any] | bytes | StoredPicture

LARGEST_FILE = 2**30  # bytes of a picture's file that is read whole
MAX_PIXELS = 100_000_000  # a picture of 300 MB once decoded; no camera in a pocket makes more

# Only kinds that hold pixels: Pillow would also start Ghostscript for PostScript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF", "QOI")

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
    | {".pbm", ".pnm", ".pfm", ".tga", ".ico", ".jp2", ".j2k", ".jpx", ".avif", ".avifs", ".qoi"}
)

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _PillowMuted:
    """Within ``with``, Pillow gives no warnings; what is wrong with a picture is an error with its name.

    Filters of warnings belong to the whole process, so threads that decode at the same time share one change of them:
    the first to enter makes it, the last to leave undoes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._users += 1

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._filters.__exit__(kind, value, trace)


_MUTED = _PillowMuted()


def open_picture(source: PictureSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A new RGB picture, upright, of a file, of the bytes of one, of one inside another file, of a Pillow picture or of an array.

    Transparent parts lie over white; a camera's orientation is applied; of an animation the first frame is taken; 16 bits
    become 8. Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or floats from 0 to 1. The kind of a file is known by
    its content, not by its name. Gives no warnings and may be called from several threads.

    Args:
        max_pixels: a picture of more is refused from its header, before it is decoded.

    Raises:
        DataError: there is no such file, it cannot be read, is no picture, is damaged or too large; the message names it.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image.Image):
        with _MUTED:
            return _decoded(source, "the picture", max_pixels)
    if isinstance(source, StoredPicture):
        return _read(io.BytesIO(_stored(source)), str(source), max_pixels)
    if isinstance(source, bytes):
        if not source:
            raise DataError("the picture is empty (0 bytes)")
        return _read(io.BytesIO(source), f"the picture of {len(source)} bytes", max_pixels)
    with _open_file(source) as stream:
        return _read(stream, str(source), max_pixels)


def content_key(source: PictureSource) -> str:
    """What a picture is, whatever its name: ``file:`` and the sha256 of a file's bytes, or ``pixels:`` and that of size and RGB
    pixels for a picture in memory.

    Raises:
        DataError: the file cannot be read, or the picture in memory cannot be used.
    """
    if isinstance(source, Image.Image | np.ndarray):
        image = open_picture(source)
        digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
        digest.update(image.tobytes())
        return f"pixels:{digest.hexdigest()}"
    if isinstance(source, StoredPicture):
        source = _stored(source)
    if isinstance(source, bytes):
        return f"file:{hashlib.sha256(source).hexdigest()}"
    with _open_file(source) as stream:
        try:
            return f"file:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        except OSError as problem:
            raise DataError(f"{source} cannot be read: {problem.strerror}") from problem


def file_bytes(path: Path) -> bytes:
    """The bytes of a picture's file.

    Raises:
        DataError: it cannot be read, is no file such as pictures are, or has more than 2**30 bytes.
    """
    with _open_file(path) as stream:
        try:
            content = stream.read(LARGEST_FILE + 1)
        except OSError as problem:
            raise DataError(f"{path} cannot be read: {problem.strerror}") from problem
    if len(content) > LARGEST_FILE:
        raise DataError(f"{path} has more than {LARGEST_FILE:,} bytes; is it a picture?")
    return content


def _stored(picture: StoredPicture) -> bytes:
    content = picture.read()
    if not content:
        raise DataError(f"{picture} is empty (0 bytes); replace it or leave it out")
    return content


def _open_file(source: str | Path) -> io.BufferedReader:
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise DataError(f"a picture must be a path, bytes, a Pillow picture or a numpy array, not {kind}")
    path = Path(source)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path} is a folder, not a picture; give the pictures in it")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a file; give a picture file")
        if status.st_size == 0:
            raise DataError(f"{path} is empty (0 bytes); replace it or leave it out")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError) as problem:
        what = "is a link to nothing" if path.is_symlink() else "does not exist"
        raise DataError(f"{path} {what}; check the path") from problem
    except PermissionError as problem:
        raise DataError(f"{path} cannot be read: permission denied; change its rights or leave it out") from problem
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}") from problem
    except DataError:
        raise
    except ValueError as problem:  # a zero byte in the path
        raise DataError(f"{str(path)!r} is not the path of a file") from problem


def _read(stream: io.BytesIO | io.BufferedReader, name: str, max_pixels: int) -> Image.Image:
    with _MUTED:
        try:
            image = Image.open(stream, formats=_FORMATS)
        except UnidentifiedImageError as problem:
            raise DataError(f"{name} is not a picture that can be read; save it as jpg or png, or leave it out") from problem
        except Image.DecompressionBombError as problem:
            # Beyond twice Pillow's own limit nothing is opened, whatever ``max_pixels`` says.
            limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
            raise DataError(f"{name} has more than {limit:,} pixels; make it smaller") from problem
        except MemoryError:
            raise
        except Exception as problem:  # damaged headers make the readers of Pillow raise nearly anything
            raise _damaged(name, problem) from problem
        return _decoded(image, name, max_pixels, is_ours=True)


def _damaged(name: str, problem: Exception) -> DataError:
    reason = " ".join(str(problem).split()) or type(problem).__name__
    return DataError(f"{name} is damaged or cut off ({reason}); replace it or leave it out")


def _decoded(image: Image.Image, name: str, max_pixels: int, *, is_ours: bool = False) -> Image.Image:
    """The picture as RGB, upright; the same object where it is that already and ``is_ours``, since a copy of a photograph takes
    a third as long as its decoding."""
    if image.width * image.height > max_pixels:
        raise DataError(f"{name} has {image.width} x {image.height} pixels, more than {max_pixels:,}; make it smaller")
    if image.width * image.height == 0:
        raise DataError(f"{name} has no pixels ({image.width} x {image.height}); leave it out")
    try:
        image.load()
        upright = _UPRIGHT.get(_orientation(image))
        plain = is_ours and image.mode == "RGB" and not image.has_transparency_data
        result = image if plain else _as_rgb(image)
        if upright is not None:
            result = result.transpose(upright)
    except MemoryError:
        raise
    except Exception as problem:  # as above: damage shows as any kind of error
        raise _damaged(name, problem) from problem
    # What the file said (orientation, transparency) has been done and must not be done again.
    result.info.clear()
    return result


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or the EXIF data are damaged. Valid only once the pixels are loaded:
    loading a TIFF turns it upright."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF data raise nearly anything, and say nothing about the pixels
        return 1


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode == "La":  # Pillow leads from here to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """Grey values of the modes I, I;16 and F as bytes.

    Integers are 16 bits deep, floats go to 1 or to 255; what does not fit is 16 bits deep or else stretched from its least
    to its greatest value. NaN is black.
    """
    grey = np.nan_to_num(values.astype(np.float64))
    low, high = float(grey.min()), float(grey.max())
    if mode == "F" and low >= 0 and high <= 255:
        grey *= 255 if high <= 1 else 1
    elif low >= 0 and high <= 65535:
        grey /= 257
    else:
        grey = (grey - low) / ((high - low) or 1) * 255
    return (grey + 0.5).astype(np.uint8)


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise DataError(f"an array of shape {array.shape} is not a picture; use (height, width) or (height, width, 1, 3 or 4)")
    if array.size == 0:
        raise DataError(f"an array of shape {array.shape} has no pixels")
    if np.issubdtype(array.dtype, np.floating):
        # Written so that NaN fails too.
        if not (float(array.min()) >= 0 and float(array.max()) <= 1):
            raise DataError(f"an array of floats must lie within 0 and 1, not {array.min()} to {array.max()}; divide by 255?")
        array = (array.astype(np.float64) * 255 + 0.5).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"an array of {array.dtype} is not a picture; use uint8, or floats from 0 to 1")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))
