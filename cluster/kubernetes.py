"""Scheduler and workers as pods, which Dask's operator makes and KubeCluster asks it for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from distributed import Client

from cluster.client import connect
from cluster.extra import extra, one_line
from cluster.pods import cluster_spec
from configs.cluster import ClusterConfig, KubernetesSection
from configs.errors import ClusterFailed

CLUSTERS = "daskclusters.kubernetes.dask.org"
QUIET = ("httpx", "kr8s")


@contextmanager
def kubernetes(config: ClusterConfig, _: Path) -> Iterator[Client]:
    """The client comes through the API server's port forwarding, from inside the cluster, too. A
    driver that was killed leaves its pods; the same command takes them over, and ends them: runs
    at the same time need names of their own (cluster.kubernetes.name)."""
    section = config.kubernetes
    spec = cluster_spec(config)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    _look_at(section)
    with (
        closing(_start(section, spec)) as cluster,
        connect(cluster.scheduler_address, keys=None) as client,
    ):
        yield client


def _look_at(section: KubernetesSection) -> None:
    """Raises ClusterFailed where KubeCluster would: of its own failures it tries to clear up even
    when the program ends."""
    kr8s = extra("kr8s")
    try:
        list(kr8s.api(namespace=section.namespace).get(CLUSTERS))
    except Exception as error:  # of kr8s, httpx, ssl, yaml: whatever keeps us from the API
        raise ClusterFailed(
            f"no Kubernetes with Dask's operator: {one_line(error)}; see whether "
            f"`kubectl get {CLUSTERS}` works here"
        ) from None


def _start(section: KubernetesSection, spec: dict[str, Any]) -> Any:
    try:
        return extra("dask_kubernetes.operator").KubeCluster(
            custom_cluster_spec=spec,
            namespace=section.namespace,
            port_forward_cluster_ip=True,
            shutdown_on_close=True,
            quiet=True,
        )
    except Exception as error:  # whatever stands between the API and a running scheduler
        raise ClusterFailed(
            f"kubernetes: {one_line(error)}; see `kubectl describe daskcluster {section.name}`"
        ) from None
