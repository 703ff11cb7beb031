"""Bodies with something wrong in each: pictures, forms and JSON."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
import zlib

from PIL import Image
from tests.serving.malformed_base import Malformed, form, noise, post, sent

from promptmix.data.pictograms import draw

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")


def whole_picture(kind: str) -> bytes:
    stream = io.BytesIO()
    draw("cat", "photo", 1).resize((160, 120), Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


def cut_off(chance: random.Random, good: dict[str, bytes]) -> Malformed:
    kind = chance.choice(FORMATS)
    end = chance.randint(0, len(good[kind]) * 8 // 10)
    return Malformed(name=f"{kind} cut off after {end} bytes", request=sent(chance, good[kind][:end]))


def damaged_head(chance: random.Random, good: dict[str, bytes]) -> Malformed:
    kind = chance.choice(FORMATS)
    content = bytearray(good[kind])
    content[: chance.randint(4, 12)] = bytes(12)
    return Malformed(name=f"{kind} whose first bytes are 0", request=sent(chance, bytes(content)))


def bomb(chance: random.Random) -> Malformed:
    """A header that promises more pixels than are allowed, or none, in front of next to nothing."""
    width, height = chance.choice(
        ((60_000, 60_000), (65_535, 65_535), (2**31 - 1, 2**31 - 1), (10_000_000, 1), (0, 0), (50_000, 900))
    )
    short = (min(width, 65_535), min(height, 65_535))
    rows = zlib.compress(bytes(100_000), 9)
    content = {
        "PNG": b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", rows),
        "GIF": b"GIF89a"
        + struct.pack("<HHBBB", *short, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, *short, 0)
        + b"\x08\x01\0\0;",
        "BMP": b"BM"
        + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, min(width, 2**31 - 1), -height, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(6),
        "WEBP": _webp(width, height),
        "JPEG": b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, *short, 1) + b"\x01\x11\x00\xff\xd9",
        "TIFF": _tiff(width, height),
    }
    kind = chance.choice(sorted(content))
    return Malformed(name=f"{kind} of {width} x {height} pixels", request=sent(chance, content[kind]))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _webp(width: int, height: int) -> bytes:
    wide, high = ((max(1, min(side, 2**24)) - 1).to_bytes(3, "little") for side in (width, height))
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + wide + high
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(width: int, height: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: min(height, 2**31), 279: 10}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def no_picture(chance: random.Random) -> Malformed:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../etc/passwd", "root")
    content = {
        "nothing": b"",
        "text": b"this is no picture\n" * chance.randint(1, 50),
        "zip": archive.getvalue(),
        "gzip": gzip.compress(b"a" * 1000, mtime=0),
        "PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "ELF": b"\x7fELF\x02\x01\x01" + bytes(60),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "HTML": b"<script>alert(1)</script>",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "MP4": b"\0\0\0\x18ftypmp42" + bytes(40),
        "noise": noise(chance),
    }
    kind = chance.choice(sorted(content))
    return Malformed(name=f"{kind} as a picture", request=sent(chance, content[kind]))


def bad_file_name(chance: random.Random) -> Malformed:
    name = chance.choice(
        (
            "../../etc/passwd",
            "/etc/passwd",
            "..\\..\\windows\\system32",
            "a\0b.jpg",
            "n" * 10_000,
            "\x1b[2Ja.jpg",
            "a\r.jpg",
            '\\"; filename="b.jpg',
            "\xff\xfe",
            "+2AA-",
            "%00%0a",
            "\\ud800",
            "",
        )
    )
    charset = chance.choice(("", "utf-7", "unicode_escape", "undefined", "hex", "idna", "utf-16", "a\x7fb", "rot13"))
    kind = "multipart/form-data; boundary=x" + (f"; charset={charset}" if charset else "")
    body = form(noise(chance), f'form-data; name="picture"; filename="{name}"')
    return Malformed(name=f"file name {name[:30]!r} in {charset or 'no charset'}", request=post(body, kind))


def broken_form(chance: random.Random) -> Malformed:
    whole = form(noise(chance))
    broken = {
        "cut off": (whole[: chance.randint(0, len(whole) - 10)], "boundary=x"),
        "no boundary": (whole, ""),
        "an empty boundary": (whole, "boundary="),
        "another boundary": (whole, "boundary=y"),
        "a long boundary": (whole, f"boundary={'x' * 3000}"),
        "a boundary of odd signs": (whole, 'boundary="\xff\x7f"'),
        "a boundary that ends nowhere": (whole, 'boundary="x'),
        "a header without a colon": (b"--x\r\nContent-Disposition\r\n\r\na\r\n--x--\r\n", "boundary=x"),
        "a header that is long": (
            b"--x\r\nContent-Disposition: form-data; name=a; a=" + b"b" * 20_000 + b"\r\n\r\na\r\n--x--\r\n",
            "boundary=x",
        ),
        "many headers": (b"--x\r\n" + b"a: b\r\n" * 500 + b"\r\na\r\n--x--\r\n", "boundary=x"),
        "many parts": (form(b"a")[:-7] * 300 + b"\r\n--x--\r\n", "boundary=x"),
        "many fields": (form(b"a", "form-data; name=a")[:-7] * 300 + b"\r\n--x--\r\n", "boundary=x"),
        "a form in a form": (form(form(b"a").replace(b"--x", b"--y")), "boundary=x"),
        "no name": (form(b"a", "form-data; filename=a.jpg"), "boundary=x"),
        "no disposition": (b"--x\r\nContent-Type: image/png\r\n\r\na\r\n--x--\r\n", "boundary=x"),
        "a text": (form(b"a", 'form-data; name="picture"'), "boundary=x"),
        "a large text": (form(b"a" * 1_100_000, 'form-data; name="picture"'), "boundary=x"),
        "ends alone": (b"--x--\r\n" * 3, "boundary=x"),
        "line ends of Unix": (whole.replace(b"\r\n", b"\n"), "boundary=x"),
        "noise": (noise(chance), "boundary=x"),
    }
    kind = chance.choice(sorted(broken))
    body, boundary = broken[kind]
    return Malformed(name=f"a form with {kind}", request=post(body, f"multipart/form-data; {boundary}"))


def wrong_kind(chance: random.Random) -> Malformed:
    kind = chance.choice(
        (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/mixed; boundary=x",
            "image/png",
            "application/jsonp",
            "application/json, text/html",
            "application/octet-stream",
            "",
            ";;;",
            "\xff\xfe/\xfd",
            "a" * 9_000,
            "application/xml",
        )
    )
    return Malformed(name=f"content type {kind[:40]!r}", request=post(form(noise(chance)), kind))


def no_base64(chance: random.Random) -> Malformed:
    text = chance.choice(
        (
            "?",
            "YQ=",
            "YQ===",
            "====",
            "Y",
            "data:image/png;base64",
            "data:text/html;base64,YQ==",
            "data:image/png,abc",
            "\u00e4\u00f6",
            "http://127.0.0.1/a.png",
            "file:///etc/passwd",
            "ftp://127.0.0.1/a",
            "/etc/passwd",
            "A" * 100_001,
            "\0",
            "-_-_",
        )
    )
    body = {"picture": text} if chance.random() < 0.5 else {"pictures": ["YQ==", text]}
    return Malformed(name=f"base64 {text[:30]!r}", request=post(json.dumps(body).encode(), "application/json"))


def odd_json(chance: random.Random) -> Malformed:
    deep = chance.randint(500, 200_000)
    body = chance.choice(
        (
            b"[" * deep,
            b'{"picture":' * deep,
            b"[" * deep + b"]" * deep,
            b'{"picture": ' + b"9" * 50_000 + b"}",
            b'{"picture": -' + b"9" * 4_000 + b"}",
            b'{"picture": 1e999}',
            b'{"picture": NaN}',
            b'{"pictures": [Infinity]}',
            b"NaN",
            b"null",
            b'""',
            b"",
            b"\xef\xbb\xbf{}",
            '{"picture": "YQ=="}'.encode("utf-16"),
            b'{"picture": "\xff\xfe"}',
            b'{"picture": "\\ud800"}',
            b'{"\\ud800": "a"}',
            b'{"picture": "\\u0000"}',
            b'{"picture": "YQ==", "picture": 7}',
            b'{"picture": "YQ=="} {"picture": "YQ=="}',
            b"{'picture': 'YQ=='}",
            b'{"pictures": "YQ=="}',
            b'{"pictures": [null]}',
            b'{"pictures": [[["YQ=="]]]}',
            b'{"pictures": {"0": "YQ=="}}',
            b'{"pictures": [' + b'"YQ==",' * 2_000 + b'"YQ=="]}',
            b'{"picture": true, "' + b"k" * 10_000 + b'": 1}',
        )
    )
    return Malformed(name=f"JSON {body[:30]!r}, {len(body)} bytes", request=post(body, "application/json"))
