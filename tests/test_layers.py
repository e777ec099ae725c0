"""Law 11: imports go up the table only."""

import ast
from pathlib import Path

import pytest

import sketchguide

# Each imports only from those above it; a package is one layer.
TABLE = (
    "errors",
    "files",
    "machine",
    "defaults",
    "images",
    "weights",
    "seeds",
    "levels",
    "solvers",
    "taps",
    "strokes",
    "lines",
    "rasters",
    "rasterizing",
    "sheets",
    "ink",
    "svg",
    "sketch",
    "attention",
    "backbones",
    "sizes",
    "extractors",
    "tracing",
    "predictors",
    "classifiers",
    "sketchers",
    "perception",
    "controls",
    "sampling",
    "inversion",
    "interpolation",
    "shipped",
    "single_file",
    "loading",
    "adapters",
    "lora",
    "fingerprints",
    "recognition",
    "request",
    "pictures",
    "arguments",
    "areas",
    "schedule",
    "sources",
    "walking",
    "usual",
    "advice",
    "overlays",
    "guidance",
    "starting",
    "generation",
    "translation",
    "frames",
    "editing",
    "methods",
    "building",
    "training",
    "evaluation",
    "web",
    "cli",
    "__main__",
)

ROOT = Path(sketchguide.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(("sketchguide", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def layer(module: str) -> str:
    """`sketchguide.controls.base` -> `controls`; of `sketchguide` itself, which is above them all: nothing."""
    return module.partition(".")[2].partition(".")[0]


def imported(path: Path) -> list[str]:
    """Every module of the package that the file imports, wherever in the file."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names):
                found += [alias.name for alias in names]
            case ast.ImportFrom(module=None) | ast.ImportFrom(level=1 | 2 | 3):
                pytest.fail(f"{path.name}:{node.lineno}: relative imports hide their layer")
            case ast.ImportFrom(module=str(module), names=names):
                for name in (f"{module}.{alias.name}" for alias in names):
                    found.append(name if name in MODULES or module == "sketchguide" else module)
            case _:
                pass
    return [name for name in found if name.split(".")[0] == "sketchguide" and name != "sketchguide.__version__"]


def test_every_module_has_a_place_in_the_table() -> None:
    assert {path.relative_to(ROOT).with_suffix("").parts[0] for path in FILES} <= set(TABLE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_up_the_table_only(path: Path) -> None:
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    for module in imported(path):
        if module == "sketchguide":  # for its version; names of the public list come from their own modules
            continue
        assert layer(module) in TABLE, f"{path.name} imports {module}, a name of the public list or no module"
        assert TABLE.index(layer(module)) <= TABLE.index(own), f"{own} imports {module}, which is below it"


def test_modules_of_one_package_do_not_import_each_other_in_a_circle() -> None:
    graph = {name: imported(path) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"circle: {' -> '.join((*way, module))}"
        if module not in done:
            for other in graph.get(module, []):
                visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_public_list_imports_nothing_until_it_is_used() -> None:
    body = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")).body
    modules = [node.module for node in body if isinstance(node, ast.ImportFrom)]
    assert modules == ["__future__", "importlib", "typing"]
