"""Why a clip cannot be used: every reason code, in one table."""

from __future__ import annotations

REASONS = {
    "missing": "the list names it, but there is no such file, tar member or row",
    "not_a_file": "a directory, a link or a sparse entry stands where audio should be",
    "no_permission": "the file system does not let it be read",
    "empty": "0 bytes",
    "too_large": "over 64 MiB; `windows` in the source cuts long files",
    "unknown_format": "the first bytes are those of no audio format known here",
    "unreadable": "the decoder gave up on damaged or contradictory bytes",
    "truncated": "fewer bytes or samples are there than the file declares",
    "bad_rate": "a sample rate that no recording has",
    "too_many_channels": "more channels than a recording has",
    "too_long": "longer than source.max_clip_s; `windows` in the source cuts long files",
    "no_samples": "no audio in the file, or none in the clip's stretch of it",
    "not_finite": "NaN, infinite or absurdly large samples",
    "silent": "all samples below audio.min_peak",
    "constant": "every sample has the same value",
    "too_short": "shorter than one analysis window",
    "decoder_error": "an error that the decoding code did not foresee: report it, with the file",
    "decoder_crashed": "the decoder crashed on it, twice",
    "decoder_hung": "the decoder did not come to an end, twice",
    "decoder_memory": "the decoder asked for more memory than it may have",
    "kills_worker": "the whole worker died whenever it was read, not only the decoder",
}


class ClipRefused(Exception):
    """A clip that cannot be used: a stable reason code (a key of REASONS), and a detail for
    people. The detail is the same on every machine: no addresses, no absolute paths."""

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is no reason code")
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
