"""A scheduler that somebody else started: its address in the config, or in the run, where
`python -m cluster up` left it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

from cluster.standing import Standing, read_standing
from cluster.tls import Keys, given_keys, require_safe
from configs.cluster import ClusterConfig
from configs.errors import ClusterFailed, InputError

CONNECT_LIMIT_S = 30


@contextmanager
def address(config: ClusterConfig, place: Path) -> Iterator[Client]:
    """Only the client is ours to close."""
    where, keys = _where(config, read_standing(place), place)
    require_safe(where, config)
    with connect(where, keys) as client:
        yield client


def _where(
    config: ClusterConfig, standing: Standing | None, place: Path
) -> tuple[str, Keys | None]:
    given = config.address.scheduler
    if given is None and standing is None:
        raise InputError(
            f"cluster.kind=address: no cluster stands in {place.parent}; "
            "`python -m cluster up CONFIG` starts one, or give cluster.address.scheduler"
        )
    if standing is not None and given in (None, standing.address):
        return standing.address, standing.keys
    return str(given), given_keys(config)


def connect(where: str, keys: Keys | None) -> Client:
    """A client of the scheduler; raises ClusterFailed where none answers, or refuses."""
    if keys is None and where.startswith("tls://"):
        raise InputError(f"{where} wants certificates: give cluster.tls.ca, .cert and .key")
    try:
        return Client(where, security=keys and keys.security(), timeout=CONNECT_LIMIT_S)
    except (OSError, RuntimeError) as error:
        raise ClusterFailed(f"no scheduler answers at {where}: {error}") from None
