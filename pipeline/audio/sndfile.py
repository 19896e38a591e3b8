"""libsndfile's decoders, through soundfile: the fastest for WAV, FLAC, Ogg Vorbis and MP3.

Of whole FLAC files in memory libsndfile reads the headers and the first frame, where the machine
has a libFLAC for the rest.
"""

from __future__ import annotations

import io

import soundfile

from pipeline.audio import libflac
from pipeline.audio.flac_frames import first_missing
from pipeline.audio.limits import (
    Samples,
    Source,
    WaveformN,
    Window,
    check_length,
    check_stream,
)
from pipeline.audio.mono import to_mono
from pipeline.audio.refusal import ClipRefused

MP3_RUN_UP_S = 2
MOST_PAGE_SAMPLES = 1 << 18  # of an Ogg page: 255 packets of half a block of 2,048
UNDECLARED_FRAMES = 1 << 60  # libsndfile's word for a length that the file leaves open


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A sound file that is read once, from start to end: soundfile would seek in it otherwise,
    and fails on FLAC that was written to a pipe and so declares no length."""

    def seekable(self) -> bool:
        return False


def seconds(source: Source) -> float | None:
    """The duration by libsndfile's reckoning, None where the file leaves it open."""
    with _opened(source, Window()) as file:
        return file.frames / file.samplerate if file.frames < UNDECLARED_FRAMES else None


def read(source: Source, promised: int | None, window: Window) -> Samples:
    """Decode the window of a file of `promised` samples (None: libsndfile's word is taken).

    Raises ClipRefused where libsndfile gives up, or there is more audio than `max_clip_s`.
    """
    try:
        with _opened(source, window) as file:
            rate_hz = file.samplerate
            check_stream(rate_hz, file.channels)
            if promised is None and file.frames < UNDECLARED_FRAMES:
                promised = file.frames
            wanted = window.wanted(promised, rate_hz)
            most = check_length(wanted, rate_hz, window)
            mono_N = _by_libflac(file, source) if wanted == file.frames else None
            if mono_N is None:
                mono_N = _mono(file, window, most)
                _check_frames(file, source)
    except soundfile.LibsndfileError as error:
        raise ClipRefused("unreadable", error.error_string) from None
    check_length(len(mono_N), rate_hz, window)  # a file that declares no length may go on
    decoder = "libFLAC" if file.format == "FLAC" else "libsndfile"  # which has the other inside
    return Samples(mono_N, file.channels, rate_hz, wanted, decoder)


def _by_libflac(file: soundfile.SoundFile, source: Source) -> WaveformN | None:
    """A whole file, None where it is not for libFLAC."""
    if not (libflac.is_there() and file.format == "FLAC" and isinstance(source, io.BytesIO)):
        return None
    data = source.getvalue()
    try:
        with _ForwardFile(io.BytesIO(data)) as probe:  # faults in metadata, which libFLAC before
            is_sound = len(probe.read(1)) == 1  # 1.4.3 lets pass, and libsndfile does not
    except soundfile.LibsndfileError:
        return None
    return libflac.mono(data, file.frames, file.samplerate, file.channels) if is_sound else None


def _mono(file: soundfile.SoundFile, window: Window, most: int) -> WaveformN:
    """At most so many samples, from the beginning of the window."""
    skipped = 0
    if window.start_s:
        skipped = _seek(file, min(window.start(file.samplerate), file.frames))
    return to_mono(file.read(skipped + most, dtype="float32", always_2d=True)[skipped:])


def _check_frames(file: soundfile.SoundFile, source: Source) -> None:
    """Raises ClipRefused where a FLAC frame is missing: silence came out in its place."""
    is_known = file.frames < UNDECLARED_FRAMES
    if file.format == "FLAC" and is_known and isinstance(source, io.BytesIO):
        at = first_missing(source.getvalue(), file.frames)
        if at is not None:
            raise ClipRefused("truncated", f"the frame at sample {at} of {file.frames} is missing")


def _seek(file: soundfile.SoundFile, start: int) -> int:
    """Go to a sample, or to one before it; returns how many to read and leave out. They must be
    read in one piece with what follows: soundfile seeks again after each read.

    libvorbis counts wrong inside the last page, whose end is cut off to the sample: go to before
    that page. An MP3 frame needs bits that up to 511 bytes before it hold: begin two seconds
    earlier, 2 kB even at the lowest bit rate.
    """
    before = start
    if file.format == "MP3":
        before = max(0, start - MP3_RUN_UP_S * file.samplerate)
    if file.format == "OGG" and start > file.frames - MOST_PAGE_SAMPLES:
        before = max(0, file.frames - MOST_PAGE_SAMPLES)
    file.seek(before)
    return start - before


def _opened(source: Source, window: Window) -> soundfile.SoundFile:
    return soundfile.SoundFile(source) if window.start_s else _ForwardFile(source)
