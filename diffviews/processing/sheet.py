"""A printed page of pictures, shapes and words in millimetres, written as SVG or PNG."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image, ImageColor, ImageDraw

from diffviews.errors import ConfigError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

MM_PER_INCH = 25.4
PT = MM_PER_INCH / 72
"""A typographic point in millimetres."""

LARGEST_SIDE = 12_000
"""Pixels a side of a PNG."""

_FINER = 2
"""Shapes and words of a PNG are drawn so many times larger and averaged down: smooth edges."""
_FONTS = "Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in a box; x and y are its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    png: bytes
    sharp: bool = False
    """Whether its pixels are to be seen."""


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle; x and y are its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    fill: str


@dataclass(frozen=True, slots=True)
class Circle:
    """A disc or a ring around a place."""

    x: float
    y: float
    radius: float
    fill: str | None = None
    stroke: str | None = None
    width: float = 0.0
    opacity: float = 1.0
    free: bool = False
    """Whether it is seen outside the sheet's clip as well."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line through places."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float
    dashed: bool = False
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Words:
    """A line of text; y is its middle."""

    x: float
    y: float
    text: str
    size: float
    """Height of the letters' body."""
    colour: str
    bold: bool = False
    anchor: Literal["start", "middle", "end"] = "start"
    halo: str | None = None
    """Colour around the letters, so that they can be read on anything."""


Item = Picture | Box | Circle | Line | Words


@dataclass(frozen=True, slots=True)
class Sheet:
    """A page; later items lie above earlier ones, shapes and words above pictures and boxes."""

    width: float
    height: float
    items: tuple[Item, ...]
    title: str = ""
    """What the file calls itself."""
    paper: str = "#ffffff"
    clip: tuple[float, float, float, float] | None = None
    """(x, y, width, height) outside which rings and lines are cut off; words are not."""


def sheet_svg(sheet: Sheet) -> bytes:
    """Return a sheet as an SVG file: words and shapes as such, pictures within; it asks for nothing else."""
    root = ElementTree.Element("svg", {
        "xmlns": "http://www.w3.org/2000/svg", "width": f"{_n(sheet.width)}mm", "height": f"{_n(sheet.height)}mm",
        "viewBox": f"0 0 {_n(sheet.width)} {_n(sheet.height)}", "font-family": _FONTS,
    })  # fmt: skip
    if sheet.title:
        ElementTree.SubElement(root, "title").text = _text(sheet.title)
    _rectangle(root, Box(0, 0, sheet.width, sheet.height, sheet.paper))
    cut: dict[str, str] = {}
    if sheet.clip is not None:
        shape = ElementTree.SubElement(ElementTree.SubElement(root, "defs"), "clipPath", {"id": "cut"})
        _rectangle(shape, Box(*sheet.clip, "#000000"))
        cut = {"clip-path": "url(#cut)"}
    for layer, attributes in zip(_layers(sheet), ({}, cut, {}), strict=True):
        group = ElementTree.SubElement(root, "g", attributes)
        for item in layer:
            _write(group, item)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def sheet_png(sheet: Sheet, dpi: int = 300) -> bytes:
    """Return a sheet as a PNG file that knows its resolution.

    Raises:
        ConfigError: if it would have more than `LARGEST_SIDE` pixels a side.
    """
    scale = dpi / MM_PER_INCH
    size = round(sheet.width * scale), round(sheet.height * scale)
    if not 0 < max(size) <= LARGEST_SIDE or min(size) < 1:
        raise ConfigError(f"a picture of {size[0]}×{size[1]} pixels is not possible; its sides are 1 to {LARGEST_SIDE}")
    page = Image.new("RGBA", size, sheet.paper)
    below, inside, free = _layers(sheet)
    for item in below:
        _paste(page, item, scale)
    page.alpha_composite(_cut(_drawn(inside, size, scale), sheet.clip, scale))
    page.alpha_composite(_drawn(free, size, scale))
    stream = io.BytesIO()
    page.convert("RGB").save(stream, "PNG", dpi=(dpi, dpi))
    return stream.getvalue()


def _layers(sheet: Sheet) -> tuple[list[Item], list[Item], list[Item]]:
    """Return pictures and boxes, what is cut off at the clip, and what is not."""
    layers: tuple[list[Item], list[Item], list[Item]] = ([], [], [])
    for item in sheet.items:
        free = isinstance(item, Words) or (isinstance(item, Circle) and item.free)
        layers[0 if isinstance(item, Picture | Box) else 2 if free else 1].append(item)
    return layers


# -- SVG -----------------------------------------------------------------------------------


def _write(parent: ElementTree.Element, item: Item) -> None:
    if isinstance(item, Picture):
        ElementTree.SubElement(parent, "image", {
            **_corner(item), "preserveAspectRatio": "none",
            "href": "data:image/png;base64," + base64.b64encode(item.png).decode(),
            **({"style": "image-rendering:pixelated"} if item.sharp else {}),
        })  # fmt: skip
    elif isinstance(item, Box):
        _rectangle(parent, item)
    elif isinstance(item, Circle):
        ElementTree.SubElement(parent, "circle", {
            "cx": _n(item.x), "cy": _n(item.y), "r": _n(item.radius), "fill": item.fill or "none",
            "stroke": item.stroke or "none", "stroke-width": _n(item.width), "opacity": _n(item.opacity),
        })  # fmt: skip
    elif isinstance(item, Line):
        ElementTree.SubElement(parent, "polyline", {
            "points": " ".join(f"{_n(x)},{_n(y)}" for x, y in item.points), "fill": "none", "stroke": item.colour,
            "stroke-width": _n(item.width), "stroke-linejoin": "round", "stroke-linecap": "round",
            "opacity": _n(item.opacity),
            **({"stroke-dasharray": f"{_n(3 * item.width)} {_n(3 * item.width)}"} if item.dashed else {}),
        })  # fmt: skip
    else:
        halo = {"stroke": item.halo, "stroke-width": _n(item.size * 0.22), "paint-order": "stroke"} if item.halo else {}
        written = ElementTree.SubElement(parent, "text", {
            "x": _n(item.x), "y": _n(item.y), "font-size": _n(item.size), "fill": item.colour,
            "text-anchor": item.anchor, "dominant-baseline": "central",
            "font-weight": "bold" if item.bold else "normal", "stroke-linejoin": "round", **halo,
        })  # fmt: skip
        written.text = _text(item.text)


def _rectangle(parent: ElementTree.Element, box: Box) -> None:
    ElementTree.SubElement(parent, "rect", {**_corner(box), "fill": box.fill})


def _corner(box: Box | Picture) -> dict[str, str]:
    return {"x": _n(box.x), "y": _n(box.y), "width": _n(box.width), "height": _n(box.height)}


def _n(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _text(text: str) -> str:
    """Return a text without the characters that no XML file may hold."""
    return _NO_XML.sub("\ufffd", text)


# -- PNG -----------------------------------------------------------------------------------


def _paste(page: Image.Image, item: Item, scale: float) -> None:
    if not isinstance(item, Picture | Box):
        return
    left, top = round(item.x * scale), round(item.y * scale)
    size = max(round(item.width * scale), 1), max(round(item.height * scale), 1)
    if isinstance(item, Box):
        page.alpha_composite(Image.new("RGBA", size, item.fill), (max(left, 0), max(top, 0)))
        return
    with Image.open(io.BytesIO(item.png)) as opened:
        picture = opened.convert("RGBA")
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.NEAREST if item.sharp else Image.Resampling.LANCZOS)
    corner = max(-left, 0), max(-top, 0)
    page.alpha_composite(picture, (max(left, 0), max(top, 0)), (*corner, *size))


def _drawn(items: Sequence[Item], size: tuple[int, int], scale: float) -> Image.Image:
    """Return shapes or words on a see-through page."""
    fine = Image.new("RGBA", (size[0] * _FINER, size[1] * _FINER))
    fonts: dict[tuple[int, bool], FreeTypeFont] = {}
    for item in items:
        _draw(fine, item, scale * _FINER, fonts)
    return fine.resize(size, Image.Resampling.BOX)


def _cut(layer: Image.Image, clip: tuple[float, float, float, float] | None, scale: float) -> Image.Image:
    if clip is None:
        return layer
    x, y, width, height = (round(value * scale) for value in clip)
    inside = Image.new("RGBA", layer.size)
    inside.paste(layer.crop((x, y, x + width, y + height)), (x, y))
    return inside


def _draw(page: Image.Image, item: Item, scale: float, fonts: "dict[tuple[int, bool], FreeTypeFont]") -> None:
    draw = ImageDraw.Draw(page)
    if isinstance(item, Circle):
        reach = item.radius + item.width / 2
        box = [(v * scale) for v in (item.x - reach, item.y - reach, item.x + reach, item.y + reach)]
        if item.stroke or item.fill:
            fill, stroke = _colour(item.fill, item.opacity), _colour(item.stroke, item.opacity)
            draw.ellipse(box, fill=fill, outline=stroke, width=max(round(item.width * scale), 1) if stroke else 0)
    elif isinstance(item, Line):
        for start, end in _strokes(item):
            ends = [(start[0] * scale, start[1] * scale), (end[0] * scale, end[1] * scale)]
            draw.line(ends, fill=_colour(item.colour, item.opacity), width=max(round(item.width * scale), 1))
    elif isinstance(item, Words):
        key = max(round(item.size * scale), 1), item.bold
        font = fonts.setdefault(key, _font(*key)) if key not in fonts else fonts[key]
        anchor = {"start": "lm", "middle": "mm", "end": "rm"}[item.anchor]
        halo = {"stroke_width": round(item.size * scale * 0.11), "stroke_fill": item.halo} if item.halo else {}
        text = " ".join(_text(item.text).split())
        draw.text((item.x * scale, item.y * scale), text, item.colour, font, anchor, **halo)  # type: ignore[arg-type]


def _strokes(line: Line) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return a line as the stretches that are drawn."""
    whole = list(zip(line.points[:-1], line.points[1:], strict=True))
    if not line.dashed:
        return whole
    dash, drawn = 3 * line.width, []
    for (x0, y0), (x1, y1) in whole:
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        for start in range(0, int(length / dash) + 1, 2):
            a, b = (min(t * dash / length, 1.0) if length else 0.0 for t in (start, start + 1))
            drawn.append(((x0 + a * (x1 - x0), y0 + a * (y1 - y0)), (x0 + b * (x1 - x0), y0 + b * (y1 - y0))))
    return drawn


def _colour(colour: str | None, opacity: float) -> tuple[int, ...] | None:
    return None if colour is None else (*ImageColor.getrgb(colour)[:3], round(255 * opacity))


def _font(size: int, bold: bool) -> "FreeTypeFont":
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
