"""How many processes share the tests, and the fixtures, where tests run."""

import os

import pytest


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: some tests wait for a browser, or for a process of their own."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """The process that only hands tests out need not import torch, which takes seconds before the others start."""
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("common")
