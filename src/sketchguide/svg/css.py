"""CSS: what style sheets and style attributes declare, and what of it prevails."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sketchguide.svg.scanner import Scanner

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
        "transform-box",
        "background",
        "background-color",
    }
)
_AT_RULE = re.compile(
    r"""@(?:url\([^()"']*+\)|"[^"]*+"|'[^']*+'|[^{};@"'])*+(?:;|\{(?:[^{}]*+\{[^{}]*+\})*+[^{}]*+\})"""
)
_SELECTOR = re.compile(r"(\*|[a-zA-Z][\w-]*)?((?:[.#][\w-]+)*)")


@dataclass(frozen=True)
class Selector:
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

    @classmethod
    def parsed(cls, text: str) -> Selector | None:
        """None for one that says more, such as where the element is."""
        match = _SELECTOR.fullmatch(text.removeprefix("svg "))  # which all shapes are in
        names = re.findall(r"[.#][^.#]+", match[2]) if match else []
        identities = {name[1:] for name in names if name[0] == "#"}
        if match is None or not text or len(identities) > 1:
            return None
        classes = frozenset(name[1:] for name in names if name[0] == ".")
        return cls((match[1] or "").replace("*", ""), classes, "".join(identities))


Rule = tuple[Selector, tuple[int, dict[str, str]]]  # with its place and what it declares


class Rules:
    """Those of a document's style sheets."""

    def __init__(self) -> None:
        self.by_key: dict[str, dict[Selector, tuple[int, dict[str, str]]]] = {}
        self.unread: list[str] = []  # selectors of those that are not read

    def read(self, sheet: str, scan: Scanner) -> list[Selector]:
        """Takes in the rules of one style sheet; returns what they are for."""
        found: list[Selector] = []
        for rule in _AT_RULE.sub("", _uncommented(sheet)).split("}"):
            selectors, _, body = rule.partition("{")
            declared = _declarations(body)
            scan.count(1 + selectors.count(","))
            for text in selectors.split(",") if declared else ():
                text = " ".join(text.split())
                selector = Selector.parsed(text)
                if selector is None:
                    self.unread.append(text)
                    continue
                found.append(selector)
                alike = self.by_key.setdefault(selector.key, {})
                _, before = alike.get(selector, (0, {}))
                alike[selector] = (scan.counted, before | declared)
        return found

    def near(self, name: str, values: Mapping[str, str]) -> list[Rule]:
        """Rules for something that an element has; those that are for it are among them."""
        keys = ["*", name, *(f".{part}" for part in _classes(values)), f"#{values.get('id', '')}"]
        return [rule for key in keys for rule in self.by_key.get(key, {}).items()]


def cascaded(name: str, values: Mapping[str, str], rules: Iterable[Rule]) -> dict[str, str]:
    """Presentation attributes, overridden by the rules that fit and these by the style attribute."""
    classes, identity = _classes(values), values.get("id", "")
    fitting = [rule for rule in rules if rule[0].fits(name, classes, identity)]
    fitting.sort(key=lambda rule: (rule[0].rank, rule[1][0]))
    styled, important = dict(values), dict[str, str]()
    for declared in (*(declared for _, (_, declared) in fitting), _declarations(values.get("style", ""))):
        styled |= declared
        important |= {name[:-1]: value for name, value in declared.items() if name.endswith("!")}
    return styled | important


def _classes(values: Mapping[str, str]) -> set[str]:
    return set(values.get("class", "").split())


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
