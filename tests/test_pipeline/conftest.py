"""What the pipeline's tests share: made runs, one with spoiled clips, and real audio."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from configs.schema import Config
from pipeline.verbs import run_verb
from shards.frames import read_shard_frames
from shards.index import open_shards
from shards.layout import Layout
from tests.conftest import tiny_tree
from tests.hub import write_hub
from tests.spoiled import config_of, plant
from tests.workshop import Workshop

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tokenized(made_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a run that went through all stages of the pipeline: only read from it."""
    run = tmp_path_factory.mktemp("tokenized") / "run"
    config = Config.model_validate(tiny_tree(made_clips, run))
    assert run_verb(config, "all") == 0
    return config


@pytest.fixture
def own_run(tokenized: Config, tmp_path: Path) -> Config:
    """The config of a copy of that run, for what writes into it: events, too, are written."""
    shutil.copytree(tokenized.run, tmp_path / "run")
    return tokenized.model_copy(update={"run": tmp_path / "run"})


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set as the Hub holds AudioSet: only read from it."""
    root = tmp_path_factory.mktemp("hub")
    write_hub(root)
    return root


@pytest.fixture(scope="session")
def frames(tokenized: Config) -> npt.NDArray[np.float32]:
    """All frames of the made clips as they are stored, [4160, 64] dB: many are alike."""
    layout = Layout(tokenized.run)
    records = open_shards(layout).records
    stored = np.concatenate([read_shard_frames(layout, record) for record in records])
    return stored.astype(np.float32)


@pytest.fixture(scope="session")
def esc10() -> Path:
    """The directory of ESC-10's audio and list; skips where it is not beside the checkout."""
    return _shared("esc10")


@pytest.fixture(scope="session")
def audioset_lists() -> Path:
    """The directory of AudioSet's own lists; skips where it is not beside the checkout."""
    return _shared("audioset")


def _shared(name: str) -> Path:
    path = REPOSITORY.parent / "shared" / "data" / name
    if not path.is_dir():
        pytest.skip(f"{path} is not on this machine")
    return path


@pytest.fixture(scope="module")
def spoiled(made_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A copy of the made clips with broken files, and their reasons."""
    clips = tmp_path_factory.mktemp("spoiled") / "clips"
    shutil.copytree(made_clips, clips)
    return clips, plant(clips)


@pytest.fixture(scope="module")
def spoiled_run(spoiled: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = config_of(spoiled[0], tmp_path_factory.mktemp("run") / "run")
    assert run_verb(config, "shard") == 3
    return config


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path)
    yield workshop
    for sandbox in workshop.made:
        sandbox.close()
