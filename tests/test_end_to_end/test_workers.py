"""The same bytes in one process and on one and on four Dask workers (`test_resources.py` and the
torture have two)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import data_files, succeed, write_config
from tests.conftest import tiny_tree


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(made_clips: Path, tmp_path: Path) -> None:
    trees = {}
    for name, cluster in {
        "inline": {"kind": "inline"},
        "one": {"kind": "local", "workers": 1},
        "four": {"kind": "local", "workers": 4},
    }.items():
        tree = tiny_tree(made_clips, tmp_path / name) | {"cluster": cluster}
        succeed("pipeline", "all", write_config(tmp_path / f"{name}.yaml", tree))
        trees[name] = data_files(tmp_path / name)
    assert sum(path.startswith("audio/") for path in trees["inline"]) == 8
    assert trees["inline"] == trees["one"] == trees["four"]
