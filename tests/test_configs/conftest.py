"""What the config tests share: a way to write YAML files, and the faults of a config."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from configs.errors import ConfigError
from configs.load import load_config
from tests.test_configs.samples import FaultsOf, WriteYaml


@pytest.fixture
def write_yaml(tmp_path: Path) -> WriteYaml:
    """Write YAML text as a file in the test's directory."""

    def write(text: str, name: str = "job.yaml") -> Path:
        path = tmp_path / name
        path.write_text(dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def faults_of() -> FaultsOf:
    """The faults that loading raises, one line each."""

    def load(path: Path, *overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            load_config(path, overrides)
        return list(raised.value.faults)

    return load
