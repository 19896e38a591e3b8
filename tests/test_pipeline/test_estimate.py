"""`shard --dry-run`: counts that are right, figures that add up, nothing made."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import load_config
from pipeline import estimate
from pipeline.__main__ import VERBS
from tests.conftest import NUM_CLIPS, MakeConfig

ROOT = Path(__file__).parents[2]


def lines_of(text: str) -> dict[str, list[str]]:
    """The words of every line by its first."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}


def test_audioset_as_configured(
    audioset_lists: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(ROOT / "configs" / "audioset.yaml", [f"run={tmp_path / 'run'}"])
    assert VERBS["shard"].modes["--dry-run"].run(config) == 0
    lines = lines_of(capsys.readouterr().out)
    assert lines["set"][:4] == ["clips", "labels", "classes", "shards"]
    assert lines["balanced"][:4] == ["22160", "52882", "527", "22"]
    assert lines["eval"][:4] == ["20371", "51804", "527", "20"]
    assert lines["all"][:4] == ["42531", "104686", "527", "42"]
    assert lines["527"][:4] == ["classes,", "1024", "clips", "a"]
    assert not (tmp_path / "run").exists()


def test_bytes_and_hours_add_up(
    capsys: pytest.CaptureFixture[str], make_config: MakeConfig
) -> None:
    config = make_config()
    parts = estimate.disk_bytes(config, 3_600)
    assert parts["audio"] == pytest.approx(3_600 * 22_050 * estimate.FLAC_BYTES_PER_SAMPLE)
    assert parts["tokens"] == pytest.approx(3_600 * 22_050 / 512 * 2)
    assert estimate.run(config) == 0
    lines = lines_of(capsys.readouterr().out)
    assert int(lines["all"][0]) == NUM_CLIPS == int(lines["train"][0]) + int(lines["eval"][0])
    assert int(lines["all"][3]) == 8


@pytest.mark.parametrize("store", ["source", "none"])
def test_only_flac_is_counted_as_audio(make_config: MakeConfig, store: str) -> None:
    assert estimate.disk_bytes(make_config(audio={"store": store}), 60)["audio"] == 0


def test_the_estimate_of_stored_bytes_is_near_the_truth(
    made_clips: Path, tokenized: object
) -> None:
    """Within a factor of two of what 64 made clips took, kind by kind."""
    run = tokenized.run  # type: ignore[attr-defined]
    expected = estimate.disk_bytes(tokenized, NUM_CLIPS * 1.5)  # type: ignore[arg-type]
    for kind, pattern in (("audio", "audio/*"), ("frames", "frames.zarr/**/*")):
        taken = sum(path.stat().st_size for path in run.glob(pattern) if path.is_file())
        assert 0.5 < taken / expected[kind] < 2


def test_a_clip_without_a_declared_duration_counts_as_ten_seconds(esc10: Path) -> None:
    from configs.sources import EscSource
    from pipeline.sources import read_source

    clips = read_source(EscSource(kind="esc", root=str(esc10))).clips
    assert estimate.audio_seconds(clips) == 400 * estimate.NOMINAL_CLIP_S
