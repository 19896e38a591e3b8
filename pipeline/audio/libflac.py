"""libFLAC itself: whole FLAC files in three quarters of the time that libsndfile takes for them.

The libsndfile in soundfile's wheels (1.2.2) is built without optimisation, and spends much of a
FLAC file's time on copying samples. Here libFLAC's channels are mixed as they come. What it saves
needs a libFLAC on the machine (Debian and Ubuntu: `apt install flac`); what comes out does not:
where there is none, or anything is unusual, libsndfile, which has a libFLAC inside, returns the
same samples, or finds the words for a refusal. (Compared on damaged files: 1.4.2, and 1.4.3 in
libsndfile. 1.3 is left out: it takes samples beyond their bit depth.)
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_size_t, c_uint32, c_void_p
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.audio.limits import WaveformN
from pipeline.audio.mono import mix

FILES = tuple(f"libFLAC.{end}" for end in ("so.14", "so.12", "14.dylib", "12.dylib"))
BITS = (8, 16, 24)  # what libsndfile reads, too, and `mix` adds exactly
READ_ON, READ_END = 0, 1  # FLAC__STREAM_DECODER_READ_STATUS_CONTINUE, .._END_OF_STREAM
WRITE_ON, WRITE_ABORT = 0, 1


class _FrameHeader(ctypes.Structure):
    """The beginning of FLAC__FrameHeader, the same in 1.4 and 1.5."""

    _fields_ = (
        ("samples", c_uint32),
        ("rate_hz", c_uint32),
        ("channels", c_uint32),
        ("assignment", c_int),
        ("bits", c_uint32),
    )


Address = c_void_p  # of what Python need not look into
Read = ctypes.CFUNCTYPE(c_int, Address, Address, ctypes.POINTER(c_size_t), Address)
Write = ctypes.CFUNCTYPE(
    c_int, Address, ctypes.POINTER(_FrameHeader), ctypes.POINTER(c_void_p), Address
)
Error = ctypes.CFUNCTYPE(None, Address, c_int, Address)


def mono(data: bytes, num_samples: int, rate_hz: int, channels: int) -> WaveformN | None:
    """A FLAC file's channels, mixed; None unless it is what its headers say, from end to end."""
    if not is_there():
        return None
    reading = _Reading(data, num_samples, rate_hz, channels)
    return reading.mono_N if reading.run() else None


def is_there() -> bool:
    """Whether this machine has a libFLAC that programs can load."""
    return _library() is not None


class _Reading:
    """One pass of libFLAC over a file, and what it calls back.

    (ctypes drops what a callback raises, such as MemoryError: then samples are missing at the end,
    and libsndfile has its turn.)
    """

    def __init__(self, data: bytes, num_samples: int, rate_hz: int, channels: int) -> None:
        self.mono_N = np.empty(num_samples, dtype=np.float32)
        self._data = data
        self._at_byte = self._at_sample = self._blocks = self._errors = 0
        self._stream = rate_hz, channels

    def run(self) -> bool:
        """Whether every sample came out, and libFLAC had nothing to complain about."""
        library = _library()
        decoder = library.FLAC__stream_decoder_new()
        if decoder is None:
            raise MemoryError
        read, write, error = Read(self._read), Write(self._write), Error(self._error)  # kept alive
        try:
            failed = library.FLAC__stream_decoder_init_stream(
                decoder, read, None, None, None, None, write, None, error, None
            )
            return not failed and self._steps(library, decoder)
        finally:
            library.FLAC__stream_decoder_delete(decoder)

    def _steps(self, library: Any, decoder: int) -> bool:
        """Frame by frame: for a frame that is missing libFLAC writes silence without an error, a
        second block in one step."""
        if not library.FLAC__stream_decoder_process_until_end_of_metadata(decoder):
            return False
        while self._at_sample < len(self.mono_N) and not self._errors:
            before = self._blocks
            if not library.FLAC__stream_decoder_process_single(decoder):
                return False
            if self._blocks != before + 1:
                return False
        return not self._errors

    def _read(self, _: int, buffer: int, num_bytes: Any, __: int) -> int:
        part = self._data[self._at_byte : self._at_byte + num_bytes[0]]
        ctypes.memmove(buffer, part, len(part))
        self._at_byte += len(part)
        num_bytes[0] = len(part)
        return READ_ON if part else READ_END

    def _write(self, _: int, header: Any, planes: Any, __: int) -> int:
        frame = header[0]
        start, end = self._at_sample, self._at_sample + frame.samples
        is_alike = (frame.rate_hz, frame.channels) == self._stream and frame.bits in BITS
        if not is_alike or end > len(self.mono_N):
            return WRITE_ABORT
        plane = ctypes.c_int32 * frame.samples
        channels = [
            np.frombuffer(plane.from_address(planes[channel]), dtype=np.int32)
            for channel in range(frame.channels)
        ]
        mix(channels, self.mono_N[start:end], unit=2.0 ** (1 - frame.bits))
        self._at_sample = end
        self._blocks += 1
        return WRITE_ON

    def _error(self, *_: int) -> None:
        self._errors += 1


@lru_cache(maxsize=1)
def _library() -> Any:
    """The machine's libFLAC, None where there is none."""
    for file in FILES:
        try:
            library = ctypes.CDLL(file)
        except OSError:
            continue
        library.FLAC__stream_decoder_new.restype = Address
        library.FLAC__stream_decoder_init_stream.argtypes = [
            *(Address, Read, Address, Address, Address, Address, Write, Address, Error, Address)
        ]
        library.FLAC__stream_decoder_process_until_end_of_metadata.argtypes = [Address]
        library.FLAC__stream_decoder_process_single.argtypes = [Address]
        library.FLAC__stream_decoder_delete.argtypes = [Address]
        return library
    return None
