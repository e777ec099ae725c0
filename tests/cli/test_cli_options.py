"""What options that several commands share are read as."""

import pytest

from sketchguide.cli.options import parse_size
from sketchguide.errors import UsageError


def test_parse_size():
    assert parse_size("512x768") == (512, 768)
    assert parse_size("64×32") == (64, 32)
    for wrong in ("512", "512x", "-1x5", "axb", "1e3x5", "٣x٣"):
        with pytest.raises(UsageError, match="width x height"):
            parse_size(wrong)
