"""What a device stands for, in words."""

import pytest

from sketchguide.machine import hardware, processor


def test_a_device_is_told_by_what_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("sketchguide.machine.accelerators", lambda: ["cuda:0 Abacus, 8 GiB", "cuda:1 Slide, 4 GiB"])
    assert hardware("cpu") == f"{processor()}, 2 cores"
    assert hardware("cuda") == "cuda:0 Abacus, 8 GiB"
    assert hardware("mps") == "mps"
