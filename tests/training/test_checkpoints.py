import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sketchguide.errors import OutputError, UsageError
from sketchguide.training import checkpoints as module
from sketchguide.training.checkpoints import Checkpoints, check_config, flatten, restore

FILES = ["state.safetensors", "state.json", "manifest.json"]

# Runs in a process of its own, which forks one child for each kill: torch is imported once for all of them.
KILLS = """
import json, os, random, shutil, signal, sys, time, warnings
from pathlib import Path
import torch
from sketchguide.files import locked
from sketchguide.training.checkpoints import Checkpoints

torch.set_num_threads(1)
root = Path(sys.argv[1])

def state(step, mark=0):
    return {"weights": torch.full((50_000,), float(step)), "nested": {"mark": torch.tensor(mark)}}

def check(run, allowed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run.latest()
    what = (found.step, int(found.state["nested"]["mark"]))
    assert what in allowed, (what, allowed)
    assert torch.equal(found.state["weights"], torch.full((50_000,), float(found.step)))
    assert found.meta == {"step": found.step}
    return what

def reap(child):
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)

def fork(work):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)

def die_at(operation):
    # Every operation on the disk is counted: those that the interpreter reports, and fsync.
    seen = 0
    def count(*_):
        nonlocal seen
        seen += 1
        if seen == operation:
            os.kill(os.getpid(), signal.SIGKILL)
    os.fsync = count
    sys.addaudithook(lambda event, _: count() if event == "open" or event.startswith(("os.", "shutil.")) else None)

def phases(step, mark, allowed):
    os.fsync = lambda handle: None  # its work shows after a power cut only
    operation, outcomes = 0, set()
    start = Checkpoints(root / f"start-{step}")
    start.save(1, state(1), {"step": 1})
    start.save(2, state(2), {"step": 2})
    while True:
        operation += 1
        run = Checkpoints(shutil.copytree(start.folder, root / f"{step}-{operation}"))
        def work():
            die_at(operation)
            with locked(run.folder):
                run.save(step, state(step, mark), {"step": step})
        killed = reap(fork(work))
        outcomes.add(check(run, allowed))
        with locked(run.folder):
            run.save(3, state(3, 9), {"step": 3})
        check(run, [(3, 9)])
        names = [path.name.rstrip("~") for path in run.folder.iterdir() if path.name != "lock"]
        assert sorted(names) == ["step-00000002", "step-00000003"], names
        shutil.rmtree(run.folder)
        if not killed:
            return operation - 1, sorted(outcomes)

def random_kills(count):
    run = Checkpoints(root / "random")
    run.save(1, state(1), {"step": 1})
    draw = random.Random(0)
    for _ in range(count):
        start = run.latest().step
        reader, writer = os.pipe()
        def work():
            with locked(run.folder):
                for step in range(start + 1, start + 1000):
                    run.save(step, state(step), {"step": step})
                    os.write(writer, step.to_bytes(4, "big"))
        child = fork(work)
        os.close(writer)
        os.read(reader, 4)
        time.sleep(draw.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert reap(child)
        done = b""
        while piece := os.read(reader, 4096):
            done += piece
        os.close(reader)
        acknowledged = int.from_bytes(done[-4:], "big") if done else start + 1
        check(run, [(acknowledged, 0), (acknowledged + 1, 0)])
    return run.latest().step

print(json.dumps({
    "random": random_kills(20),
    "next step": phases(3, 0, [(2, 0), (3, 0)]),
    "same step": phases(2, 5, [(2, 0), (2, 5)]),
}))
"""


def save_steps(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    run = Checkpoints(folder, keep=keep)
    for step in steps:
        run.save(step, {"value": torch.full((64,), float(step))}, {"loss": step / 7})
    return run


def test_saved_state_and_meta_come_back_equal(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    state: dict[Any, Any] = {
        "model": {"layers.0.weight": shared, "tied": shared, "view": shared.view(2, 3).t(), "empty": torch.empty(0, 4)},
        "half": torch.tensor(1.5, dtype=torch.bfloat16),
        "rng": torch.Generator().manual_seed(3).get_state(),
        "list": [torch.tensor(True), (0.1, None, "text", 7), {}],
        "a": {"b": torch.tensor(1)},
        "a/b": torch.tensor(2),
        3: {"3": torch.tensor(4), 3: torch.tensor(5)},
        "inf": float("inf"),
    }
    path = Checkpoints(tmp_path / "deep" / "run").save(12, state, {"loss": 1 / 3, "config": {"taps": ["down"]}})
    found = Checkpoints(tmp_path / "deep" / "run").latest()
    assert found is not None
    assert path.name == "step-00000012"
    assert (found.step, found.path) == (12, path)
    assert found.meta == {"loss": 1 / 3, "config": {"taps": ["down"]}}
    text = found.state["list"][1]
    assert text == (0.1, None, "text", 7)
    assert isinstance(text, tuple)
    state["list"][1] = found.state["list"][1] = 0
    torch.testing.assert_close(found.state, state, rtol=0, atol=0)
    assert list(found.state) == list(state)


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "absent").latest() is None
    assert Checkpoints(tmp_path).latest() is None


def test_only_the_newest_stay(tmp_path: Path) -> None:
    run = save_steps(tmp_path, 5, 10, 200_000_000, 300_000_000, keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-200000000", "step-300000000"]
    found = run.latest()
    assert found is not None
    assert found.step == 300_000_000


def test_a_damaged_checkpoint_never_counts_as_kept(tmp_path: Path) -> None:
    run = save_steps(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "state.json").write_bytes(b"")
    save_steps(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
    (tmp_path / "step-00000003" / "state.json").write_bytes(b"")
    with pytest.warns(UserWarning, match="step-00000003 is damaged"):
        found = run.latest()
    assert found is not None
    assert found.step == 1
    save_steps(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_a_damaged_checkpoint_gives_way_to_one_of_its_step(tmp_path: Path) -> None:
    run = save_steps(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "state.json").write_bytes(b"")
    save_steps(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    found = run.latest()
    assert found is not None
    assert found.step == 2


def test_an_earlier_step_does_not_hide_behind_a_later_one(tmp_path: Path) -> None:
    run = save_steps(tmp_path, 50)
    with pytest.raises(UsageError, match="step-00000050, which is later than step 3"):
        run.save(3, {}, {})
    run.clear()
    assert run.latest() is None
    assert list(tmp_path.iterdir()) == []
    save_steps(tmp_path, 3)


def test_a_kill_at_any_moment_of_a_save_loses_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    # Fewer operations than these would mean that some went uncounted. Both outcomes occur: old and new.
    assert report["next step"][0] > 25
    assert report["next step"][1] == [[2, 0], [3, 0]]
    assert report["same step"][0] > 25
    assert report["same step"][1] == [[2, 0], [2, 5]]
    assert report["random"] > 20


def test_everything_is_on_the_disk_before_the_name_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save_steps(tmp_path, 1)
    seen: list[str] = []
    sync, rename = os.fsync, os.rename

    def name(inode: int) -> str:
        (found,) = [path for path in (tmp_path, *tmp_path.rglob("*")) if path.stat().st_ino == inode]
        return found.name if found != tmp_path else "folder"

    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(name(os.fstat(handle).st_ino)), sync(handle)))
    monkeypatch.setattr(os, "rename", lambda old, new: (seen.append(f"-> {Path(new).name}"), rename(old, new)))
    run.save(2, {"value": torch.zeros(3)}, {})
    assert seen == [*FILES, "step-00000002.partial", "-> step-00000002", "folder"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_passed_over(tmp_path: Path, name: str, kept: float) -> None:
    run = save_steps(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / name
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.warns(UserWarning, match="step-00000002 is damaged and was skipped"):
        found = run.latest()
    assert found is not None
    assert found.step == 1
    assert torch.equal(found.state["value"], torch.ones(64))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_passed_over(tmp_path: Path, name: str) -> None:
    run = save_steps(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / name).unlink()
    with pytest.warns(UserWarning, match="step-00000002"):
        found = run.latest()
    assert found is not None
    assert found.step == 1


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path, name: str) -> None:
    run = save_steps(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / name
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        if good[place : place + 1].isspace():  # JSON means the same with a tab for a blank
            continue
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.warns(UserWarning, match="step-00000002"):
            found = run.latest()
        assert found is not None
        assert found.step == 1


def test_no_intact_checkpoint_is_none_with_a_warning_for_each(tmp_path: Path) -> None:
    run = save_steps(tmp_path, 1, 2)
    for path in tmp_path.glob("*/state.json"):
        path.unlink()
    with pytest.warns(UserWarning, match="is damaged and was skipped") as caught:
        assert run.latest() is None
    assert len(caught) == 2


def test_a_folder_under_another_step_is_not_believed(tmp_path: Path) -> None:
    run = save_steps(tmp_path, 1)
    (tmp_path / "step-00000001").rename(tmp_path / "step-00000900")
    with pytest.warns(UserWarning, match="step-00000900"):
        assert run.latest() is None


def test_a_full_disk_is_loud_and_harms_nothing(tmp_path: Path) -> None:
    run = save_steps(tmp_path, 1, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match="step 3 cannot be written") as caught:
            run.save(3, {"value": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Earlier checkpoints are intact" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    found = run.latest()
    assert found is not None
    assert found.step == 2


@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_every_refusal_of_the_disk_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    run = save_steps(tmp_path, 1, 2)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        with pytest.raises(OutputError, match=os.strerror(code)):
            run.save(2, {"value": torch.zeros(3)}, {})
    found = run.latest()
    assert found is not None
    assert (found.step, found.meta) == (2, {"loss": 2 / 7})
    save_steps(tmp_path, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_save_that_does_not_read_back_is_loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save_steps(tmp_path, 1)
    sync: Callable[[Path], None] = module._sync

    def rot(path: Path) -> None:
        sync(path)
        if path.name == "state.safetensors":
            path.write_bytes(b"?" + path.read_bytes()[1:])

    with monkeypatch.context() as patched:
        patched.setattr(module, "_sync", rot)
        with pytest.raises(OutputError, match="step 2"):
            run.save(2, {"value": torch.zeros(3)}, {})
    with pytest.warns(UserWarning, match="step-00000002"):
        found = run.latest()
    assert found is not None
    assert found.step == 1


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    run = Checkpoints(tmp_path / "run")
    with pytest.raises(OutputError):
        run.save(1, {}, {})
    assert run.latest() is None


@pytest.mark.parametrize("state", [{"x": object()}, {"x": {(1, 2): 3}}, {"x": {1, 2}}, {"x": b"bytes"}])
def test_what_is_no_state_is_refused_before_anything_is_written(tmp_path: Path, state: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"^x "):
        Checkpoints(tmp_path).save(1, state, {})
    assert list(tmp_path.iterdir()) == []


def test_keep_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keep is 0") as caught:
        Checkpoints(tmp_path, keep=0)
    assert caught.value.field == "keep"


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, betas=(0.8, 0.95)),
    "adamw": lambda parameters: torch.optim.AdamW(
        [{"params": parameters[:1], "lr": 0.3}, {"params": parameters[1:]}], lr=1e-3, weight_decay=0.1, amsgrad=True
    ),
    "tensor-lr": lambda parameters: torch.optim.AdamW(parameters, lr=torch.tensor(0.07)),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "fresh": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, kind: str) -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torch.Generator]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = OPTIMIZERS[kind](list(network.parameters()))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
        return network, optimizer, schedule, torch.Generator().manual_seed(5)

    def train(steps: int, network, optimizer, schedule, rng) -> None:  # type: ignore[no-untyped-def]
        for _ in range(steps):
            given = torch.randn(16, 3, generator=rng)
            loss = (network(given) - given.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    whole = start()
    train(9, *whole)
    first = start()
    train(4, *first)
    network, optimizer, schedule, rng = first
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": rng.get_state(),
    }
    Checkpoints(tmp_path).save(4, state, {})
    train(2, *first)  # what comes after the save must not reach into it

    found = Checkpoints(tmp_path).latest()
    assert found is not None
    second = start()
    network, optimizer, schedule, rng = second
    network.load_state_dict(found.state["network"])
    optimizer.load_state_dict(found.state["optimizer"])
    schedule.load_state_dict(found.state["schedule"])
    rng.set_state(found.state["rng"])
    train(5, *second)
    for resumed, straight in zip(second[0].state_dict().values(), whole[0].state_dict().values(), strict=True):
        assert torch.equal(resumed, straight)
    torch.testing.assert_close(second[1].state_dict(), whole[1].state_dict(), rtol=0, atol=0)


def test_flatten_is_undone_by_restore_through_json() -> None:
    tree = {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"betas": (0.9, 0.999), "lr": 1e-3, "fused": None}]}
    tensors, outline = flatten(tree)
    assert list(tensors) == ["state/0/step"]
    assert restore(tensors, json.loads(json.dumps(outline))) == tree


def test_equal_settings_pass() -> None:
    check_config(
        {"size": [64, 64], "optimizer": {"lr": 1e-4}}, {"optimizer": {"lr": 1e-4}, "size": (64, 64)}, afresh=""
    )


def test_changed_settings_are_shown_with_the_flag_that_helps() -> None:
    saved = {"steps": 100, "map": "edges", "optimizer": {"lr": 1e-4, "eps": 1e-8}, "old": None, "reads": "ink"}
    saved["minutes"] = None
    now = {"steps": 200, "map": "edges", "optimizer": {"lr": 1e-3, "eps": 1e-8}, "new": True, "reads": "", "minutes": 2}
    with pytest.raises(UsageError) as caught:
        check_config(saved, now, afresh="--fresh")
    message = caught.value.message
    assert "steps was 100, now 200" in message
    assert "optimizer.lr was 0.0001, now 0.001" in message
    assert "old" not in message  # None is not set, and so is what is not there
    assert "reads was ink, now empty" in message
    assert "minutes was not set, now 2" in message
    assert "new was not set, now true" in message
    assert "map" not in message
    assert "optimizer.eps" not in message
    assert caught.value.hint == "Repeat the old settings, or give --fresh to start afresh."
    assert caught.value.field == "steps"
    with pytest.raises(UsageError, match=r"checkpoint: the pictures or their captions have changed\. "):
        check_config({"pictures": "12 (ab)"}, {"pictures": "11 (cd)"}, afresh="--fresh")
