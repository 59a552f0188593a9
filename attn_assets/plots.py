"""Pictures for the Dagster UI, drawn with NumPy alone: the map by zone, the zones hour by hour, reliability.

PNG; the zones' colours are the explorer's.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from attn_core.zones import ZONES

COLOURS = np.array(
    [[0x00, 0x72, 0xB2], [0x00, 0xA8, 0x78], [0xE0, 0x96, 0x00], [0xD5, 0x5E, 0x00], [0xA8, 0x41, 0x7F]],
    dtype=np.float64,
)
"""Of the zones, in their order."""
WIDTH, HEIGHT = 480, 320
_PAPER = 255.0
U8 = npt.NDArray[np.uint8]


def map_png(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], zone_index: npt.NDArray[np.int8]) -> bytes:
    """The map as a density of coloured points: a pixel's colour is its points' mean, its ink grows with log n."""
    counts = np.zeros((HEIGHT, WIDTH, len(ZONES)))
    if len(x):
        column = _scaled(x, WIDTH)
        row = HEIGHT - 1 - _scaled(y, HEIGHT)
        np.add.at(counts, (row, column, zone_index.astype(np.int64)), 1.0)
    total = counts.sum(axis=2)
    ink = np.where(total > 0, 0.35 + 0.65 * np.log1p(total) / np.log1p(max(total.max(), 1.0)), 0.0)
    colour = counts @ COLOURS / np.maximum(total, 1.0)[:, :, None]
    return png((_PAPER * (1 - ink[:, :, None]) + colour * ink[:, :, None]).astype(np.uint8))


def zones_png(counts: npt.NDArray[np.int64]) -> bytes:
    """Shares of the zones as stacked bars, an hour a bar: int64 [hours, 5]; an hour without rows stays white."""
    picture = np.full((HEIGHT // 2, WIDTH, 3), _PAPER)
    num_hours = max(len(counts), 1)
    edges = np.linspace(0, WIDTH, num_hours + 1).round().astype(int)
    for hour, row in enumerate(counts):
        if not row.sum():
            continue
        tops = np.append(0, np.cumsum(row) / row.sum() * len(picture)).round().astype(int)
        for zone, colour in enumerate(COLOURS):
            # One pixel of paper between two bars.
            picture[tops[zone] : tops[zone + 1], edges[hour] : max(edges[hour + 1] - 1, edges[hour] + 1)] = colour
    return png(picture[::-1].astype(np.uint8))


def reliability_png(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Confidence (across) against what came true (up), 0..1 each, a square a bin, larger the more tokens it holds."""
    size = HEIGHT
    picture = np.full((size, size, 3), _PAPER)
    along = np.arange(size)
    picture[size - 1 - along, along] = 180.0  # where confidence is right
    for row in rows:
        x, y = (round(row[name] * (size - 1)) for name in ("confidence", "correct"))
        half = 2 + round(10 * row["share"] ** 0.5)
        top = size - 1 - y
        picture[max(top - half, 0) : top + half + 1, max(x - half, 0) : x + half + 1] = COLOURS[0]
    return png(picture.astype(np.uint8))


def png(pixels: U8) -> bytes:
    """An RGB picture uint8 [height, width, 3] as a PNG file (ISO 15948): one IDAT chunk, no filter."""
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), dtype=np.uint8)
    lines[:, 1:] = pixels.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _scaled(values: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.int64]:
    low, high = np.quantile(values, [0.001, 0.999])
    share = (values.astype(np.float64) - low) / max(float(high - low), 1e-12)
    return np.asarray(np.clip(share * (size - 1), 0, size - 1), dtype=np.int64)
