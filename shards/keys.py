"""From clip ids, which may be anything, to tar keys, which may not.

WebDataset splits member names at the first dot, and datasets on the Hub mix clips up when a key
has one; so keys hold letters, digits, `_` and `-` only, with `~` as the escape.
"""

from __future__ import annotations

import hashlib
import re

_UNSAFE = re.compile(r"[^0-9A-Za-z_-]")
MAX_KEY_CHARS = 80  # a USTAR member name holds 100 bytes, with the suffix


def key_of(clip_id: str) -> str:
    """The tar key of a clip id: equal to the id where that is safe, never equal for two ids.

    An unsafe character becomes `~` and its UTF-8 bytes in hex and `~`; a key too long for a tar
    header keeps its start and ends in a hash of the id.
    """
    key = _UNSAFE.sub(lambda match: f"~{match.group().encode().hex()}~", clip_id)
    if len(key) <= MAX_KEY_CHARS:
        return key
    digest = hashlib.sha256(clip_id.encode()).hexdigest()[:16]
    return f"{key[: MAX_KEY_CHARS - 18]}~~{digest}"
