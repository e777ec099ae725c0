"""benchmarks/tables.py: which commands a table takes, and what becomes of their figures."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from support import load_script

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "tables.py"
Tables = Callable[..., ModuleType]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tables:
    """The script as if called with the arguments; its figures go to `tmp_path`/results, plots to `tmp_path`/images."""

    def load(*arguments: str) -> ModuleType:
        module = load_script(SCRIPT, monkeypatch)
        for name in ("results", "images"):
            (tmp_path / name).mkdir(exist_ok=True)
            monkeypatch.setattr(module, name.upper(), tmp_path / name)
        monkeypatch.setattr(sys, "argv", ["tables.py", *arguments, "--out", str(tmp_path / "runs")])
        return module

    return load


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run, each of which leaves what it is to leave, but those of `fail`."""
    ran: list[list[str]] = []

    def run(words: Sequence[str], **_: object) -> SimpleNamespace:
        ran.append(list(words))
        folder = Path(words[-1])
        folder.mkdir(parents=True, exist_ok=True)
        if "fail" in words:
            return SimpleNamespace(returncode=1)
        for name in ("table", "strength", "predictors"):
            (folder / f"{name}.md").write_text(f"{folder.name}\n")
        for name in ("summary", "strength", "predictors", "training"):
            (folder / f"{name}.json").write_text(json.dumps({"of": folder.name}))
        (folder / "strength.png").write_bytes(b"plot")
        for name in ("quickdraw", "quickdraw-stray"):
            (folder / f"{name}.png").write_bytes(f"sheet of {folder.name}".encode())
        (folder / "metadata.jsonl").touch()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("subprocess.run", run)
    return ran


def test_what_a_table_needs_is_made_once_and_before_it(tables: Tables, ran: list[list[str]], tmp_path: Path) -> None:
    tables("spoiled").main()
    folders = [Path(words[-1]).name for words in ran]
    assert folders == ["icon-pictures", "lgp-300", "controlnet-1000", "t2i-adapter-1000", "spoiled"]
    ran.clear()
    tables("spoiled").main()
    assert [Path(words[-1]).name for words in ran] == ["spoiled"]  # which keeps what it made itself
    assert (tmp_path / "results" / "spoiled.md").read_text() == "spoiled\n"
    assert json.loads((tmp_path / "results" / "spoiled.json").read_text()) == {"of": "spoiled"}
    assert (tmp_path / "images" / "stray.png").read_text() == "sheet of spoiled"


def test_pictures_that_the_model_makes_itself_go_into_a_folder_that_is_there(
    tables: Tables, ran: list[list[str]], tmp_path: Path
) -> None:
    module = tables("own")
    module.main()
    (made,) = (Path(words[-1]) for words in ran if "generate" in words)
    assert made == tmp_path / "runs" / "own-pictures" / "picture.png"
    assert made.parent.is_dir()
    prompts = (SCRIPT.parent / "things.txt").read_text().splitlines()
    assert module.PARTS[module.OWN].file == f"picture-{len(prompts)}.png"


def test_a_curve_brings_its_plot(tables: Tables, ran: list[list[str]], tmp_path: Path) -> None:
    tables("strength").main()
    assert len(ran) == 1
    assert (tmp_path / "images" / "curve-strength.png").read_bytes() == b"plot"
    assert (tmp_path / "results" / "curve-strength.md").read_text() == "strength\n"


def test_runs_for_each_set_are_kept_together(tables: Tables, ran: list[list[str]], tmp_path: Path) -> None:
    tables("bench").main()
    drawn = [Path(words[-1]).name for words in ran if "bench" in words]
    assert drawn == ["bench-quickdraw", "bench-tuberlin", "bench-icons"]
    assert json.loads((tmp_path / "results" / "bench.json").read_text()) == {
        name: {"of": f"bench-{name}"} for name in ("quickdraw", "tuberlin", "icons")
    }
    assert (tmp_path / "images" / "follow-quickdraw.png").read_text() == "sheet of bench-quickdraw"
    assert "bench-tuberlin" in (tmp_path / "results" / "bench.md").read_text()
    assert all(words.count("--compare") == 2 for words in ran if "bench" in words)


def test_what_fails_is_named_and_changes_no_figures(
    tables: Tables, ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "methods.md").write_text("before")
    module = tables("methods")
    monkeypatch.setattr(module, "TABLES", {"methods": module.bench("of nothing", "fail")})
    with pytest.raises(SystemExit, match=r"^`sketchguide bench .* failed\. The same command goes on\.$"):
        module.main()
    assert len(ran) == 1
    assert (tmp_path / "results" / "methods.md").read_text() == "before"


def test_commands_can_be_printed(tables: Tables, ran: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    tables("weights", "--print").main()
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("python recipes/icons/pictures.py --data ../shared/data")
    assert last.startswith("python benchmarks/curves.py methods --shared ../shared")
    assert not ran


def test_tables_are_listed_and_others_refused(tables: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    tables().main()
    assert "spoiled      spoiled drawings" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^No table is called 'nope'\. There are: bench, "):
        tables("nope").main()


def test_no_table_lies_where_what_it_needs_does(tables: Tables) -> None:
    module = tables()
    for name, table in module.TABLES.items():
        assert not {module.folder_of(name, about) for about in table.runs} & set(module.PARTS)


def test_no_method_stands_twice_in_a_table(tables: Tables) -> None:
    for table in tables().TABLES.values():
        for run in table.runs.values():
            labels = [run.command[i + 1] for i, word in enumerate(run.command) if word == "--method"]
            assert len(labels) == len(set(labels))
