"""A cluster that stands without a command: where it is, in a file that `status` and `down` and
`cluster.kind=address` find it by."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cluster.tls import Keys
from configs.errors import InputError

FILE_NAME = "standing.json"


@dataclass(frozen=True)
class Standing:
    """Where a standing cluster is, and which process keeps it."""

    kind: str
    address: str
    dashboard: str
    host: str  # of the keeper
    pid: int
    started: str  # UTC
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @property
    def keys(self) -> Keys | None:
        if self.ca is None or self.cert is None or self.key is None:
            return None
        return Keys(Path(self.ca), Path(self.cert), Path(self.key))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError or TypeError for text that is not a standing cluster."""
        tree: Any = json.loads(text)
        return cls(**tree)


def read_standing(place: Path) -> Standing | None:
    """The cluster that stands in a run, None where none does."""
    path = place / FILE_NAME
    try:
        return Standing.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise InputError(f"{path} is damaged: remove it, and end its keeper by hand") from None
