"""An SVG document as what it draws, read with the standard library's expat."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple
from xml.parsers import expat

import numpy as np

from sketchguide.errors import SketchError, warn
from sketchguide.strokes import MAX_ASPECT, MAX_POINTS, Float, Points, Stroke, refuse
from sketchguide.svg.brushes import painted
from sketchguide.svg.css import Rules, cascaded
from sketchguide.svg.page import Page, is_paper
from sketchguide.svg.scanner import Box, Scanner, Size, diagonal
from sketchguide.svg.shapes import TRACERS, Pen, Shape
from sketchguide.svg.styles import WHITE, Colour, Style, paper_of
from sketchguide.svg.transforms import affine

_MAX_BYTES = 10_000_000
_SVG = "http://www.w3.org/2000/svg"
_MAX_DEPTH = 64
_MAX_MATCHES = 3_000_000
_GROUPS = frozenset({"svg", "g", "a", "switch"})
_DRAWN = _GROUPS | TRACERS.keys() | {"use"}
_UNSUPPORTED = frozenset({"image", "foreignObject"})
_OWN_BOXES = ("fill-box", "content-box", "stroke-box")
_AS_PNG = "Export the drawing as a PNG, which has it as it looks."
_MARKER = re.compile(r"marker(?:-\w+)?\s*:\s*(?!none)[^\s;]")
_WINDOW = re.compile(r"(?<=[\d.])v(?:w|h|min|max)$")  # as a percentage, a part of nobody knows what


class Read(NamedTuple):
    """What an SVG document draws: strokes in canvas units, what is painted (H, W), and the canvas's width / height."""

    strokes: tuple[Stroke, ...]
    painted: Float | None
    aspect: float


def read_svg(source: str | bytes) -> Read:
    """The visible lines and outlines of an SVG document; `Sketch.from_svg` says what is read and what is refused."""
    if len(source) > _MAX_BYTES:
        refuse(f"The SVG drawing is larger than the {_MAX_BYTES // 1_000_000} MB allowed.")
    encoding = None
    if isinstance(source, str):
        source, encoding = source.encode("utf-8", "surrogatepass"), "utf-8"
    reader = _Reader(encoding)
    reader.read(source)
    if reader.late:  # now that all rules and elements are known
        reader = _Reader(encoding, before=reader)
        reader.read(source)
    reader.refuse_pictures()
    page = Page.of(reader.shapes, canvas=reader.canvas, paper=reader.paper)
    for told in (*reader.told(), *page.told()):
        warn(told)
    return Read(page.strokes(reader.usual), painted(page.layers, page.aspect), reader.aspect or page.aspect)


class _Tag(NamedTuple):
    """The start of an element, or its end, which has no attributes."""

    name: str
    attributes: dict[str, str] | None


class _Reader:
    """What one SVG document draws. Expat reports to it: nothing is loaded or run, and clones count as what they show.

    `before` is the reader that went through the document once to see its style sheets and what clones may show.
    """

    def __init__(self, encoding: str | None, *, before: _Reader | None = None) -> None:
        self.parser = expat.ParserCreate(encoding, namespace_separator=" ")
        self.parser.StartDoctypeDeclHandler = self.on_doctype
        self.parser.StartElementHandler = self.on_start
        self.parser.EndElementHandler = self.on_end
        self.parser.CharacterDataHandler = self.on_text
        self.scan = Scanner(self.parser)
        self.stack: list[Style | None] = []  # None: inside something that is not drawn
        self.rules = Rules()
        self.open_switches: dict[int, bool] = {}  # by the depth of their children: whether one was chosen
        self.tags: list[_Tag] = []
        self.begun: list[int] = []  # which of the tags began what is open
        self.named: dict[str, slice] = {}  # the tags of the element with that id
        self.known = before is not None
        if before is not None:
            self.rules, self.tags, self.named = before.rules, before.tags, before.named
        self.late = False  # whether something came that what is not known yet may be for
        self.astray = 0  # clones of what the document does not have
        self.asked = 0  # how many elements have been styled
        self.matches = 0
        self.sheet: list[str] | None = None
        self.shapes: list[Shape] = []
        self.clip: str | None = None  # the one that is being read
        self.whole_clips: set[str] = set()  # those that hide nothing of the canvas
        self.whole_rects: set[str] = set()  # links to the rectangles that cover it
        self.arrows = 0
        self.known_clips: set[str] = set()
        self.measured = 0  # points of shapes that were traced to see where they lie
        self.turned = 0  # groups that are turned about a place in a box that nobody measures
        self.fill_links: set[str] = set()  # ids of what shapes are filled with
        self.paper: Colour = WHITE
        self.cut: list[str] = []  # clips and masks of what is drawn
        self.canvas: Box | None = None
        self.aspect: float | None = None  # of a canvas that is shown stretched
        self.usual = 0.0  # the width that is to be that of the map; 0: the drawing shows it
        self.points = 0
        self.texts = 0

    def read(self, source: bytes) -> None:
        try:
            with np.errstate(all="ignore"):
                self.parser.Parse(source, True)
        except SketchError:
            raise
        except (expat.ExpatError, LookupError, ValueError) as error:
            self.scan.refuse(f"this is not well-formed SVG ({error}).")

    # -- what expat reports

    def on_doctype(self, _name: str, _system: str | None, _public: str | None, has_subset: bool) -> None:
        if has_subset:  # entities may be in it; a bare DOCTYPE names a file, which nobody loads
            self.scan.refuse(
                "a DOCTYPE with declarations is not allowed.", hint="Delete its [...] part, or save as plain SVG."
            )

    def on_text(self, text: str) -> None:
        if self.sheet is not None:
            self.sheet.append(text)

    def on_start(self, tag: str, attributes: dict[str, str]) -> None:
        self.scan.count(1)
        if not self.known:
            self.begun.append(len(self.tags))
            self.tags.append(_Tag(tag, attributes))
        if len(self.stack) >= _MAX_DEPTH:
            self.scan.refuse(f"elements are nested more than {_MAX_DEPTH} deep.", hint="Ungroup the drawing first.")
        namespace, _, name = tag.rpartition(" ")
        hidden = bool(self.stack) and self.stack[-1] is None
        values = self.checked(name, attributes, loads=not hidden and name not in _UNSUPPORTED)
        if not self.stack:
            if name != "svg" or namespace not in ("", _SVG):
                self.scan.refuse(f"the outermost element is <{name[:40]}>, not <svg>.")
            self.stack.append(self.root(self.styled(name, values)))
            return
        parent = self.stack[-1]
        if name == "style" and not self.known:
            self.sheet = []
        if name == "clipPath":
            self.clip = values.get("id")
        elif name == "rect" and (self.clip is not None or "id" in values) and self.covers_canvas(values):
            self.whole_rects.add(f"#{values.get('id', '')}")
            if self.clip is not None:
                self.whole_clips.add(self.clip)
        elif self.clip is not None and (self.shows_whole(name, attributes) or self.goes_around(name, values)):
            self.whole_clips.add(self.clip)
        if parent is None or namespace not in ("", _SVG) or self.passed_over(name, values):
            self.stack.append(None)
            return
        if name in _UNSUPPORTED and self.inherited(parent, self.styled(name, values)) is not None:
            self.scan.refuse(f"<{name}> is not supported.", hint=_AS_PNG)
        self.texts += name == "text"
        style = None
        if name in _DRAWN:
            marked = any(key.startswith("marker") and value.strip() != "none" for key, value in values.items())
            marked = marked or _MARKER.search(values.get("style", "")) is not None
            values = self.styled(name, values)
            style = self.inherited(parent, values, box=self.own_box(name, values, parent))
            self.arrows += marked and style is not None
        if style is not None and name in TRACERS:
            self.shape(name, values, style)
            style = None
        if style is not None and name == "svg":
            style = self.nested(values, style)
        self.stack.append(style)
        if name == "switch":
            self.open_switches[len(self.stack)] = False
        if name == "use" and style is not None:
            self.clone(_link(attributes), values, style)

    def on_end(self, tag: str) -> None:
        if not self.known:
            begin = self.begun.pop()
            self.tags.append(_Tag(tag, None))
            if identity := (self.tags[begin].attributes or {}).get("id"):
                self.named.setdefault(identity, slice(begin, len(self.tags)))
        self.open_switches.pop(len(self.stack), None)
        self.stack.pop()
        name = tag.rpartition(" ")[2]
        if name == "clipPath":
            self.known_clips.add(self.clip or "")
            self.clip = None
        if name == "style" and self.sheet is not None:
            found = self.rules.read("".join(self.sheet), self.scan)
            asked = self.asked > 1  # beside the outermost
            self.late = self.late or any(asked or selector.tag == "svg" for selector in found)
            self.sheet = None

    def clone(self, link: str, values: Mapping[str, str], style: Style) -> None:
        """What a <use> shows, in its own style and place: as if it stood there."""
        if not self.known:
            self.late = True
            return
        shown = self.tags[self.named.get(link.removeprefix("#"), slice(0))]
        self.astray += not shown
        sides = {side: values[side] for side in ("width", "height") if side in values}
        x, y = self.scan.lengths(values, "x y", style.viewport)
        self.stack[-1] = replace(style, matrix=style.matrix @ affine(1, 0, 0, 1, x, y))
        for place, (tag, attributes) in enumerate(shown):
            namespace, space, name = tag.rpartition(" ")
            if place in (0, len(shown) - 1) and name in ("symbol", "svg"):
                tag = f"{namespace}{space}svg"
                attributes = None if attributes is None else attributes | sides
            if attributes is None:
                self.on_end(tag)
            else:
                self.on_start(tag, attributes)

    def passed_over(self, name: str, values: dict[str, str]) -> bool:
        """Whether a <switch> does not show this child: it shows the first that it can, in whatever language."""
        chosen = self.open_switches.get(len(self.stack))
        if chosen is None:
            return False
        fit = not chosen and name in _DRAWN and not values.get("requiredExtensions")
        self.open_switches[len(self.stack)] = chosen or fit
        return not fit

    # -- attributes

    def checked(self, name: str, attributes: dict[str, str], *, loads: bool) -> dict[str, str]:
        """The attributes by local name; anything that could run is refused, and with `loads` what could load."""
        if name == "script":
            self.scan.refuse("scripts are not allowed.", hint="Save as plain SVG.")
        values: dict[str, str] = {}
        for key, value in attributes.items():
            namespace, _, local = key.rpartition(" ")
            if not namespace and local.lower().startswith("on"):
                self.scan.refuse(f"the event handler {local[:40]!r} is not allowed.", hint="Save as plain SVG.")
            if local == "href" and loads and name != "a" and not value.strip().startswith(("#", "data:")):
                self.scan.refuse(f"a link to {value[:60]!r} is not allowed.", hint="Embed or remove what it points to.")
            if not namespace:
                values[local] = value
        return values

    def styled(self, name: str, values: dict[str, str]) -> dict[str, str]:
        """The attributes with all that style sheets and the style attribute say."""
        self.asked += 1
        near = self.rules.near(name, values)
        self.matches += len(near)
        if self.matches > _MAX_MATCHES:
            self.scan.refuse("its style sheets have too many rules for as many shapes.", hint="Save as plain SVG.")
        return cascaded(name, values, near)

    def inherited(self, parent: Style, values: Mapping[str, str], *, box: Box | None = None) -> Style | None:
        """The element's own style, turned and scaled about a place in `box` if there is one; None when it is not to be
        seen."""
        style = parent.painted(values)
        if style is None:
            return None
        self.cut += (values[name] for name in ("clip-path", "mask") if values.get(name, "none").strip() != "none")
        width = values.get("stroke-width", "").strip().lower()
        if width == "initial":
            style = replace(style, width=1.0)
        elif width[:1] in set("0123456789.+-"):  # others, such as var(), are of who knows what: as inherited
            style = replace(style, width=self.scan.length(_WINDOW.sub("%", width), diagonal(parent.viewport)))
        if "data-weight" in values:
            weight = self.scan.length(values["data-weight"], 1.0)
            if not 0 <= weight <= 1000:
                self.scan.refuse(f"data-weight is {values['data-weight'][:40]!r}; it must be 0 to 1000.")
            style = replace(style, weight=weight)
        if "transform" in values:
            step = self.scan.transform(values["transform"])
            if box is not None or "transform-origin" in values or not self.stack:
                origin = values.get("transform-origin", "" if box is None else "0 0")
                x, y = self.scan.origin(origin, parent.viewport if box is None else box[2:])
                if box is not None:
                    x, y = x + box[0], y + box[1]
                if not self.stack and self.canvas is not None:  # a page is turned about its middle, as browsers do
                    x, y = x + self.canvas[0], y + self.canvas[1]
                step = affine(1, 0, 0, 1, x, y) @ step @ affine(1, 0, 0, 1, -x, -y)
            style = replace(style, matrix=style.matrix @ step)
        return style

    # -- the canvas

    def root(self, values: Mapping[str, str]) -> Style | None:
        sides: list[float] = []
        for side in ("width", "height"):
            text = _WINDOW.sub("%", values.get(side, "auto").strip())
            if text not in ("auto", ""):
                pixels = self.scan.length(text, 100.0)
                self.scan.check_side(pixels)
                if not text.endswith("%"):
                    sides.append(pixels)
        if "data-usual-width" in values:
            self.usual = self.scan.length(values["data-usual-width"], 0.0)
        if "viewBox" in values:
            self.canvas = self.scan.box(values["viewBox"])
        elif len(sides) == 2:
            self.canvas = (0.0, 0.0, sides[0], sides[1])
        if self.canvas is not None:
            width, height = self.canvas[2:]
            if len(sides) == 2 and values.get("preserveAspectRatio", "").strip() == "none":
                width, height = sides
                self.aspect = width / height
            if not 1 / MAX_ASPECT <= width / height <= MAX_ASPECT:
                self.scan.refuse(f"the canvas is {width:g} × {height:g}; at most 1:{MAX_ASPECT:g} is allowed.")
        if (paper := paper_of(values)) is not None:
            self.paper = paper
        viewport = (100.0, 100.0) if self.canvas is None else self.canvas[2:]
        return self.inherited(Style(matrix=np.eye(3), viewport=viewport), values)

    def nested(self, values: Mapping[str, str], style: Style) -> Style:
        """An inner svg: its viewBox is fitted into its own rectangle, as `preserveAspectRatio` says."""
        outer = style.viewport
        sized = {"width": "100%", "height": "100%"} | dict(values)
        x, y, width, height = self.scan.lengths(sized, "x y width height", outer)
        self.scan.check_side(width)
        self.scan.check_side(height)
        if "viewBox" not in values:
            return replace(style, matrix=style.matrix @ affine(1, 0, 0, 1, x, y), viewport=(width, height))
        left, top, inner_width, inner_height = self.scan.box(values["viewBox"])
        across, down = width / inner_width, height / inner_height
        align, _, rest = values.get("preserveAspectRatio", "xMidYMid").strip().partition(" ")
        if align != "none":
            across = down = max(across, down) if rest.strip() == "slice" else min(across, down)
        shares = {"Min": 0.0, "Max": 1.0}
        x += (width - across * inner_width) * shares.get(align[1:4], 0.5) - across * left
        y += (height - down * inner_height) * shares.get(align[5:8], 0.5) - down * top
        matrix = style.matrix @ affine(across, 0, 0, down, x, y)
        return replace(style, matrix=matrix, viewport=(inner_width, inner_height))

    # -- shapes

    def shape(self, name: str, values: Mapping[str, str], style: Style) -> None:
        lined = style.lined and style.line_seen and style.width > 0
        if not style.visible or not (lined or (style.filled and style.fill_seen)):
            return
        tolerance = None if self.canvas is None else max(self.canvas[2:]) / 1500
        pen = Pen(style.matrix, tolerance=tolerance, room=MAX_POINTS - self.points, refuse=self.scan.refuse)
        TRACERS[name](values, style.viewport, pen, self.scan)
        pen.endPath()
        self.points += sum(len(points) for points, _ in pen.paths)
        if style.filled and style.fill_seen and style.fill_link:
            self.fill_links.add(style.fill_link)
        scale = math.sqrt(abs(float(np.linalg.det(style.matrix[:2, :2]))))
        shape = Shape(
            paths=tuple((points, closed or not lined) for points, closed in pen.paths),
            width=style.width * scale if lined else None,
            weight=style.weight,
            line_colour=style.line_colour if lined and style.line_solid and not style.clear else None,
            fill_colour=style.fill_colour if style.filled and style.fill_solid and not style.clear else None,
            even_odd=style.even_odd,
            whole=self.canvas is None and name == "rect" and self.fills(values),
        )
        if shape.paths:
            self.shapes.append(shape)

    def fills(self, values: Mapping[str, str]) -> bool:
        """Whether a rectangle is as wide and high as the page, however large that is."""
        sides = [values.get(side, "").strip() for side in ("width", "height")]
        return all(side.endswith("%") and self.scan.length(side, 1.0) >= 1 for side in sides)

    def covers_canvas(self, values: Mapping[str, str]) -> bool:
        """Whether a rectangle that is not transformed hides nothing of the canvas."""
        if self.canvas is None or "transform" in values:
            return False
        left, top, width, height = self.canvas
        try:
            x, y, across, down = self.scan.lengths(values, "x y width height", (width, height))
        except SketchError:
            return False  # it may not be drawn at all
        return x <= left and y <= top and x + across >= left + width and y + down >= top + height

    def goes_around(self, name: str, values: Mapping[str, str]) -> bool:
        """Whether an outline that is not transformed has the whole canvas in it."""
        if name not in ("path", "polygon") or self.canvas is None or "transform" in values:
            return False
        if self.clip in self.known_clips:  # a clone shows it again
            return False
        left, top, width, height = self.canvas
        try:
            traced = self.traced(name, values, (width, height))
        except SketchError:
            return False  # it may not be drawn at all
        return bool(traced) and all(is_paper((points - (left, top)) / (width, height)) for points in traced)

    def own_box(self, name: str, values: Mapping[str, str], parent: Style) -> Box | None:
        """The box around a shape, if it is seen, that is transformed about a place in it, `transform-box: fill-box`."""
        if values.get("transform-box", "").strip().lower() not in _OWN_BOXES or "transform" not in values:
            return None
        if parent.painted(values) is None:
            return None
        if name not in TRACERS:  # nobody has measured it
            self.turned += not np.allclose(self.scan.transform(values["transform"])[:2, :2], np.eye(2))
            return None
        points = np.concatenate([*self.traced(name, values, parent.viewport), np.empty((0, 2))])
        if not len(points):
            return None
        (left, top), (width, height) = points.min(axis=0).tolist(), np.ptp(points, axis=0).tolist()
        return left, top, width, height

    def traced(self, name: str, values: Mapping[str, str], viewport: Size) -> list[Points]:
        """The outlines of a shape, untransformed."""
        pen = Pen(np.eye(3), tolerance=None, room=MAX_POINTS - self.measured, refuse=self.scan.refuse)
        TRACERS[name](values, viewport, pen, self.scan)
        pen.endPath()
        self.measured += sum(len(points) for points, _ in pen.paths)
        return [points for points, _ in pen.paths]

    def refuse_pictures(self) -> None:
        """SketchError where a shape is filled with a picture, which would be the drawing."""
        links = list(self.fill_links)
        for link in links:
            for tag in self.tags[self.named.get(link, slice(0))]:
                if _local(tag) == "image":
                    refuse(
                        "The SVG drawing has a shape that is filled with a picture, which is not read.", hint=_AS_PNG
                    )
                further = _link(tag.attributes or {}).removeprefix("#")  # a clone, or a pattern that has its content
                if further and further not in links:
                    links.append(further)

    def shows_whole(self, name: str, clone: Mapping[str, str]) -> bool:
        """Whether a <use> shows a rectangle that covers the canvas where it stands, as Illustrator writes it."""
        return name == "use" and _link(clone) in self.whole_rects and clone.keys().isdisjoint(("transform", "x", "y"))

    def told(self) -> Iterator[str]:
        """What of the document is not drawn."""
        if self.texts:
            yield f"{self.texts} text element(s) of the SVG drawing are not drawn."
        if self.arrows:
            yield f"{self.arrows} line(s) of the SVG drawing have arrowheads or other markers, which are not drawn."
        if self.turned:
            yield (
                f"{self.turned} group(s) of the SVG drawing are transformed about a place in their own box, and may "
                "lie elsewhere. A PNG of the drawing has it as it looks."
            )
        if self.astray:
            yield f"{self.astray} clone(s) of the SVG drawing show what is not in it."
        if self.rules.unread:
            yield (
                f"{len(self.rules.unread)} style rule(s) of the SVG drawing are not read, such as that for "
                f"{self.rules.unread[0][:40]!r}: only those for tags, classes and ids are."
            )
        cut = [name for name in self.cut if name.strip()[5:-1].strip("\"'") not in self.whole_clips]
        if cut:
            yield (
                f"{len(cut)} clip(s) or mask(s) of the SVG drawing are not applied: what they hide is drawn. "
                "A PNG of the drawing has it as it looks."
            )


def _local(tag: _Tag) -> str:
    return tag.name.rpartition(" ")[2]


def _link(attributes: Mapping[str, str]) -> str:
    return next((value.strip() for key, value in attributes.items() if key.rpartition(" ")[2] == "href"), "")
