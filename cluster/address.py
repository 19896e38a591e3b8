"""A scheduler that somebody else started: its address in the config, or in the run, where
`python -m cluster up` left it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

from cluster.client import connect
from cluster.standing import Standing, is_kept, read_standing
from cluster.tls import Keys, given_keys, require_safe
from configs.cluster import ClusterConfig
from configs.errors import ClusterFailed, InputError


@contextmanager
def address(config: ClusterConfig, home: Path) -> Iterator[Client]:
    """Only the client is ours to close."""
    where, keys = _where(config, read_standing(home), home)
    require_safe(where, config)
    with connect(where, keys) as client:
        yield client


def _where(config: ClusterConfig, standing: Standing | None, home: Path) -> tuple[str, Keys | None]:
    given = config.address.scheduler
    if given is None and standing is None:
        raise InputError(
            f"cluster.kind=address: no cluster stands in {home.parent}; "
            "`python -m cluster up CONFIG` starts one, or give cluster.address.scheduler"
        )
    if standing is not None and given in (None, standing.address):
        if standing.is_kept_here and not is_kept(home):
            raise ClusterFailed(
                f"the cluster that stood in {home.parent} has lost its keeper, and ends by itself: "
                f"`python -m cluster down {home.parent}`, then `up`"
            )
        return standing.address, standing.keys
    return str(given), given_keys(config)
