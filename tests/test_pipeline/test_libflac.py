"""libFLAC by itself: the samples that libsndfile returns, or none at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from pipeline.audio import libflac
from pipeline.audio.decode import AudioFile, read
from pipeline.audio.limits import Samples, Window
from pipeline.audio.refusal import ClipRefused
from tests.broken import without_flac_frame

STATUS = Path("/proc/self/status")
SUBTYPES = ("PCM_S8", "PCM_16", "PCM_24")

pytestmark = pytest.mark.skipif(not libflac.is_there(), reason="this machine has no libFLAC")


def noise(num_samples: int = 30_000, channels: int = 2) -> npt.NDArray:
    """Loud and quiet, so that channels are coded in every way, and their sums need rounding."""
    generator = np.random.default_rng(channels)
    samples_NC = generator.uniform(-1, 1, (num_samples, channels))
    return samples_NC * np.linspace(0, 1, num_samples)[:, None] ** 4


def flac(samples_NC: npt.NDArray, subtype: str = "PCM_24", rate_hz: int = 48_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples_NC, rate_hz, format="FLAC", subtype=subtype)
    return buffer.getvalue()


def direct(data: bytes, rate_hz: int = 48_000) -> npt.NDArray | None:
    """What libFLAC makes of a file whose header is right."""
    promise = AudioFile(data).declared()
    assert promise.samples is not None
    assert promise.channels is not None
    return libflac.mono(data, promise.samples, rate_hz, promise.channels)


def by_libsndfile(data: bytes, monkeypatch: pytest.MonkeyPatch, window: Window) -> Samples | str:
    """What is read where libFLAC is missing: samples, or the words of a refusal."""
    with monkeypatch.context() as patch:
        patch.setattr(libflac, "_library", lambda: None)
        return outcome(data, window)


def outcome(data: bytes, window: Window) -> Samples | str:
    try:
        return read(AudioFile(data), window)
    except ClipRefused as refusal:
        return f"{refusal.reason}: {refusal.detail}"


def assert_same(one: Samples | str, other: Samples | str) -> None:
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
        return
    assert one.mono_N.tobytes() == other.mono_N.tobytes()
    for name in ("channels", "rate_hz", "promised", "decoder"):
        assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 96_000])
def test_the_samples_of_libsndfile_to_the_bit(
    channels: int, subtype: str, rate_hz: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = flac(noise(channels=channels), subtype, rate_hz)
    mono_N = direct(data, rate_hz)
    assert mono_N is not None
    assert mono_N.std() > 0.05
    found = by_libsndfile(data, monkeypatch, Window())
    assert not isinstance(found, str)
    assert mono_N.tobytes() == found.mono_N.tobytes()
    assert_same(outcome(data, Window()), found)


@pytest.mark.parametrize("level", [-1.0, 1.0])
def test_full_scale_is_kept(level: float) -> None:
    mono_N = direct(flac(np.full((9_000, 2), level)))
    assert mono_N is not None
    assert mono_N.min() == mono_N.max() == pytest.approx(level, abs=2**-22)


@pytest.mark.parametrize("num_samples", [1, 15, 4_096, 4_097])
def test_any_length(num_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = flac(noise(num_samples))
    assert_same(outcome(data, Window()), by_libsndfile(data, monkeypatch, Window()))


@pytest.mark.parametrize(
    "window",
    [Window(0.1), Window(0, 0.2), Window(0.1, 0.2), Window(0, 9), Window(0, None, 0.1)],
    ids=["from", "up to", "between", "beyond the end", "too long"],
)
def test_windows_are_the_same(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    data = flac(noise())
    assert_same(outcome(data, window), by_libsndfile(data, monkeypatch, window))


def test_what_is_not_smooth_is_left_to_libsndfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte of the headers and every hundredth of the frames changed, in turn, and the file cut
    there: the same samples, or refused with the same words."""
    data = flac(noise(6_000))
    refused = 0
    for place in (*range(200), *range(200, len(data), 101)):
        flipped = [data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :] for bit in (2, 16)]
        for damaged in (data[:place], *flipped):
            found = outcome(damaged, Window())
            refused += isinstance(found, str)
            assert_same(found, by_libsndfile(damaged, monkeypatch, Window()))
    assert refused > 100


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("number", [0, 1, 3, 5])
def test_a_frame_that_is_missing_is_no_silence(
    number: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libFLAC fills the gap, and older ones lose the frame behind it, too: all without an error."""
    data = without_flac_frame(flac(noise(channels=channels)), number)
    found = outcome(data, Window())
    assert found == f"truncated: the frame at sample {4_096 * number} of 30000 is missing"
    assert found == by_libsndfile(data, monkeypatch, Window())


def test_bytes_after_the_end_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    data = flac(noise()) + b"TAG" + bytes(125)
    assert_same(outcome(data, Window()), by_libsndfile(data, monkeypatch, Window()))


@pytest.mark.parametrize(
    "claim",
    [(5_900, 48_000, 2), (6_100, 48_000, 2), (6_000, 44_100, 2), (6_000, 48_000, 1)],
    ids=["fewer samples", "more samples", "another rate", "fewer channels"],
)
def test_frames_that_are_not_as_claimed_are_left(claim: tuple[int, int, int]) -> None:
    """Nothing is written beyond the room for the samples claimed, either."""
    data = flac(noise(6_000))
    assert libflac.mono(data, 6_000, 48_000, 2) is not None
    assert libflac.mono(data, *claim) is None


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
def test_no_decoder_outlives_its_file() -> None:
    """A thousand files leave no memory behind (a decoder holds about 300 KiB)."""
    data = flac(noise(4_096))
    for _ in range(50):
        direct(data)
    before_kib = resident_kib()
    for _ in range(1_000):
        direct(data)
    assert resident_kib() - before_kib < 20_000


def resident_kib() -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
