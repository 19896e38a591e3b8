"""What Dask's operator is told about a cluster of pods. Pure: nothing is started here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.command import worker_words
from cluster.extra import extra
from cluster.settings import LOOPBACK, environment, num_workers, settings
from cluster.tls import Keys
from configs.cluster import ClusterConfig, KubernetesSection
from configs.errors import ConfigError

KEYS_AT = Path("/keys")
USER = 1000  # the images' own
DRIVER_PORT, PORT, DASHBOARD_PORT = 8785, 8786, 8787
GRACE_S = 60
HEALTH = (
    "import urllib.request as request; "
    f"request.urlopen('http://{LOOPBACK}:{DASHBOARD_PORT}/health', timeout=10)"
)
Tree = dict[str, Any]


def cluster_spec(config: ClusterConfig) -> Tree:
    """The DaskCluster resource: a scheduler and a fixed number of workers, which the operator
    keeps, without an autoscaler, which would retire busy ones.

    Raises ConfigError where the config leaves out what a safe cluster needs.
    """
    section = config.kubernetes
    missing = [*missing_from(config)]
    if missing:
        raise ConfigError("cluster.kind=kubernetes", missing)
    spec: Tree = extra("dask_kubernetes.operator").make_cluster_spec(
        name=section.name,
        image=section.image,
        n_workers=num_workers(config),
    )
    scheduler, worker = spec["spec"]["scheduler"], spec["spec"]["worker"]
    [of_scheduler], [of_worker] = scheduler["spec"]["containers"], worker["spec"]["containers"]
    of_scheduler |= _scheduler_container(config) | _shared_container(section)
    of_worker |= _worker_container(config) | _shared_container(section)
    for part in (scheduler, worker):
        part["spec"] |= _pod(section)
    scheduler["service"]["ports"] = [
        {"name": port["name"], "port": port["containerPort"], "targetPort": port["name"]}
        for port in of_scheduler["ports"]
    ]
    return spec


def missing_from(config: ClusterConfig) -> Iterator[str]:
    """What a safe cluster needs, and the config does not name."""
    section = config.kubernetes
    if section.volume_claim is None:
        yield (
            "cluster.kubernetes.volume_claim: name the claim that holds run and sources, which all "
            f"pods see at {section.mount}"
        )
    if section.tls_secret is None and not config.insecure:
        namespace = f" --namespace {section.namespace}" if section.namespace else ""
        yield (
            "cluster.kubernetes.tls_secret: without one anyone in the cluster could run code in "
            f"the pods; make it with `kubectl create secret generic {section.name}-tls{namespace} "
            "--from-file=ca.pem --from-file=cert.pem --from-file=key.pem`, or say "
            "cluster.insecure=true"
        )


def _scheduler_container(config: ClusterConfig) -> Tree:
    """KubeCluster's driver speaks plain TCP, and only that: it comes through the API server's
    port forwarding, which ends on the pod's loopback. Workers come from other pods, with TLS."""
    if config.kubernetes.tls_secret is None:
        listeners = {"tcp-comm": ("tcp://", "0.0.0.0", PORT)}  # noqa: S104 - as `insecure` says
    else:
        listeners = {
            "tls-comm": ("tls://", "0.0.0.0", PORT),  # noqa: S104 - whoever has a key
            "tcp-comm": ("tcp://", LOOPBACK, DRIVER_PORT),
        }
    protocols, hosts, ports = (list(column) for column in zip(*listeners.values(), strict=True))
    dashboard = f"{LOOPBACK}:{DASHBOARD_PORT}"
    options = {
        "protocol": protocols,
        "host": hosts,
        "port": ports,
        "dashboard_address": dashboard,
    }
    spec = json.dumps({"cls": "distributed.Scheduler", "opts": options})
    named = {name: port for name, (_, _, port) in listeners.items()}
    named["http-dashboard"] = DASHBOARD_PORT
    return {
        "args": ["python", "-m", "distributed.cli.dask_spec", "--spec", spec],
        "env": _environment(config, {"distributed.comm.require-encryption": False}),
        "ports": [{"name": name, "containerPort": port} for name, port in named.items()],
        "readinessProbe": _probe(5),
        "livenessProbe": {**_probe(30), "initialDelaySeconds": 30},
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
    }


def _probe(period_s: int) -> Tree:
    """From inside of the pod, as the dashboard is on its loopback."""
    command = ["python", "-c", HEALTH]
    return {"exec": {"command": command}, "timeoutSeconds": 15, "periodSeconds": period_s}


def _worker_container(config: ClusterConfig) -> Tree:
    section = config.kubernetes
    scheme = "tls" if section.tls_secret else "tcp"
    gpus = {"GPU": float(section.gpus_per_worker)} if section.gpus_per_worker else {}
    words = ["--name", "$(DASK_WORKER_NAME)", "--protocol", f"{scheme}://"]
    words += worker_words(
        memory_limit=f"{section.memory_per_worker}B",
        resources=gpus | config.worker_resources,
        dashboard=f"{LOOPBACK}:{DASHBOARD_PORT}",
    )
    told = {"scheduler-address": f"{scheme}://{section.name}-scheduler:{PORT}"}
    return {
        "args": ["python", "-m", "distributed.cli.dask_worker", *words],
        "env": _environment(config, told),
        "ports": [],
        "resources": _worker_resources(section),
    }


def _worker_resources(section: KubernetesSection) -> Tree:
    memory, cpus = section.memory_per_worker, str(section.cpus_per_worker)
    limits = {"memory": memory}
    if section.gpus_per_worker:
        limits["nvidia.com/gpu"] = str(section.gpus_per_worker)
    return {"requests": {"cpu": cpus, "memory": memory}, "limits": limits}


def _environment(config: ClusterConfig, own: Tree) -> list[Tree]:
    """Dask's settings in a pod: ours, where the secret's files are, and the container's own."""
    told = settings(config)
    if config.kubernetes.tls_secret:
        keys = Keys(KEYS_AT / "ca.pem", KEYS_AT / "cert.pem", KEYS_AT / "key.pem")
        told |= keys.dask_settings()
    pairs = sorted(environment(told | own).items())
    return [{"name": name, "value": value} for name, value in pairs]


def _shared_container(section: KubernetesSection) -> Tree:
    mounts: list[Tree] = [
        {"name": "data", "mountPath": str(section.mount)},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - of the pod
    ]
    if section.tls_secret:
        mounts.append({"name": "keys", "mountPath": str(KEYS_AT), "readOnly": True})
    return {
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _pod(section: KubernetesSection) -> Tree:
    """The operator makes Deployments, whose pods are always started again."""
    claim = {"claimName": section.volume_claim}
    volumes: list[Tree] = [
        {"name": "data", "persistentVolumeClaim": claim},
        {"name": "tmp", "emptyDir": {}},
    ]
    if section.tls_secret:
        secret = {"secretName": section.tls_secret, "defaultMode": 0o400}
        volumes.append({"name": "keys", "secret": secret})
    return {
        "restartPolicy": "Always",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "volumes": volumes,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
