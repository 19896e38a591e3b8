"""A scheduler that somebody else started: its address in the config, or in the run, where
`python -m cluster up` left it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

from cluster.client import connect
from cluster.standing import is_kept, read_standing
from cluster.tls import Keys, given_keys, require_safe
from configs.cluster import ClusterConfig
from configs.errors import ClusterFailed, InputError


@contextmanager
def address(config: ClusterConfig, home: Path) -> Iterator[Client]:
    """Only the client is ours to close."""
    with connect(*where(config, home)) as client:
        yield client


def where(config: ClusterConfig, home: Path) -> tuple[str, Keys | None]:
    """The scheduler's address, and the keys for it.

    Raises InputError where there is none, or where it is not safe to talk to; ClusterFailed where
    the one that stood there is gone.
    """
    given, standing = config.address.scheduler, read_standing(home)
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
        found = standing.address, standing.keys
    else:
        found = str(given), given_keys(config)
    require_safe(*found, config)
    return found
