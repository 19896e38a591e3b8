"""Generated clips: the same for the same seed, labelled truly, and sounding as they are named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import Config
from pipeline.sources import read_source
from pipeline.synth import SAMPLE_RATE_HZ, SOUNDS, clip_id, main, make_clip, write_set
from tests.conftest import CLIP_S, NUM_CLIPS, MakeConfig

SEEDS = range(8)


def hashes(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def stamps(directory: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in directory.rglob("*")}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), number=st.integers(0, 10_000))
def test_a_clip_is_a_pure_function_of_seed_and_number(seed: int, number: int) -> None:
    clip, again = make_clip(seed, number, 0.5), make_clip(seed, number, 0.5)
    assert clip.samples_N2.tobytes() == again.samples_N2.tobytes()
    assert (clip.id, clip.classes) == (again.id, again.classes)
    assert clip.samples_N2.shape == (SAMPLE_RATE_HZ // 2, 2)
    assert np.abs(clip.samples_N2).max() <= 1
    assert 1 <= len(set(clip.classes)) == len(clip.classes) <= 3
    assert set(clip.classes) <= set(range(len(SOUNDS)))


def test_seeds_and_numbers_give_different_clips() -> None:
    waves = {make_clip(s, n, 0.2).samples_N2.tobytes() for s in range(4) for n in range(4)}
    ids = {clip_id(seed, number) for seed in range(20) for number in range(200)}
    assert len(waves) == 16
    assert len(ids) == 4_000
    assert {len(each) for each in ids} == {11}


def test_a_set_is_the_same_each_time_and_begins_any_longer_set(tmp_path: Path) -> None:
    for name, clips in (("one", 5), ("two", 5), ("more", 10)):
        write_set(tmp_path / name, clips, seed=3, seconds=0.3)
    one, more = hashes(tmp_path / "one"), hashes(tmp_path / "more")
    assert one == hashes(tmp_path / "two")
    assert {n: h for n, h in one.items() if n.startswith("audio/")}.items() <= more.items()


def test_labels_and_files_are_those_of_the_lists(made_clips: Path, make_config: MakeConfig) -> None:
    config: Config = make_config()
    catalogue = read_source(config.source)
    assert [name.name for name in catalogue.classes] == list(SOUNDS)
    rows = {row["id"]: row for row in catalogue.clips.to_pylist()}
    assert len(rows) == NUM_CLIPS
    for number in range(NUM_CLIPS):
        clip = make_clip(7, number, CLIP_S)
        row = rows[clip.id]
        assert tuple(row["labels"]) == clip.classes
        assert row["set"] == ("train" if number % 5 else "eval")
        assert row["duration_s"] == CLIP_S
        info = soundfile.info(made_clips / row["path"])
        assert (info.frames, info.samplerate, info.channels) == (48_000, SAMPLE_RATE_HZ, 2)


def test_files_hold_the_samples(made_clips: Path) -> None:
    clip = make_clip(7, 0, CLIP_S)
    stored_N2, _ = soundfile.read(made_clips / "audio" / f"{clip.id}.flac")
    assert np.abs(stored_N2 - clip.samples_N2).max() < 2.0**-14


def test_the_command_writes_once_and_refuses_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(tmp_path / "set"), "--clips", "6", "--seconds", "0.3", "--seed", "2"]
    assert main(asked) == 0
    before, held = stamps(tmp_path / "set"), hashes(tmp_path / "set")
    assert main(asked) == 0
    assert "nothing to do" in capsys.readouterr().out
    for other in (["--clips", "7"], ["--seconds", "0.4"], ["--seed", "3"]):
        assert main([*asked, *other]) == 2
        assert "give another DIR" in capsys.readouterr().out
    assert stamps(tmp_path / "set") == before
    assert hashes(tmp_path / "set") == held


def test_a_set_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    asked = ["--clips", "6", "--seconds", "0.3"]
    assert main([str(tmp_path / "whole"), *asked]) == 0
    write_set(tmp_path / "cut", 3, seed=0, seconds=0.3)
    for name in ("class_labels_indices.csv", "eval_segments.csv", "train_segments.csv"):
        (tmp_path / "cut" / name).unlink()
    assert main([str(tmp_path / "cut"), *asked]) == 0
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")


# --- each class sounds as it is named --------------------------------------------------------


def sound(name: str, seed: int, seconds: float = 2.0) -> npt.NDArray[np.float64]:
    return SOUNDS[name](np.random.default_rng(seed), seconds)


def peak_hz(wave_N: npt.NDArray) -> float:
    spectrum = np.abs(np.fft.rfft(wave_N * np.hanning(len(wave_N))))
    return float(spectrum.argmax() * SAMPLE_RATE_HZ / len(wave_N))


def peaks_hz(wave_N: npt.NDArray, pieces: int) -> list[float]:
    return [peak_hz(piece_N) for piece_N in np.array_split(wave_N, pieces)]


def envelope(wave_N: npt.NDArray, piece_s: float = 0.005) -> npt.NDArray:
    """Loudness over time, in pieces."""
    piece = int(piece_s * SAMPLE_RATE_HZ)
    whole_N = wave_N[: len(wave_N) // piece * piece]
    return np.sqrt((whole_N.reshape(-1, piece) ** 2).mean(axis=1))


def pulses_per_s(wave_N: npt.NDArray, piece_s: float = 0.005) -> float:
    """How often the sound begins again."""
    loud = envelope(wave_N, piece_s) > 0.3 * envelope(wave_N, piece_s).max()
    return float((np.diff(loud.astype(int)) == 1).sum() * SAMPLE_RATE_HZ / len(wave_N))


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_sound_is_audible_finite_and_about_as_long_as_asked(name: str, seed: int) -> None:
    wave_N = sound(name, seed)
    assert np.isfinite(wave_N).all()
    assert 0.1 < np.abs(wave_N).max() < 2.2
    assert len(wave_N) == pytest.approx(2 * SAMPLE_RATE_HZ, abs=8)


@pytest.mark.parametrize("seed", SEEDS)
def test_tones_lie_where_their_names_say(seed: int) -> None:
    assert 119 < peak_hz(sound("Low tone", seed)) < 351
    assert 2_499 < peak_hz(sound("High tone", seed)) < 6_001


@pytest.mark.parametrize("seed", SEEDS)
def test_chirps_rise_and_fall(seed: int) -> None:
    rising, falling = (peaks_hz(sound(f"{way} chirp", seed), 10) for way in ("Rising", "Falling"))
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert rising[-1] > 3 * rising[0]
    assert falling[0] > 3 * falling[-1]


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_is_flat_and_rumble_is_low(seed: int) -> None:
    for name, least, most in (("Noise burst", 0.4, 0.6), ("Rumble", 0.0, 0.001)):
        power = np.abs(np.fft.rfft(sound(name, seed))) ** 2
        assert least < power[len(power) // 2 :].sum() / power.sum() < most


@pytest.mark.parametrize("seed", SEEDS)
def test_pulsed_sounds_pulse_at_their_rates(seed: int) -> None:
    assert 5.4 < pulses_per_s(sound("Clicks", seed)) < 14.6
    assert 3.4 < pulses_per_s(sound("Tremolo", seed)) < 9.6
    assert 1.4 < pulses_per_s(sound("Beeps", seed)) < 4.6
    assert envelope(sound("Beeps", seed)).min() == 0
    assert 600 < peak_hz(sound("Tremolo", seed)) < 1_500
    assert 880 < peak_hz(sound("Beeps", seed)) < 2_020


@pytest.mark.parametrize("seed", SEEDS)
def test_a_siren_moves_up_and_down_at_one_level(seed: int) -> None:
    heard = peaks_hz(sound("Siren", seed), 80)
    assert max(heard) > 1.4 * min(heard)
    assert min(heard) >= 490
    assert max(heard) < 1_900
    assert (np.diff(np.sign(np.diff(heard))) != 0).sum() > 4
    assert np.ptp(envelope(sound("Siren", seed), 0.02)) < 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_melody_has_notes_one_after_another_and_a_chord_at_once(seed: int) -> None:
    notes_midi = 69 + 12 * np.log2(np.array(peaks_hz(sound("Melody", seed), 8)) / 440)
    assert np.abs(notes_midi - notes_midi.round()).max() < 0.25
    assert {int(note) % 12 for note in notes_midi.round()} <= {0, 2, 4, 7, 9}
    assert len(set(notes_midi.round())) > 1
    spectrum = np.abs(np.fft.rfft(sound("Chord", seed)))
    root_hz = min(np.argsort(spectrum)[-3:]) * SAMPLE_RATE_HZ / len(sound("Chord", seed))
    root_midi = 69 + 12 * np.log2(root_hz / 440)
    assert 47.5 < root_midi < 59.5
    for step in (0, 4, 7):
        place = round(root_hz * 2 ** (step / 12) * len(sound("Chord", seed)) / SAMPLE_RATE_HZ)
        assert spectrum[place - 2 : place + 3].max() > 0.5 * spectrum.max()
