"""SVG drawings as strokes: the outlines of their shapes, read with the standard library's expat."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from sketchguide.errors import SketchError, warn
from sketchguide.images import MIN_SIDE
from sketchguide.lines import Mask, covered, distance_to
from sketchguide.strokes import (
    LINE_WIDTH,
    MAX_ASPECT,
    MAX_COORDINATE,
    MAX_POINTS,
    Float,
    Points,
    Stroke,
    fitted,
    in_reach,
    refuse,
)

_MAX_BYTES = 10_000_000
_SVG = "http://www.w3.org/2000/svg"
_MAX_DEPTH = 64
_MAX_ELEMENTS = 100_000
_MAX_MATCHES = 3_000_000
_MAX_LIST = 3_000_000
_MAX_TEXT = 5_000
_MAX_NUMBER = 1e9
_MAX_CANVAS = 1e6
_QUARTER = 4 / 3 * (math.sqrt(2) - 1)  # where the control points of a cubic Bézier quarter circle lie
_GROUPS = frozenset({"svg", "g", "a", "switch"})
_SHAPES = frozenset({"path", "line", "polyline", "polygon", "rect", "circle", "ellipse"})
_DRAWN = _GROUPS | _SHAPES | {"use"}
_UNSUPPORTED = frozenset({"image", "foreignObject"})
_PROPERTIES = frozenset(
    {
        "stroke",
        "stroke-width",
        "stroke-opacity",
        "fill",
        "fill-opacity",
        "fill-rule",
        "clip-path",
        "mask",
        "display",
        "visibility",
        "opacity",
        "transform",
        "transform-origin",
    }
)

_NUMBER = re.compile(r"[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?+")
_LENGTH = re.compile(rf"\s*({_NUMBER.pattern})\s*([a-zA-Z%]*)\s*")
_TRANSFORM = re.compile(r"([a-zA-Z]+) ?\(([^()]*)\)")
_COMMAND = re.compile(r"([MmZzLlHhVvCcSsQqTtAa])")
_VALUE = f"({_NUMBER.pattern})"
_ARC = re.compile(r"[\s,]*+".join(["", *[_VALUE] * 3, "([01])", "([01])", *[_VALUE] * 2]))
_AT_RULE = re.compile(
    r"""@(?:url\([^()"']*+\)|"[^"]*+"|'[^']*+'|[^{};@"'])*+(?:;|\{(?:[^{}]*+\{[^{}]*+\})*+[^{}]*+\})"""
)
_SELECTOR = re.compile(r"(\*|[a-zA-Z][\w-]*)?((?:[.#][\w-]+)*)")
_OPACITY = re.compile(rf"\s*({_NUMBER.pattern})\s*(%?)\s*")
_MARKER = re.compile(r"marker(?:-\w+)?\s*:\s*(?!none)[^\s;]")
_UNIT = re.compile(r"(?<=[\d.])(?:px|deg)\b")
_SHARE = r"((?:\d++\.?\d*+|\.\d++)%?+)"
_RGB = re.compile(rf"rgba?\(\s*+{_SHARE}[\s,]++{_SHARE}[\s,]++{_SHARE}\s*+(?:[,/][^)]*+)?\)")
_WIDE_RGB = re.compile(rf"color\(\s*+[\w-]++\s++{_SHARE}\s++{_SHARE}\s++{_SHARE}\s*+(?:/[^)]*+)?\)")
_SEE_THROUGH = re.compile(
    r"none|transparent|#[0-9a-f]{3}0|#[0-9a-f]{6}00"
    r"|(?:(?:rgb|hsl)a?|color)\((?:(?:[^(),/]*,){3}|[^(),/]*/)\s*(?:0++(?:\.0*+)?|\.0++)%?\s*\)"
)
_ORIGINS = {"left": "0%", "top": "0%", "center": "50%", "right": "100%", "bottom": "100%"}
_METRIC = {"cm": 96 / 2.54, "mm": 9.6 / 2.54, "q": 2.4 / 2.54}
_OF_FONT = {"em": 16.0, "rem": 16.0, "ex": 8.0, "ch": 8.0}
_UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "in": 96.0, **_METRIC, **_OF_FONT}
_WINDOW = re.compile(r"(?<=[\d.])v(?:w|h|min|max)$")  # as a percentage, a part of nobody knows what

_WHOLE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
_PAINTED_SIDE = 1024
_PAINTED_PAGES = 50.0
_MAX_NESTED = 32  # outlines of one mark of a brush
_SOLID = 0.95  # of opacity: more looks like all of it
_MOST_OF_IT = 0.95  # of the canvas is enclosed by its paper
_HIDING_SIDE, _EDGE = 256, 3  # the grid on which shapes hide others, and cells along their edges that hide nothing
_MOST_HIDING = 200  # filled shapes of a drawing of which that is looked for

Colour = tuple[int, ...]
Matrix = NDArray[np.float64]
Point = tuple[float, float]
Size = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, width, height


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
    page = _Page.of(reader.shapes, canvas=reader.canvas)
    for told in (*reader.told(), *page.told()):
        warn(told)
    return Read(page.strokes(reader.usual), page.painted(), reader.aspect or page.aspect)


@dataclass(frozen=True, kw_only=True)
class _Style:
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
    line_solid: bool = True  # what shines through has no colour of its own
    fill_solid: bool = True
    visible: bool = True
    width: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True)
class _Selector:
    """What a rule of a style sheet is for: a tag, classes and an id, each of which may be left out."""

    tag: str
    classes: frozenset[str]
    identity: str

    @property
    def key(self) -> str:
        """Something that all it is for have in common."""
        return f"#{self.identity}" if self.identity else f".{min(self.classes)}" if self.classes else self.tag or "*"

    @property
    def rank(self) -> tuple[bool, int, bool]:
        """The higher one prevails."""
        return bool(self.identity), len(self.classes), bool(self.tag)

    def fits(self, tag: str, classes: Collection[str], identity: str) -> bool:
        return self.tag in ("", tag) and self.classes.issubset(classes) and self.identity in ("", identity)


@dataclass(frozen=True, eq=False)
class _Shape:
    """The subpaths of one element, each with whether it is closed; `width` is None for a shape without a line.

    A colour is None where there is none, or none that can be told.
    """

    paths: tuple[tuple[Points, bool], ...]
    width: float | None
    weight: float
    line_colour: Colour | None
    fill_colour: Colour | None
    even_odd: bool
    whole: bool  # covers a page whose size nobody knows


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
        self.stack: list[_Style | None] = []  # None: inside something that is not drawn
        self.rules: dict[str, dict[_Selector, tuple[int, dict[str, str]]]] = {}  # with the place of each
        self.open_switches: dict[int, bool] = {}  # by the depth of their children: whether one was chosen
        self.unread: list[str] = []  # selectors of rules
        self.tags: list[_Tag] = []
        self.begun: list[int] = []  # which of the tags began what is open
        self.named: dict[str, slice] = {}  # the tags of the element with that id
        self.known = before is not None
        if before is not None:
            self.rules, self.unread, self.tags, self.named = before.rules, before.unread, before.tags, before.named
        self.late = False  # whether something came that what is not known yet may be for
        self.astray = 0  # clones of what the document does not have
        self.asked = 0  # how many elements have been styled
        self.matches = 0
        self.sheet: list[str] | None = None
        self.shapes: list[_Shape] = []
        self.clip: str | None = None  # the one that is being read
        self.whole_clips: set[str] = set()  # those that hide nothing of the canvas
        self.whole_rects: set[str] = set()  # links to the rectangles that cover it
        self.arrows = 0
        self.cut: list[str] = []  # clips and masks of what is drawn
        self.canvas: Box | None = None
        self.aspect: float | None = None  # of a canvas that is shown stretched
        self.usual = 0.0  # the width that is to be that of the map; 0: the drawing shows it
        self.elements = 0
        self.points = 0
        self.texts = 0

    def read(self, source: bytes) -> None:
        try:
            with np.errstate(all="ignore"):
                self.parser.Parse(source, True)
        except SketchError:
            raise
        except (expat.ExpatError, LookupError, ValueError) as error:
            self.refuse(f"this is not well-formed SVG ({error}).")

    def refuse(self, message: str, *, hint: str = "") -> NoReturn:
        refuse(f"The SVG drawing, line {self.parser.CurrentLineNumber}: {message}", hint=hint)

    # -- what expat reports

    def on_doctype(self, _name: str, _system: str | None, _public: str | None, has_subset: bool) -> None:
        if has_subset:  # entities may be in it; a bare DOCTYPE names a file, which nobody loads
            self.refuse(
                "a DOCTYPE with declarations is not allowed.", hint="Delete its [...] part, or save as plain SVG."
            )

    def on_text(self, text: str) -> None:
        if self.sheet is not None:
            self.sheet.append(text)

    def on_start(self, tag: str, attributes: dict[str, str]) -> None:
        self.count(1)
        if not self.known:
            self.begun.append(len(self.tags))
            self.tags.append(_Tag(tag, attributes))
        if len(self.stack) >= _MAX_DEPTH:
            self.refuse(f"elements are nested more than {_MAX_DEPTH} deep.", hint="Ungroup the drawing first.")
        namespace, _, name = tag.rpartition(" ")
        hidden = bool(self.stack) and self.stack[-1] is None
        values = self.checked(name, attributes, loads=not hidden and name not in _UNSUPPORTED)
        if not self.stack:
            if name != "svg" or namespace not in ("", _SVG):
                self.refuse(f"the outermost element is <{name[:40]}>, not <svg>.")
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
        elif name == "use" and self.clip is not None and self.shows_whole(attributes):
            self.whole_clips.add(self.clip)
        if parent is None or namespace not in ("", _SVG) or self.passed_over(name, values):
            self.stack.append(None)
            return
        if name in _UNSUPPORTED and self.inherited(parent, self.styled(name, values)) is not None:
            self.refuse(f"<{name}> is not supported.", hint="Export the drawing as a PNG, which has it as it looks.")
        self.texts += name == "text"
        style = None
        if name in _DRAWN:
            marked = any(key.startswith("marker") and value.strip() != "none" for key, value in values.items())
            marked = marked or _MARKER.search(values.get("style", "")) is not None
            values = self.styled(name, values)
            style = self.inherited(parent, values)
            self.arrows += marked and style is not None
        if style is not None and name in _SHAPES:
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
            self.clip = None
        if name == "style" and self.sheet is not None:
            for rule in _AT_RULE.sub("", _uncommented("".join(self.sheet))).split("}"):
                selectors, _, body = rule.partition("{")
                declared = _declarations(body)
                self.count(1 + selectors.count(","))
                for selector in selectors.split(",") if declared else ():
                    self.add_rule(" ".join(selector.split()), declared)
            self.sheet = None

    def clone(self, link: str, values: Mapping[str, str], style: _Style) -> None:
        """What a <use> shows, in its own style and place: as if it stood there."""
        if not self.known:
            self.late = True
            return
        shown = self.tags[self.named.get(link.removeprefix("#"), slice(0))]
        self.astray += not shown
        sides = {side: values[side] for side in ("width", "height") if side in values}
        x, y = self.lengths(values, "x y", style.viewport)
        self.stack[-1] = replace(style, matrix=style.matrix @ _affine(1, 0, 0, 1, x, y))
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

    def add_rule(self, text: str, declared: dict[str, str]) -> None:
        match = _SELECTOR.fullmatch(text.removeprefix("svg "))  # which all shapes are in
        names = re.findall(r"[.#][^.#]+", match[2]) if match else []
        identities = {name[1:] for name in names if name[0] == "#"}
        if match is None or not text or len(identities) > 1:
            self.unread.append(text)
            return
        classes = frozenset(name[1:] for name in names if name[0] == ".")
        selector = _Selector((match[1] or "").replace("*", ""), classes, "".join(identities))
        self.late = self.late or self.asked > 1 or selector.tag == "svg"  # the first is the outermost
        alike = self.rules.setdefault(selector.key, {})
        _, before = alike.get(selector, (0, {}))
        alike[selector] = (self.elements, before | declared)

    def count(self, more: int) -> None:
        self.elements += more
        if self.elements > _MAX_ELEMENTS:
            self.refuse(f"there are more than {_MAX_ELEMENTS} elements or rules.", hint="Simplify the drawing first.")

    # -- attributes

    def checked(self, name: str, attributes: dict[str, str], *, loads: bool) -> dict[str, str]:
        """The attributes by local name; anything that could run is refused, and with `loads` what could load."""
        if name == "script":
            self.refuse("scripts are not allowed.", hint="Save as plain SVG.")
        values: dict[str, str] = {}
        for key, value in attributes.items():
            namespace, _, local = key.rpartition(" ")
            if not namespace and local.lower().startswith("on"):
                self.refuse(f"the event handler {local[:40]!r} is not allowed.", hint="Save as plain SVG.")
            if local == "href" and loads and name != "a" and not value.strip().startswith(("#", "data:")):
                self.refuse(f"a link to {value[:60]!r} is not allowed.", hint="Embed or remove what it points to.")
            if not namespace:
                values[local] = value
        return values

    def styled(self, name: str, values: dict[str, str]) -> dict[str, str]:
        """Presentation attributes, overridden by style sheets and these by the style attribute."""
        self.asked += 1
        classes, identity = set(values.get("class", "").split()), values.get("id", "")
        keys = ["*", name, *(f".{part}" for part in classes), f"#{identity}"]
        rules = [rule for key in keys for rule in self.rules.get(key, {}).items()]
        self.matches += len(rules)
        if self.matches > _MAX_MATCHES:
            self.refuse("its style sheets have too many rules for as many shapes.", hint="Save as plain SVG.")
        fitting = [rule for rule in rules if rule[0].fits(name, classes, identity)]
        fitting.sort(key=lambda rule: (rule[0].rank, rule[1][0]))
        styled, important = dict(values), dict[str, str]()
        for declared in (*(declared for _, (_, declared) in fitting), _declarations(values.get("style", ""))):
            styled |= declared
            important |= {name[:-1]: value for name, value in declared.items() if name.endswith("!")}
        return styled | important

    def inherited(self, parent: _Style, values: Mapping[str, str]) -> _Style | None:
        """The element's own style; None when it is not to be seen."""
        if values.get("display", "").strip().lower() == "none":
            return None
        opacity = _opacity(values.get("opacity", ""))
        if opacity is not None and opacity <= 0:
            return None
        clear = opacity is not None and opacity < _SOLID
        style = replace(parent, line_solid=False, fill_solid=False) if clear else parent
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
            style = replace(style, filled=not _SEE_THROUGH.fullmatch(fill), fill_colour=_colour(fill))
        if values.get("fill-rule", "inherit") != "inherit":
            style = replace(style, even_odd=values["fill-rule"].strip().lower() == "evenodd")
        self.cut += (values[name] for name in ("clip-path", "mask") if values.get(name, "none").strip() != "none")
        width = values.get("stroke-width", "").strip().lower()
        if width == "initial":
            style = replace(style, width=1.0)
        elif width[:1] in set("0123456789.+-"):  # others, such as var(), are of who knows what: as inherited
            style = replace(style, width=self.length(_WINDOW.sub("%", width), _diagonal(parent.viewport)))
        if "data-weight" in values:
            weight = self.length(values["data-weight"], 1.0)
            if not 0 <= weight <= 1000:
                self.refuse(f"data-weight is {values['data-weight'][:40]!r}; it must be 0 to 1000.")
            style = replace(style, weight=weight)
        if "transform" in values:
            step = self.transform(values["transform"])
            if "transform-origin" in values or not self.stack:
                x, y = self.origin(values.get("transform-origin", ""), parent.viewport)
                if not self.stack and self.canvas is not None:  # a page is turned about its middle, as browsers do
                    x, y = x + self.canvas[0], y + self.canvas[1]
                step = _affine(1, 0, 0, 1, x, y) @ step @ _affine(1, 0, 0, 1, -x, -y)
            style = replace(style, matrix=style.matrix @ step)
        return style

    def origin(self, text: str, viewport: Size) -> Point:
        """The point that a transform leaves where it is."""
        words = text.split()[:2]
        if words and (words[0] in ("top", "bottom") or words[-1] in ("left", "right")):
            words.reverse()
        across, down = [_ORIGINS.get(word, word) for word in [*words, "center", "center"][:2]]
        return self.length(across, viewport[0]), self.length(down, viewport[1])

    def length(self, text: str, whole: float) -> float:
        """A CSS length in pixels; a percentage is of `whole`."""
        match = _LENGTH.fullmatch(text[:_MAX_TEXT])
        unit = match[2].lower() if match else "?"
        factor = whole / 100 if unit == "%" else _UNITS.get(unit)
        if match is None or factor is None or abs(float(match[1])) > _MAX_NUMBER:
            units = ", ".join([*filter(None, _UNITS), "%"])
            self.refuse(f"{text[:40]!r} is not a length: a number, alone or with one of {units}.")
        return float(match[1]) * factor

    def lengths(self, values: Mapping[str, str], names: str, viewport: Size) -> list[float]:
        """Several lengths, 0 where missing; percentages of the width, the height, or (radii) the diagonal."""
        wholes = dict.fromkeys(["x", "x1", "x2", "cx", "rx", "width"], viewport[0])
        wholes |= dict.fromkeys(["y", "y1", "y2", "cy", "ry", "height"], viewport[1])
        wholes["r"] = _diagonal(viewport)
        return [self.length(values.get(name, "0"), wholes[name]) for name in names.split()]

    def check_list(self, text: str) -> None:
        if len(text) > _MAX_LIST:
            self.refuse(f"there are more than {MAX_POINTS} points.", hint="Simplify the drawing first.")

    def numbers(self, text: str) -> list[float]:
        self.check_list(text)
        found = [float(number) for number in _NUMBER.findall(text)]
        if _NUMBER.sub("", text).strip(" ,\t\r\n") or any(abs(number) > _MAX_NUMBER for number in found):
            self.refuse(f"{text[:40]!r} is not a list of numbers.")
        return found

    def transform(self, text: str) -> Matrix:
        if len(text) > _MAX_TEXT:
            self.refuse("a transform is longer than any drawing needs.")
        text = " ".join(text.split())  # long blanks would take cubic time
        matrix = np.eye(3)
        if _TRANSFORM.sub("", text).strip(" ,\t\r\n") not in ("", "none"):
            self.refuse(f"the transform {text[:40]!r} cannot be read.")
        for name, inner in _TRANSFORM.findall(text):
            self.count(1)
            step = _transformation(name, self.numbers(_UNIT.sub("", inner)))
            if step is None:
                self.refuse(f"the transform {name[:20]}({inner[:40]}) is unknown or has the wrong number of values.")
            matrix = matrix @ step
        return matrix

    # -- the canvas

    def box(self, text: str) -> Box:
        numbers = self.numbers(text)
        if len(numbers) != 4:
            self.refuse(f"the viewBox {text[:40]!r} must have four numbers.")
        left, top, width, height = numbers
        self.check_side(width)
        self.check_side(height)
        return left, top, width, height

    def check_side(self, side: float) -> None:
        if not 0 < side <= _MAX_CANVAS:
            self.refuse(f"a canvas side is {side:g}; it must be above 0 and at most {_MAX_CANVAS:g}.")

    def root(self, values: Mapping[str, str]) -> _Style | None:
        sides: list[float] = []
        for side in ("width", "height"):
            text = _WINDOW.sub("%", values.get(side, "auto").strip())
            if text not in ("auto", ""):
                pixels = self.length(text, 100.0)
                self.check_side(pixels)
                if not text.endswith("%"):
                    sides.append(pixels)
        if "data-usual-width" in values:
            self.usual = self.length(values["data-usual-width"], 0.0)
        if "viewBox" in values:
            self.canvas = self.box(values["viewBox"])
        elif len(sides) == 2:
            self.canvas = (0.0, 0.0, sides[0], sides[1])
        if self.canvas is not None:
            width, height = self.canvas[2:]
            if len(sides) == 2 and values.get("preserveAspectRatio", "").strip() == "none":
                width, height = sides
                self.aspect = width / height
            if not 1 / MAX_ASPECT <= width / height <= MAX_ASPECT:
                self.refuse(f"the canvas is {width:g} × {height:g}; at most 1:{MAX_ASPECT:g} is allowed.")
        viewport = (100.0, 100.0) if self.canvas is None else self.canvas[2:]
        return self.inherited(_Style(matrix=np.eye(3), viewport=viewport), values)

    def nested(self, values: Mapping[str, str], style: _Style) -> _Style:
        """An inner svg: its viewBox is fitted into its own rectangle, as `preserveAspectRatio` says."""
        outer = style.viewport
        sized = {"width": "100%", "height": "100%"} | dict(values)
        x, y, width, height = self.lengths(sized, "x y width height", outer)
        self.check_side(width)
        self.check_side(height)
        if "viewBox" not in values:
            return replace(style, matrix=style.matrix @ _affine(1, 0, 0, 1, x, y), viewport=(width, height))
        left, top, inner_width, inner_height = self.box(values["viewBox"])
        across, down = width / inner_width, height / inner_height
        align, _, rest = values.get("preserveAspectRatio", "xMidYMid").strip().partition(" ")
        if align != "none":
            across = down = max(across, down) if rest.strip() == "slice" else min(across, down)
        shares = {"Min": 0.0, "Max": 1.0}
        x += (width - across * inner_width) * shares.get(align[1:4], 0.5) - across * left
        y += (height - down * inner_height) * shares.get(align[5:8], 0.5) - down * top
        matrix = style.matrix @ _affine(across, 0, 0, down, x, y)
        return replace(style, matrix=matrix, viewport=(inner_width, inner_height))

    # -- shapes

    def shape(self, name: str, values: Mapping[str, str], style: _Style) -> None:
        lined = style.lined and style.line_seen and style.width > 0
        if not style.visible or not (lined or (style.filled and style.fill_seen)):
            return
        tolerance = None if self.canvas is None else max(self.canvas[2:]) / 1500
        pen = _Pen(style.matrix, tolerance=tolerance, room=MAX_POINTS - self.points, refuse=self.refuse)
        getattr(self, f"trace_{name}")(values, style.viewport, pen)
        pen.endPath()
        self.points += sum(len(points) for points, _ in pen.paths)
        scale = math.sqrt(abs(float(np.linalg.det(style.matrix[:2, :2]))))
        shape = _Shape(
            paths=tuple((points, closed or not lined) for points, closed in pen.paths),
            width=style.width * scale if lined else None,
            weight=style.weight,
            line_colour=style.line_colour if lined and style.line_solid else None,
            fill_colour=style.fill_colour if style.filled and style.fill_solid else None,
            even_odd=style.even_odd,
            whole=self.canvas is None and name == "rect" and self.fills(values),
        )
        if shape.paths:
            self.shapes.append(shape)

    def fills(self, values: Mapping[str, str]) -> bool:
        """Whether a rectangle is as wide and high as the page, however large that is."""
        sides = [values.get(side, "").strip() for side in ("width", "height")]
        return all(side.endswith("%") and self.length(side, 1.0) >= 1 for side in sides)

    def covers_canvas(self, values: Mapping[str, str]) -> bool:
        """Whether a rectangle that is not transformed hides nothing of the canvas."""
        if self.canvas is None or "transform" in values:
            return False
        left, top, width, height = self.canvas
        try:
            x, y, across, down = self.lengths(values, "x y width height", (width, height))
        except SketchError:
            return False  # it may not be drawn at all
        return x <= left and y <= top and x + across >= left + width and y + down >= top + height

    def shows_whole(self, clone: Mapping[str, str]) -> bool:
        """Whether a <use> shows a rectangle that covers the canvas where it stands, as Illustrator writes it."""
        return _link(clone) in self.whole_rects and clone.keys().isdisjoint(("transform", "x", "y"))

    def told(self) -> Iterator[str]:
        """What of the document is not drawn."""
        if self.texts:
            yield f"{self.texts} text element(s) of the SVG drawing are not drawn."
        if self.arrows:
            yield f"{self.arrows} line(s) of the SVG drawing have arrowheads or other markers, which are not drawn."
        if self.astray:
            yield f"{self.astray} clone(s) of the SVG drawing show what is not in it."
        if self.unread:
            yield (
                f"{len(self.unread)} style rule(s) of the SVG drawing are not read, such as that for "
                f"{self.unread[0][:40]!r}: only those for tags, classes and ids are."
            )
        cut = [name for name in self.cut if name.strip()[5:-1].strip("\"'") not in self.whole_clips]
        if cut:
            yield (
                f"{len(cut)} clip(s) or mask(s) of the SVG drawing are not applied: what they hide is drawn. "
                "A PNG of the drawing has it as it looks."
            )

    def trace_path(self, values: Mapping[str, str], _viewport: Size, pen: _Pen) -> None:
        from fontTools.svgLib.path.parser import parse_path

        data = values.get("d", "").strip()
        self.check_list(data)
        try:
            parse_path(self.plain_path(data), pen)
        except SketchError:
            raise
        except Exception as error:  # the parser promises no particular error
            self.refuse(f"the path data {data[:40]!r} cannot be read: {str(error)[:80]}.")

    def plain_path(self, data: str) -> str:
        """Path data with its values apart and in the plainest form: fontTools passes over what it does not know, reads
        neither "5." nor "05", and draws nothing for an arc without a radius, which is a line.
        """
        before, *parts = _COMMAND.split(data)
        plain = [repr(number) for number in self.numbers(before)]
        for command, text in zip(parts[::2], parts[1::2], strict=True):
            if command not in "Aa":
                plain += [command, *map(repr, self.numbers(text))]
                continue
            at, text = 0, text.strip(" ,\t\r\n")
            while at < max(1, len(text)):
                arc = _ARC.match(text, at)
                if arc is None:
                    self.refuse(f"{text[at : at + 40]!r} are not the seven values of an arc.")
                at = arc.end()
                rx, ry, turn = (repr(number) for number in self.numbers(" ".join(arc.groups()[:3])))
                end = [repr(number) for number in self.numbers(" ".join(arc.groups()[5:]))]
                if float(rx) and float(ry):
                    plain += [command, rx, ry, turn, arc[4], arc[5], *end]
                else:
                    plain += ["L" if command == "A" else "l", *end]
        return " ".join(plain)

    def trace_line(self, values: Mapping[str, str], viewport: Size, pen: _Pen) -> None:
        x1, y1, x2, y2 = self.lengths(values, "x1 y1 x2 y2", viewport)
        pen.polyline([(x1, y1), (x2, y2)], closed=False)

    def trace_polyline(self, values: Mapping[str, str], _viewport: Size, pen: _Pen) -> None:
        pen.polyline(self.corners(values), closed=False)

    def trace_polygon(self, values: Mapping[str, str], _viewport: Size, pen: _Pen) -> None:
        pen.polyline(self.corners(values), closed=True)

    def corners(self, values: Mapping[str, str]) -> list[Point]:
        numbers = self.numbers(values.get("points", ""))
        if len(numbers) % 2:
            self.refuse("`points` has an odd number of values.")
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def trace_rect(self, values: Mapping[str, str], viewport: Size, pen: _Pen) -> None:
        x, y, width, height = self.lengths(values, "x y width height", viewport)
        given = {name: values[name] for name in ("rx", "ry") if values.get(name, "auto") != "auto"}
        given = {"rx": given.get("ry", "0"), "ry": given.get("rx", "0")} | given
        rx, ry = self.lengths(given, "rx ry", viewport)
        if width < 0 or height < 0 or rx < 0 or ry < 0:
            self.refuse("a rectangle has a negative size.")
        if width == 0 or height == 0:
            return
        rx, ry = min(rx, width / 2), min(ry, height / 2)
        right, bottom = x + width, y + height
        if rx == 0 or ry == 0:
            pen.polyline([(x, y), (right, y), (right, bottom), (x, bottom)], closed=True)
            return
        k = 1 - _QUARTER
        pen.moveTo((x + rx, y))
        pen.lineTo((right - rx, y))
        pen.curveTo((right - k * rx, y), (right, y + k * ry), (right, y + ry))
        pen.lineTo((right, bottom - ry))
        pen.curveTo((right, bottom - k * ry), (right - k * rx, bottom), (right - rx, bottom))
        pen.lineTo((x + rx, bottom))
        pen.curveTo((x + k * rx, bottom), (x, bottom - k * ry), (x, bottom - ry))
        pen.lineTo((x, y + ry))
        pen.curveTo((x, y + k * ry), (x + k * rx, y), (x + rx, y))
        pen.closePath()

    def trace_circle(self, values: Mapping[str, str], viewport: Size, pen: _Pen) -> None:
        cx, cy, r = self.lengths(values, "cx cy r", viewport)
        self.ellipse(cx, cy, r, r, pen)

    def trace_ellipse(self, values: Mapping[str, str], viewport: Size, pen: _Pen) -> None:
        cx, cy, rx, ry = self.lengths(values, "cx cy rx ry", viewport)
        self.ellipse(cx, cy, rx, ry, pen)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, pen: _Pen) -> None:
        if rx < 0 or ry < 0:
            self.refuse("a circle or ellipse has a negative radius.")
        if rx == 0 or ry == 0:
            return
        kx, ky = _QUARTER * rx, _QUARTER * ry
        pen.moveTo((cx + rx, cy))
        pen.curveTo((cx + rx, cy + ky), (cx + kx, cy + ry), (cx, cy + ry))
        pen.curveTo((cx - kx, cy + ry), (cx - rx, cy + ky), (cx - rx, cy))
        pen.curveTo((cx - rx, cy - ky), (cx - kx, cy - ry), (cx, cy - ry))
        pen.curveTo((cx + kx, cy - ry), (cx + rx, cy - ky), (cx + rx, cy))
        pen.closePath()


class _Pen:
    """Turns path commands into polylines in root coordinates. Its methods have the names of fontTools pens."""

    def __init__(
        self, matrix: Matrix, *, tolerance: float | None, room: int, refuse: Callable[[str], NoReturn]
    ) -> None:
        self.matrix = matrix
        self.tolerance = tolerance
        self.room = room
        self.refuse = refuse
        self.pieces: list[Points] = []
        self.paths: list[tuple[Points, bool]] = []

    def add(self, points: Points) -> None:
        self.room -= len(points)
        if self.room < 0:
            self.refuse(f"there are more than {MAX_POINTS} points.")
        self.pieces.append(points)

    def mapped(self, *points: Point) -> Points:
        return np.array(points, dtype=np.float64).reshape(-1, 2) @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def cuts(self, error: float) -> Points:
        """The parameters (N, 1), the last one 1, at which to cut a curve that a single chord would miss by `error`."""
        pieces = 24 if self.tolerance is None else math.sqrt(min(error / self.tolerance, 1e6))
        return np.linspace(0, 1, int(np.clip(pieces, 1, 128)) + 1)[1:, None]

    def moveTo(self, point: Point) -> None:  # noqa: N802
        self.endPath()
        self.add(self.mapped(point))

    def lineTo(self, point: Point) -> None:  # noqa: N802
        self.add(self.mapped(point))

    def curveTo(self, first: Point, second: Point, end: Point) -> None:  # noqa: N802
        p0, (p1, p2, p3) = self.pieces[-1][-1], self.mapped(first, second, end)
        # the chords of n pieces are off by at most |B''| / (8 n²), and |B''| is at most six times these
        bend = float(np.abs([p0 - 2 * p1 + p2, p1 - 2 * p2 + p3]).max())
        t = self.cuts(0.75 * bend)
        s = 1 - t
        self.add(s**3 * p0 + 3 * s * s * t * p1 + 3 * s * t * t * p2 + t**3 * p3)

    def qCurveTo(self, control: Point, end: Point) -> None:  # noqa: N802
        p0 = self.pieces[-1][-1]
        p1, p2 = self.mapped(control, end)
        bend = float(np.abs(p0 - 2 * p1 + p2).max())
        t = self.cuts(0.25 * bend)
        s = 1 - t
        self.add(s * s * p0 + 2 * s * t * p1 + t * t * p2)

    def closePath(self) -> None:  # noqa: N802
        self.finish(closed=True)

    def endPath(self) -> None:  # noqa: N802
        self.finish(closed=False)

    def finish(self, *, closed: bool) -> None:
        """The end of a subpath; one that goes nowhere is not drawn."""
        if sum(map(len, self.pieces)) > 1 or (self.pieces and closed):
            self.paths.append((np.concatenate(self.pieces), closed))
        self.pieces = []

    def polyline(self, points: Sequence[Point], *, closed: bool) -> None:
        if points:
            self.add(self.mapped(*points))
            self.finish(closed=closed)


def _declarations(text: str) -> dict[str, str]:
    """`name: value; …` of a style attribute or rule: those properties that matter here, important ones as `name!`."""
    found: dict[str, str] = {}
    for part in _uncommented(text).split(";"):
        name, _, value = part.partition(":")
        name, (value, _, mark) = name.strip().lower(), value.partition("!")
        if name in _PROPERTIES:
            found[f"{name}!" if mark.strip().lower() == "important" else name] = value.strip()
    return found


def _uncommented(text: str) -> str:
    before, *commented = text.split("/*")
    return "".join([before, *(part.partition("*/")[2] for part in commented)])


def _diagonal(viewport: Size) -> float:
    """What percentages that belong to neither axis are of."""
    return math.hypot(*viewport) / math.sqrt(2)


def _affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Matrix:
    return np.array([[a, c, e], [b, d, f], [0, 0, 1]], dtype=np.float64)


def _transformation(name: str, values: Sequence[float]) -> Matrix | None:
    """One SVG transform function, or None where the name or the number of values is wrong."""
    match name, list(values):
        case "matrix", [a, b, c, d, e, f]:
            return _affine(a, b, c, d, e, f)
        case "translate", [x] | [x, _]:
            return _affine(1, 0, 0, 1, x, values[1] if len(values) == 2 else 0)
        case "translateX", [x]:
            return _affine(1, 0, 0, 1, x, 0)
        case "translateY", [y]:
            return _affine(1, 0, 0, 1, 0, y)
        case "scale", [x] | [x, _]:
            return _affine(x, 0, 0, values[-1], 0, 0)
        case "scaleX", [x]:
            return _affine(x, 0, 0, 1, 0, 0)
        case "scaleY", [y]:
            return _affine(1, 0, 0, y, 0, 0)
        case "rotate", [degrees]:
            sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
            return _affine(cosine, sine, -sine, cosine, 0, 0)
        case "rotate", [degrees, x, y]:
            turned = _transformation("rotate", [degrees])
            return None if turned is None else _affine(1, 0, 0, 1, x, y) @ turned @ _affine(1, 0, 0, 1, -x, -y)
        case "skewX", [degrees]:
            return _affine(1, 0, math.tan(math.radians(degrees)), 1, 0, 0)
        case "skewY", [degrees]:
            return _affine(1, math.tan(math.radians(degrees)), 0, 1, 0, 0)
        case _:
            return None


@dataclass(frozen=True)
class _Page:
    """The shapes on their canvas, points in canvas units, without the paper and what is painted in its colour."""

    drawn: tuple[_Shape, ...]
    brushed: tuple[_Shape, ...]  # painted along a path, as drawing programs save the marks of a brush
    aspect: float  # width / height
    rubbed: int  # lines of the paper's colour
    outlined: int  # marks of a brush that are drawn as outlines, there being too many
    unseen: int  # shapes of which others leave nothing to be seen
    crowded: bool  # too many filled shapes to find what they hide

    @classmethod
    def of(cls, shapes: Sequence[_Shape], *, canvas: Box | None) -> _Page:
        everything = [points for shape in shapes if not shape.whole for points, _ in shape.paths]
        if not all(in_reach(points, _MAX_NUMBER) for points in everything):
            refuse("The SVG drawing has coordinates that are not finite or absurdly large.")
        aspect = 1.0
        if canvas is not None:
            left, top, width, height = canvas
            units, aspect = [(points - (left, top)) / (width, height) for points in everything], width / height
        else:
            units, aspect = fitted(everything, square=False) if everything else ([], 1.0)
        if not all(in_reach(points, MAX_COORDINATE) for points in units):
            refuse("The SVG drawing has a coordinate that lies absurdly far off the canvas.")
        placed = iter(units)
        shapes = [
            replace(shape, paths=tuple((_WHOLE if shape.whole else next(placed), closed) for _, closed in shape.paths))
            for shape in shapes
        ]
        # A line that nobody gave a pen is filled, which shows nothing; alone it was meant to be seen.
        shapes = [s for s in shapes if s.width or not all(_is_straight(points) for points, _ in s.paths)] or shapes
        paper: Colour | None = (255, 255, 255)
        drawn: list[_Shape] = []
        brushed: list[_Shape] = []
        bare, room, outlined = True, _PAINTED_PAGES, 0
        for shape in shapes:
            if shape.width is None or (shape.line_colour is not None and shape.line_colour == shape.fill_colour):
                paths = tuple(path for path in shape.paths if not _is_paper(path[0]))
                if not paths:
                    paper = shape.fill_colour
                    continue
                shape = replace(shape, paths=paths)
            if shape.width is None:
                if bare and shape.fill_colour == paper is not None:
                    continue  # on bare paper its own colour shows nothing
                bare = False
            if shape.weight == 1 and _is_brushed(shape, aspect):
                if (extent := _extent(shape)) <= room:
                    room -= extent
                    brushed.append(shape)
                    continue
                outlined += 1
            drawn.append(shape)
        rubbing = [
            shape.width is not None and shape.line_colour == paper is not None and shape.fill_colour in (None, paper)
            for shape in drawn
        ]
        if all(rubbing) and not brushed:  # light lines whose dark paper was not saved, or the other way round
            rubbing = [False] * len(drawn)
        shown = [shape for shape, rubs in zip(drawn, rubbing, strict=True) if not rubs]
        crowded = sum(shape.fill_colour is not None for shape in shown) > _MOST_HIDING
        seen = shown if crowded else _seen(shown, paper)
        return cls(
            tuple(seen), tuple(brushed), aspect, sum(rubbing), outlined, unseen=len(shown) - len(seen), crowded=crowded
        )

    def strokes(self, usual: float) -> tuple[Stroke, ...]:
        usual = usual if usual > 0 else _usual_width(self.drawn)
        return tuple(
            Stroke(
                points=points,  # pyright: ignore[reportArgumentType]
                width=_own_width(shape.width, usual),
                weight=shape.weight,
                closed=closed,
            )
            for shape in self.drawn
            for points, closed in shape.paths
        )

    def painted(self) -> Float | None:
        """Where brushes have painted, (H, W)."""
        if not self.brushed:
            return None
        longer = max(self.aspect, 1.0)
        width, height = (max(MIN_SIDE, round(_PAINTED_SIDE * side / longer)) for side in (self.aspect, 1.0))
        page = np.zeros((height, width), np.float32)
        for shape in self.brushed:
            cells = [points * (width, height) for points, _ in shape.paths]
            low = np.floor(np.min([points.min(axis=0) for points in cells], axis=0)).clip(0, (width, height))
            high = np.ceil(np.max([points.max(axis=0) for points in cells], axis=0)).clip(0, (width, height))
            (left, top), (right, bottom) = low.astype(int), high.astype(int)
            inside = covered(
                [points - low for points in cells], grid=(bottom - top, right - left), even_odd=shape.even_odd
            )
            page[top:bottom, left:right][inside] = 1
        return page

    def told(self) -> Iterator[str]:
        if self.rubbed:
            yield (
                f"{self.rubbed} line(s) of the SVG drawing have the colour of its paper and are not drawn. What they "
                "rub out stays: a PNG of the drawing has it as it looks."
            )
        if self.unseen:
            yield (
                f"{self.unseen} shape(s) of the SVG drawing are not drawn: they lie behind others, or on their own "
                'colour. What is meant as an outline needs fill="none".'
            )
        if self.crowded and not self.outlined:
            yield (
                "The SVG drawing has too many filled shapes to find what they hide: all of it is drawn. A PNG of the "
                "drawing has it as it looks."
            )
        if self.outlined:
            yield (
                f"{self.outlined} brush mark(s) of the SVG drawing give their outlines, not their centre lines: there "
                "are too many. A PNG of the drawing gives the lines."
            )


def _is_paper(points: Points) -> bool:
    """An outline that runs along the edges of the canvas, or outside them, on all four sides."""
    low, high = points.min(axis=0), points.max(axis=0)
    on_edge = ((points <= 0.01) | (points >= 0.99)).any(axis=1)
    around = bool((low <= 0.01).all() and (high >= 0.99).all() and on_edge.all())
    return around and _area(points.clip(0, 1)) > _MOST_OF_IT  # not a triangle with its corners there


def _area(points: Points) -> float:
    """That an outline encloses."""
    (x, y), (after_x, after_y) = points.T, np.roll(points, -1, axis=0).T
    return abs(float(x @ after_y - y @ after_x)) / 2


def _is_straight(points: Points) -> bool:
    """Whether all points lie on one line, so that a fill shows nothing."""
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(spread[-1] <= 1e-6 * spread[0]) or len(points) < 3


def _seen(shapes: Sequence[_Shape], paper: Colour | None) -> list[_Shape]:
    """The shapes without those parts of their outlines that shapes in front are painted over and, where they have no
    line, that lie on their own colour.
    """
    grid = (_HIDING_SIDE, _HIDING_SIDE)
    areas = [
        None
        if shape.fill_colour is None
        else covered([points * _HIDING_SIDE for points, _ in shape.paths], grid=grid, even_odd=shape.even_odd)
        for shape in shapes
    ]
    hidden: list[Mask] = []
    numbers = {colour: number for number, colour in enumerate({paper, *(shape.fill_colour for shape in shapes)})}
    painted = np.full(grid, numbers[paper])
    for shape, area in zip(shapes, areas, strict=True):
        own = numbers[shape.fill_colour]
        alike = shape.width is None and area is not None
        hidden.append(_within(painted == own) if alike else np.zeros(grid, bool))
        if area is not None:
            painted[area] = own
    above = np.zeros(grid, bool)
    for mask, area in zip(reversed(hidden), reversed(areas), strict=True):
        mask |= above
        if area is not None:
            above |= _within(area)
    left = [
        replace(shape, paths=tuple(part for path in shape.paths for part in _uncovered(*path, mask)))
        for shape, mask in zip(shapes, hidden, strict=True)
    ]
    return [shape for shape in left if shape.paths]


def _within(area: Mask) -> Mask:
    """An area without the cells along its edges."""
    return np.asarray(distance_to(~area)) > _EDGE


def _uncovered(points: Points, closed: bool, hidden: Mask) -> list[tuple[Points, bool]]:
    """The parts of a path that lie on no hidden cell: the path itself where that is all of it."""
    ring = np.concatenate([points, points[:1]]) if closed else points
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(ring, axis=0).T).cumsum()])
    between = np.linspace(0, lengths[-1], 2 + int(min(lengths[-1], 100) * 2 * _HIDING_SIDE))
    places = np.union1d(lengths, between)
    fine = np.stack([np.interp(places, lengths, ring[:, axis]) for axis in (0, 1)], axis=1)
    column, row = np.floor(fine * _HIDING_SIDE).clip(0, _HIDING_SIDE - 1).astype(int).T
    seen = ~hidden[row, column] | (fine < 0).any(axis=1) | (fine >= 1).any(axis=1)
    if seen.all():
        return [(points, closed)]
    ends = np.flatnonzero(np.diff(seen)) + 1
    parts = [part for part, shown in zip(np.split(fine, ends), np.split(seen, ends), strict=True) if shown[0]]
    if closed and len(parts) > 1 and seen[0] and seen[-1]:
        parts = [np.concatenate([parts[-1], parts[0][1:]]), *parts[1:-1]]
    return [(part, False) for part in parts if len(part) > 1]


def _extent(shape: _Shape) -> float:
    """The share of the canvas that a rectangle around the shape takes."""
    points = np.concatenate([points for points, _ in shape.paths])
    return float(np.ptp(points.clip(0, 1), axis=0).prod())


def _is_brushed(shape: _Shape, aspect: float) -> bool:
    """A long, narrow painted shape: the mark of a brush of up to a tenth of the canvas."""
    if shape.width is not None:
        return False
    outlines = [points * (aspect, 1.0) for points, _ in shape.paths]
    if shape.even_odd and len(outlines) > _MAX_NESTED:
        return False
    area = length = 0.0
    for points in outlines:
        following = np.roll(points, -1, axis=0)
        enclosed = float(points[:, 0] @ following[:, 1] - points[:, 1] @ following[:, 0]) / 2
        if shape.even_odd:  # what lies in an odd number of others is a hole, whichever way it runs
            around = sum(_holds(other, points[0]) for other in outlines if other is not points)
            enclosed = abs(enclosed) * (-1) ** around
        area += enclosed
        length += float(np.hypot(*(following - points).T).sum())
    side, area = max(aspect, 1.0), abs(area)
    return 1e-3 * side * length < 2 * area < 0.1 * side * length and length * length > 32 * area


def _holds(outline: Points, point: Points) -> bool:
    """Whether a closed outline (N, 2) goes around a point (2,)."""
    following = np.roll(outline, -1, axis=0)
    crossing = (outline[:, 1] > point[1]) != (following[:, 1] > point[1])
    start, end = outline[crossing], following[crossing]
    across = start[:, 0] + (point[1] - start[:, 1]) / (end[:, 1] - start[:, 1]) * (end[:, 0] - start[:, 0])
    return bool(np.count_nonzero(across > point[0]) % 2)


def _usual_width(shapes: Sequence[_Shape]) -> float:
    """The line width that half of the drawn length has at most: a pen that feels pressure never repeats one."""
    lengths: dict[float, float] = {}
    for shape in shapes:
        if shape.width:
            length = sum(float(np.hypot(*np.diff(points, axis=0).T).sum()) for points, _ in shape.paths)
            lengths[shape.width] = lengths.get(shape.width, 0.0) + length
    widths = sorted(lengths)
    drawn = np.cumsum([lengths[width] for width in widths])
    return widths[int(np.searchsorted(drawn, drawn[-1] / 2))] if widths else 1.0


def _own_width(width: float | None, usual: float) -> float | None:
    """A width as its ratio to the usual one, 1/3 to 3; None (the default line) where it hardly differs."""
    if not width or abs(width / usual - 1) < 0.1:
        return None
    return LINE_WIDTH * min(max(width / usual, 1 / 3), 3.0)


def _link(attributes: Mapping[str, str]) -> str:
    return next((value.strip() for key, value in attributes.items() if key.rpartition(" ")[2] == "href"), "")


def _opacity(text: str) -> float | None:
    """None for what is no opacity: browsers pass it over."""
    match = _OPACITY.fullmatch(text[:_MAX_TEXT])
    return None if match is None else float(match[1]) / (100 if match[2] else 1)


def _colour(text: str) -> Colour | None:
    """Red, green and blue, 0 to 255; None for what is no plain colour, such as a gradient."""
    for notation, whole in ((_RGB, 1.0), (_WIDE_RGB, 255.0)):  # Pillow reads whole numbers and commas only
        if match := notation.fullmatch(text):
            parts = [(float(part.removesuffix("%")), part.endswith("%")) for part in match.groups()]
            return tuple(round(min(max(number * (2.55 if share else whole), 0), 255)) for number, share in parts)
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        return None
