"""Weight files must be whole, and open to whoever may read other files of their writer."""

from pathlib import Path

import pytest
import torch

from sketchguide.errors import OutputError
from sketchguide.weights import read_weights, write_weights


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16)}
    write_weights(tensors, tmp_path / "new" / "w.safetensors", metadata={"kind": "test"}, field="output")
    found, header = read_weights(tmp_path / "new" / "w.safetensors", field="path")
    assert header == {"kind": "test"}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())


def test_a_weight_file_has_the_permissions_of_any_other_file(tmp_path: Path) -> None:
    write_weights({"a": torch.ones(2)}, tmp_path / "w.safetensors", metadata={}, field="output")
    (tmp_path / "other").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(OutputError, match="not a file to write"):
        write_weights({"a": torch.ones(2)}, tmp_path / "w.safetensors", metadata={}, field="output")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
