"""The tables and curves of docs/results.md and docs/ablations.md, made anew with what ships now.

    python benchmarks/tables.py --list
    python benchmarks/tables.py settings strength
    python benchmarks/tables.py bench --print

What a table needs is trained before it, once. Everything is kept in --out, and the same command goes on where it was
stopped. Finished figures are copied to benchmarks/results, plots and sheets to docs/images. On two cores a table takes
a quarter of an hour to two hours; the times in it are worth something only where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sketchguide.defaults import MODEL, RECOGNISED

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
JUDGE = "benchmarks/judge/icons-64.safetensors"
JUDGED = ("--classifier", JUDGE)

# What tables need, as folders in --out: {out} and {shared} stand for the options of these names.
PICTURES, LGP = "{out}/icon-pictures", "{out}/lgp-300"
OWN, LGP_OF_OWN = "{out}/own-pictures", "{out}/lgp-own"
CONTROLNET, ADAPTER = "{out}/controlnet-1000", "{out}/t2i-adapter-1000"
PICTURES_128, CONTROLNET_128, ADAPTER_128 = "{out}/pictures-128", "{out}/controlnet-128", "{out}/t2i-adapter-128"

LGP_300 = f"lgp:predictor={LGP}"
EVERY_STEP = f"{LGP_300},every=1,widen=1,strength=1.5"
PEERS = (f"controlnet:path={CONTROLNET}", f"t2i-adapter:path={ADAPTER}")
PEERS_128 = (f"controlnet:path={CONTROLNET_128}", f"t2i-adapter:path={ADAPTER_128}")
USUAL = ",".join(f"{name}={value}" for name, value in RECOGNISED.items())
DEFAULT, DEFAULT_300 = f"lgp:{USUAL}", f"{LGP_300},{USUAL}"  # what `generate` does
CLOSELY = f"{DEFAULT},widen=1,sure=0.65"  # the page's "closely, yet recognisable"
TRIED = ",".join(f"{name}={RECOGNISED[name]}" for name in ("steps", "solver", "tries"))  # of it, what peers have too

MEASURED = "icons-64"  # the model of all tables that name no other

Command = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Something that tables need. It is finished when `file` is in its folder. What the command writes is the folder,
    or `within` it."""

    file: str
    command: Command
    within: str = ""


def _pictures(size: int) -> Part:
    command = ("python", "recipes/icons/pictures.py", "--data", "{shared}/data", "--size", str(size), "--out")
    return Part("metadata.jsonl", command)


def _peer(kind: str, rate: str, *, pictures: str, model: str) -> Part:
    data = ("--data", pictures, "--model", model, "--images", "1000", "--rate", rate, "--steps", "600", "--bf16")
    return Part("training.json", ("python", "benchmarks/peers/train.py", kind, *data, "-o"))


def _predictor(pictures: str) -> Part:
    few = ("--images", "300", "--steps", "240", "--fresh", "-o")
    data = ("--data", pictures, "--model", "icons-64", "--map", "edges")
    return Part("training.json", ("sketchguide", "train", *data, *few))


PARTS: Mapping[str, Part] = {
    PICTURES: _pictures(64),
    PICTURES_128: _pictures(128),
    LGP: _predictor(PICTURES),
    OWN: Part(
        "picture-341.png",
        ("sketchguide", "generate", "--prompts", "benchmarks/things.txt", "--model", "icons-64", "--seed", "1", "-o"),
        within="picture.png",
    ),
    LGP_OF_OWN: _predictor(OWN),
    CONTROLNET: _peer("controlnet", "2e-3", pictures=PICTURES, model=MEASURED),
    ADAPTER: _peer("t2i-adapter", "3e-3", pictures=PICTURES, model=MEASURED),
    CONTROLNET_128: _peer("controlnet", "2e-3", pictures=PICTURES_128, model=MODEL),
    ADAPTER_128: _peer("t2i-adapter", "3e-3", pictures=PICTURES_128, model=MODEL),
}


@dataclass(frozen=True)
class Run:
    """A command that leaves figures in the folder at its end: `table`.md, `figures`.json and perhaps `plot`.png."""

    command: Command
    table: str
    figures: str
    plot: str | None = None


@dataclass(frozen=True)
class Sheet:
    """A sheet of pictures that the documents show."""

    about: str  # the name of the run that makes it, as in Table.runs
    file: str
    image: str  # its name in docs/images


@dataclass(frozen=True)
class Table:
    about: str
    runs: Mapping[str, Run]  # by the name of the set that each is about, where there are several
    file: str | None = None  # its name in benchmarks/results, where it is not the table's own
    sheet: Sheet | None = None


def bench(
    about: str,
    *methods: str,
    sets: Sequence[str] = ("quickdraw",),
    sketches: int = 100,
    batch: int = 50,
    compare: Sequence[str] = (),
    sheet: Sheet | None = None,
    model: str = MEASURED,
) -> Table:
    """A comparison with one picture of each drawing, in one run over all sets."""
    return Table(about, {"": _bench(methods, sets, sketches, 1, batch, compare, model=model)}, sheet=sheet)


def by_model(about: str, models: Mapping[str, Sequence[str]], *, sketches: int) -> Table:
    """The methods of each model with one picture of each Quick, Draw! drawing, in a run for each."""
    runs = {
        model: _bench(methods, ("quickdraw",), sketches, 1, 50, (), model=model) for model, methods in models.items()
    }
    return Table(about, runs)


def _bench(
    methods: Sequence[str],
    sets: Sequence[str],
    sketches: int,
    seeds: int,
    batch: int,
    compare: Sequence[str],
    *,
    model: str = MEASURED,
) -> Run:
    data = ("--data", "{shared}/data", "--weights", "{shared}/weights", *JUDGED)
    many = ("--sketches", str(sketches), "--seeds", str(seeds), "--batch", str(batch))
    chosen = [word for name in sets for word in ("--set", name)]
    chosen += [word for name in methods for word in ("--method", name)]
    beside = [word for name in compare for word in ("--compare", name)]
    command = ("sketchguide", "bench", *data, *many, *chosen, *beside, "--model", model, "-o")
    return Run(command, table="table", figures="summary")


def by_set(
    about: str,
    *methods: str,
    sets: Mapping[str, int],
    of_icons: Sequence[str] = (),
    compare: Sequence[str] = (),
    sheet: Sheet | None = None,
    model: str = MEASURED,
) -> Table:
    """A comparison with two seeds of so many drawings of each set, in a run for each."""
    asked = {name: (*methods, *of_icons) if name == "icons" else methods for name in sets}
    runs = {name: _bench(asked[name], (name,), count, 2, 50, compare, model=model) for name, count in sets.items()}
    return Table(about, runs, sheet=sheet)


def curve(about: str, kind: str, *, sketches: int, more: Command = ()) -> Table:
    command = ("python", "benchmarks/curves.py", kind, "--shared", "{shared}", *JUDGED, "--sketches", str(sketches))
    return Table(about, {"": Run((*command, *more, "--out"), kind, kind, kind)}, f"curve-{kind}")


def predictors(about: str, *, sketches: int) -> Table:
    command = ("python", "benchmarks/predictors.py", "--pictures", PICTURES, "--shared", "{shared}", *JUDGED)
    command = (*command, "--sketches", str(sketches), "--out")
    return Table(about, {"": Run(command, "predictors", "predictors")})


SPOILED = tuple(f"quickdraw-{kind}" for kind in ("thick", "thin", "broken", "shifted", "stray", "inverted"))
FREE_HAND = {"quickdraw": 200, "tuberlin": 200}
EVERY_SET = {**FREE_HAND, "icons": 100}
MAIN = ("text", "lgp", LGP_300, "lgp-paper", EVERY_STEP, *PEERS)
WIDER = ("lgp:widen=1,strength=2",)

TABLES: Mapping[str, Table] = {
    "bench": by_set(
        "the main table",
        *MAIN,
        sets=EVERY_SET,
        of_icons=WIDER,
        compare=("lgp", EVERY_STEP),
        sheet=Sheet("quickdraw", "quickdraw.png", "follow-quickdraw.png"),
    ),
    "default": by_set(
        "the default model as it draws by default, LGP with one try, and the paper's settings",
        *("text", "lgp-paper", "lgp", DEFAULT, DEFAULT_300, CLOSELY),
        sets=FREE_HAND,
        compare=(DEFAULT, DEFAULT_300, "lgp"),
        sheet=Sheet("quickdraw", "quickdraw.png", "default-quickdraw.png"),
        model=MODEL,
    ),
    "default-icons": by_set(
        "the default model on things that its recogniser does not know: one try",
        *("text", "lgp-paper", "lgp", LGP_300),
        sets={"icons": 100},
        compare=("lgp", LGP_300),
        model=MODEL,
    ),
    "default-peers": by_set(
        "the default beside peers of the default model, tried again too",
        *(
            "text",
            DEFAULT,
            DEFAULT_300,
            EVERY_STEP,
            *(f"{peer}{tried}" for peer in PEERS_128 for tried in ("", f",{TRIED}")),
        ),
        sets={"quickdraw": 200},
        compare=(DEFAULT, DEFAULT_300),
        model=MODEL,
    ),
    "default-time": bench(
        "what that takes, one picture after the other",
        *("text", "lgp", DEFAULT),
        sketches=50,
        batch=1,
        model=MODEL,
    ),
    "larger": by_model(
        "twice as many pixels from the same latents",
        {"icons-64": ("text", "lgp"), "icons-128": ("text", "lgp", "lgp-paper")},
        sketches=200,
    ),
    "even": by_set("how evenly the pull is shared", "text", "lgp", "lgp:even=0.6", "lgp-paper", sets=FREE_HAND),
    "peers-time": bench(
        "peers whose negative pass is told of more noise",
        *("text", EVERY_STEP, *(f"{peer}{more}" for peer in PEERS for more in ("", ",negative_time=0.3"))),
        compare=(EVERY_STEP,),
    ),
    "own": bench(
        "a predictor that learnt from the model's own pictures",
        *("text", LGP_300, f"lgp:predictor={LGP_OF_OWN}"),
        sketches=200,
        compare=(LGP_300,),
    ),
    "spoiled": bench(
        "spoiled drawings",
        *("text", "lgp", EVERY_STEP, *PEERS),
        sets=SPOILED,
        compare=(EVERY_STEP,),
        sheet=Sheet("", "quickdraw-stray.png", "stray.png"),
    ),
    "methods": bench(
        "DiffSketching's ways, and Plug-and-Play",
        *("text", "lgp", "sketch-loss", "sketch-attention", "pnp", "lgp-pnp", "sdedit"),
    ),
    "settings": bench(
        "settings, one changed at a time",
        *("text", "lgp", "lgp:even=0.6", "lgp:widen=1", "lgp:widen=1,strength=2", "lgp:negative_time=0"),
        *("lgp:scale=5", "lgp:scale=8", "lgp:every=1,strength=2.3", "lgp:blank=1", "lgp:stop=0.5"),
        *("lgp:handover=1", "lgp:strength=1.6", "lgp:predictor=icons-64-edges-latent"),
    ),
    "strength": curve("fidelity and realism over strength and stop", "strength", sketches=60),
    "steps": curve("fidelity over the number of steps", "steps", sketches=60),
    "pictures": curve(
        "fidelity over the number of training pictures", "pictures", sketches=100, more=("--pictures", PICTURES)
    ),
    "weights": curve(
        "how hard each acts",
        "methods",
        sketches=50,
        more=("--predictor", LGP, "--controlnet", CONTROLNET, "--t2i-adapter", ADAPTER),
    ),
    "predictors": predictors("the predictor, one choice changed at a time", sketches=75),
}


def parts_of(command: Command) -> list[str]:
    """What a command needs, each after what it needs itself."""
    needed: list[str] = []
    for name, part in PARTS.items():
        if any(name in word for word in command):
            needed += [*parts_of(part.command), name]
    return list(dict.fromkeys(needed))


def steps_to(name: str, table: Table) -> Iterator[tuple[str, Command, str | None]]:
    """The folders and commands of a table's parts, with the files that say they are done, and then of its runs."""
    for part in dict.fromkeys(part for run in table.runs.values() for part in parts_of(run.command)):
        made = PARTS[part]
        yield part, (*made.command, "/".join(filter(None, (part, made.within)))), made.file
    for about, run in table.runs.items():
        folder = folder_of(name, about)
        yield folder, (*run.command, folder), None


def folder_of(name: str, about: str) -> str:
    return "{out}/" + "-".join(filter(None, (name, about)))


def keep(name: str, table: Table, filled: Callable[[str], str]) -> None:
    """Copy the figures of a finished table to where the documents look for them."""
    file = table.file or name
    texts: list[str] = []
    figures: dict[str, Any] = {}
    for about, run in table.runs.items():
        folder = ROOT / filled(folder_of(name, about))
        texts.append((folder / f"{run.table}.md").read_text(encoding="utf-8"))
        figures[about] = json.loads((folder / f"{run.figures}.json").read_text(encoding="utf-8"))
        if run.plot is not None:
            shutil.copy(folder / f"{run.plot}.png", IMAGES / f"{file}.png")
    if (sheet := table.sheet) is not None:
        shutil.copy(ROOT / filled(folder_of(name, sheet.about)) / sheet.file, IMAGES / sheet.image)
    (RESULTS / f"{file}.md").write_text("\n".join(texts), encoding="utf-8")
    whole = figures.get("", figures)
    (RESULTS / f"{file}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TABLE", help="as --list gives them")
    parser.add_argument("--list", action="store_true", help="name the tables")
    parser.add_argument("--print", action="store_true", help="print the commands, and run none")
    parser.add_argument("--shared", default="../shared", help="folder with data/ and weights/")
    parser.add_argument("--out", default="runs/tables", help="folder for all that is made")
    args = parser.parse_args()
    if args.list or not args.names:
        for name, table in TABLES.items():
            print(f"{name:12} {table.about}")
        return
    if unknown := [name for name in args.names if name not in TABLES]:
        sys.exit(f"No table is called {unknown[0]!r}. There are: {', '.join(TABLES)}.")

    def filled(text: str) -> str:
        return text.replace("{out}", args.out).replace("{shared}", args.shared)

    for name in args.names:
        for folder, command, file in steps_to(name, TABLES[name]):
            words = [filled(word) for word in command]
            if args.print or file is None or not (ROOT / filled(folder) / file).is_file():
                print(shlex.join(words), flush=True)
                if not args.print:
                    (ROOT / words[-1]).parent.mkdir(parents=True, exist_ok=True)
                    run(words)
        if not args.print:
            keep(name, TABLES[name], filled)


def run(words: Sequence[str]) -> None:
    """Run a command as it was printed, in the project's folder and with this Python; exits where it fails."""
    first = {"python": [sys.executable], "sketchguide": [sys.executable, "-m", "sketchguide"]}[words[0]]
    if subprocess.run([*first, *words[1:]], cwd=ROOT, check=False).returncode:
        sys.exit(f"`{shlex.join(words)}` failed. The same command goes on.")


if __name__ == "__main__":
    main()
