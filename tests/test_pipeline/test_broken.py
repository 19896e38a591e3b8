"""Broken files: each is refused with its reason, and none of them ends or feeds the decoder."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from configs.frames import MelFrames
from configs.schema import AudioConfig
from pipeline.audio.clip import Clip
from pipeline.audio.decode import AudioFile, decode
from pipeline.audio.limits import Window
from pipeline.audio.refusal import REASONS, ClipRefused
from pipeline.audio.sandbox import Given, Sandbox
from tests.broken import RATE_HZ, SECONDS, Broken, corpus, good, samples

AUDIO = AudioConfig()
FRAME = 1024 / 44_100  # of AAC, which pads its ends with up to two


@pytest.fixture(scope="module")
def broken_files() -> list[Broken]:
    return list(corpus())


@pytest.fixture(scope="module")
def whole_files() -> dict[str, bytes]:
    return good()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


def ask(sandbox: Sandbox, data: bytes) -> Clip | ClipRefused:
    sandbox.buffer[: len(data)] = data
    try:
        return sandbox.clip(Given(len(data)), Window(), AUDIO, MelFrames())
    except ClipRefused as refusal:
        return refusal


def pid_of(sandbox: Sandbox) -> int:
    assert sandbox.pid is not None
    return sandbox.pid


def peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0])


def test_the_corpus_is_large_and_each_of_its_files_is_another(broken_files: list[Broken]) -> None:
    assert len(broken_files) >= 200
    assert len({broken.kind for broken in broken_files}) >= 30
    assert len({broken.data for broken in broken_files}) >= 200


def test_each_file_is_refused_with_its_reason_by_one_child(
    broken_files: list[Broken], whole_files: dict[str, bytes], sandbox: Sandbox
) -> None:
    assert isinstance(ask(sandbox, whole_files["wav16"]), Clip)
    first = pid_of(sandbox)
    wrong = []
    for broken in broken_files:
        answer = ask(sandbox, broken.data)
        if not isinstance(answer, ClipRefused) or not broken.is_reason(answer.reason):
            wrong.append((broken.kind, broken.name, broken.reason, answer))
    assert not wrong
    assert pid_of(sandbox) == first
    assert isinstance(ask(sandbox, whole_files["wav16"]), Clip)


def test_details_are_for_people_and_the_same_everywhere(
    broken_files: list[Broken], sandbox: Sandbox
) -> None:
    for broken in broken_files:
        refusals = [ask(sandbox, broken.data) for _ in range(2)]
        details = [r.detail for r in refusals if isinstance(r, ClipRefused)]
        assert details[0] == details[1]
        assert not re.search(r"0x[0-9a-f]{4}|<_io|object at", details[0]), "an address in memory"
        assert not re.search(r"(^|[\s\'\"])/\w", details[0]), "an absolute path"
        assert details[0]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with a few bytes flipped, overwritten, cut out, put in or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 40))):
        at = rng.randrange(min(len(changed), rng.choice((64, 512, 1 << 30))))
        deed = rng.randrange(5)
        if deed == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif deed == 1:
            changed[at : at + 4] = rng.choice((rng.randbytes(4), b"\xff" * 4))
        elif deed == 2:
            del changed[at : at + rng.randrange(1, 2000)]
        elif deed == 3:
            changed[at:at] = rng.randbytes(rng.randrange(1, 50))
        else:
            del changed[at + 1 :]
        changed = changed or bytearray(b"x")
    return bytes(changed)


@pytest.mark.slow
def test_no_damage_meets_an_error_that_nobody_foresaw(
    whole_files: dict[str, bytes], sandbox: Sandbox
) -> None:
    rng, kinds = random.Random(6), sorted(whole_files)
    for number in range(3_000):
        kind = kinds[number % len(kinds)]
        data = mutated(whole_files[kind], rng)
        answer = ask(sandbox, data)
        if isinstance(answer, ClipRefused):
            assert not answer.reason.startswith("decoder_"), f"{kind} {number}: {answer}"


@pytest.mark.parametrize("kind", ["m4a", "webm"])
def test_tags_that_are_no_utf8_cost_nothing(
    kind: str, whole_files: dict[str, bytes], sandbox: Sandbox
) -> None:
    data = whole_files[kind]
    latin = data.replace(b"Lavf", b"La\xe9f")
    assert latin != data
    answers = [ask(sandbox, each) for each in (data, latin)]
    assert all(isinstance(answer, Clip) for answer in answers)
    assert answers[0].frames_TM.tobytes() == answers[1].frames_TM.tobytes()


def test_every_reason_that_decoding_can_give_has_its_files(broken_files: list[Broken]) -> None:
    of_reading = {"missing", "not_a_file", "no_permission", "too_large"}
    of_the_child = {"decoder_error", "decoder_crashed", "decoder_hung", "decoder_memory"}
    given = set()
    for broken in broken_files:
        given |= {broken.reason} if isinstance(broken.reason, str) else set(broken.reason)
    assert given == set(REASONS) - of_reading - of_the_child - {"kills_worker"}


@pytest.mark.slow
def test_ten_rounds_of_the_corpus_leave_nothing_behind(
    broken_files: list[Broken], whole_files: dict[str, bytes], sandbox: Sandbox
) -> None:
    peaks = []
    for _ in range(10):
        for data in [*whole_files.values(), *(broken.data for broken in broken_files)]:
            ask(sandbox, data)
        peaks.append(peak_kib(pid_of(sandbox)))
    assert peaks[-1] <= peaks[1] * 1.02, peaks


@pytest.mark.parametrize("name", list(good()))
def test_a_whole_file_of_every_format_sounds_as_it_should(
    name: str, whole_files: dict[str, bytes]
) -> None:
    wave_N = decode(AudioFile(whole_files[name]), AUDIO).waveform_N
    seconds = len(wave_N) / AUDIO.sample_rate_hz
    assert SECONDS - 1 / RATE_HZ <= seconds <= SECONDS + 2 * FRAME + 1 / RATE_HZ
    original_N = samples()[:, 0]
    delay, level = aligned(wave_N, original_N)
    assert 0 <= delay <= 1024 * AUDIO.sample_rate_hz / 44_100 + 1
    lost_db = 20 * np.log10(level)
    is_lossy = name in ("vorbis", "mp3", "m4a", "opus", "webm", "aac", "adpcm")
    assert lost_db == pytest.approx(0, abs=0.3 if is_lossy else 0.02)


def aligned(wave_N: np.ndarray, original_N: np.ndarray) -> tuple[int, float]:
    """By how many samples one wave follows the other, and its level where they meet: a chirp
    only meets itself at its own pitch."""
    size = 1 << (len(wave_N) + len(original_N)).bit_length()
    spectrum = np.fft.rfft(wave_N, size) * np.conj(np.fft.rfft(original_N, size))
    correlation = np.fft.irfft(spectrum, size)
    delay = int(correlation.argmax())
    return delay, float(correlation[delay] / (original_N.astype(np.float64) ** 2).sum())


def test_the_sandbox_gives_what_decoding_here_gives(
    whole_files: dict[str, bytes], sandbox: Sandbox
) -> None:
    from pipeline.audio.clip import make_clip

    for name, data in whole_files.items():
        here = make_clip(AudioFile(data), Window(), AUDIO, MelFrames())
        there = ask(sandbox, data)
        assert isinstance(there, Clip), name
        assert there.facts == here.facts
        assert there.flac == here.flac
        assert there.frames_TM.tobytes() == here.frames_TM.tobytes()
