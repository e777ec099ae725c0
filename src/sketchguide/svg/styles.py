"""Paint: the style that an element hands down, colours and opacities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from PIL import ImageColor

from sketchguide.svg.scanner import MAX_TEXT, NUMBER, Size
from sketchguide.svg.transforms import Matrix

_OPACITY = re.compile(rf"\s*({NUMBER.pattern})\s*(%?)\s*")
_SHARE = r"((?:\d++\.?\d*+|\.\d++)%?+)"
_RGB = re.compile(rf"rgba?\(\s*+{_SHARE}[\s,]++{_SHARE}[\s,]++{_SHARE}\s*+(?:[,/][^)]*+)?\)")
_WIDE_RGB = re.compile(rf"color\(\s*+[\w-]++\s++{_SHARE}\s++{_SHARE}\s++{_SHARE}\s*+(?:/[^)]*+)?\)")
_SEE_THROUGH = re.compile(
    r"none|transparent|#[0-9a-f]{3}0|#[0-9a-f]{6}00"
    r"|(?:(?:rgb|hsl)a?|color)\((?:(?:[^(),/]*,){3}|[^(),/]*/)\s*(?:0++(?:\.0*+)?|\.0++)%?\s*\)"
)
_LINK = re.compile(r"""url\(\s*["']?#([^"')]+)""")
_SOLID = 0.95  # of opacity: more looks like all of it

Colour = tuple[int, ...]
WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class Style:
    """What an element hands down to those inside it."""

    matrix: Matrix
    viewport: Size
    lined: bool = False
    filled: bool = True
    line_colour: Colour | None = None
    fill_colour: Colour | None = (0, 0, 0)
    even_odd: bool = False
    line_seen: bool = True
    fill_seen: bool = True
    clear: bool = False  # it all shines through, and what does has no colour of its own
    line_solid: bool = True
    fill_solid: bool = True
    fill_link: str = ""  # the id of what it is filled with, such as a gradient
    visible: bool = True
    width: float = 1.0
    weight: float = 1.0

    def painted(self, values: Mapping[str, str]) -> Style | None:
        """The style of an element inside, as far as paint goes; None when it is not to be seen."""
        if values.get("display", "").strip().lower() == "none":
            return None
        opacity = _opacity(values.get("opacity", ""))
        if opacity is not None and opacity <= 0:
            return None
        style = replace(self, clear=True) if opacity is not None and opacity < _SOLID else self
        if values.get("visibility", "inherit") != "inherit":
            style = replace(style, visible=values["visibility"].strip().lower() == "visible")
        if (opacity := _opacity(values.get("stroke-opacity", ""))) is not None:
            style = replace(style, line_seen=opacity > 0, line_solid=opacity >= _SOLID)
        if (opacity := _opacity(values.get("fill-opacity", ""))) is not None:
            style = replace(style, fill_seen=opacity > 0, fill_solid=opacity >= _SOLID)
        if values.get("stroke", "inherit") != "inherit":
            line = values["stroke"].strip().lower()
            style = replace(style, lined=not _SEE_THROUGH.fullmatch(line), line_colour=_colour(line))
        if values.get("fill", "inherit") != "inherit":
            fill = values["fill"].strip().lower()
            linked = _LINK.match(values["fill"].strip())
            style = replace(style, filled=not _SEE_THROUGH.fullmatch(fill), fill_colour=_colour(fill))
            style = replace(style, fill_link="" if linked is None else linked[1])
        if values.get("fill-rule", "inherit") != "inherit":
            style = replace(style, even_odd=values["fill-rule"].strip().lower() == "evenodd")
        return style


def paper_of(values: Mapping[str, str]) -> Colour | None:
    """The colour that a page gives itself; None where it gives none that is plain and hides all."""
    text = values.get("background-color", values.get("background", "")).strip().lower()
    return None if _SEE_THROUGH.fullmatch(text) else _colour(text)


def _opacity(text: str) -> float | None:
    """None for what is no opacity: browsers pass it over."""
    match = _OPACITY.fullmatch(text[:MAX_TEXT])
    return None if match is None else float(match[1]) / (100 if match[2] else 1)


def _alpha(text: str) -> float:
    """The opacity that a colour says it has; 1 where it says nothing."""
    if match := re.fullmatch(r"#(?:[0-9a-f]{3}([0-9a-f])|[0-9a-f]{6}([0-9a-f]{2}))", text):
        return int(match[1] * 2 if match[1] else match[2], 16) / 255
    parts = re.split(r"[\s,/]+", text.removesuffix(")").partition("(")[2].strip())
    said = parts[-1] if len(parts) == 4 + text.startswith("color(") else ""
    return 1.0 if (alpha := _opacity(said)) is None else alpha


def _colour(text: str) -> Colour | None:
    """Red, green and blue, 0 to 255; None for what is no plain colour, such as a gradient, or shines through."""
    if _alpha(text) < _SOLID:
        return None
    for notation, whole in ((_RGB, 1.0), (_WIDE_RGB, 255.0)):  # Pillow reads whole numbers and commas only
        if match := notation.fullmatch(text):
            parts = [(float(part.removesuffix("%")), part.endswith("%")) for part in match.groups()]
            return tuple(round(min(max(number * (2.55 if share else whole), 0), 255)) for number, share in parts)
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        return None
