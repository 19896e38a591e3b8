"""The operator's spec: valid by its own schema, locked, with TLS between pods; and it runs."""

from __future__ import annotations

import copy
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from distributed import Client
from kubernetes_validate import validate

from cluster.launch import open_client
from cluster.pods import DASHBOARD_PORT, DRIVER_PORT, KEYS_AT, PORT, cluster_spec
from cluster.tls import make_keys
from configs.cluster import ClusterConfig
from configs.errors import ClusterFailed, ConfigError
from tests.dask_processes import scheduler, started

SECTION = {"volume_claim": "audiolex", "tls_secret": "audiolex-tls", "namespace": "audio"}
CRD = "operator/deployment/helm/dask-kubernetes-operator/crds/daskcluster.yaml"
Tree = dict[str, Any]


def config_of(insecure: bool = False, **section: Any) -> ClusterConfig:
    whole = {"kind": "kubernetes", "kubernetes": SECTION | section, "insecure": insecure}
    return ClusterConfig.model_validate(whole)


def closed(schema: Any) -> Any:
    """A schema that refuses fields it does not know; the API server would drop them silently."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    is_open = "x-kubernetes-preserve-unknown-fields" in schema
    if isinstance(schema.get("properties"), dict) and "type" in schema and not is_open:
        found.setdefault("additionalProperties", False)
    return found


@pytest.fixture(scope="module")
def schema() -> Tree:
    tree = yaml.safe_load(files("dask_kubernetes").joinpath(CRD).read_text())
    [version] = tree["spec"]["versions"]
    whole: Tree = closed(version["schema"]["openAPIV3Schema"])
    any_object: Tree = {"type": "object"}
    whole["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": any_object}
    return whole


@pytest.mark.parametrize(
    "config",
    [
        config_of(),
        config_of(gpus_per_worker=2, memory_per_worker="16Gi", cpus_per_worker=4),
        config_of(insecure=True, tls_secret=None, namespace=None),
    ],
    ids=["tls", "gpus", "insecure"],
)
def test_the_spec_is_valid(schema: Tree, config: ClusterConfig) -> None:
    spec = cluster_spec(config)
    jsonschema.validate(spec, schema)
    for part in ("scheduler", "worker"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": part}}
        validate(pod | {"spec": spec["spec"][part]["spec"]}, "1.30", strict=True)


def container(spec: Tree, part: str) -> Tree:
    [found] = spec["spec"][part]["spec"]["containers"]
    return dict(found)


def drop_name(spec: Tree) -> None:
    spec["spec"]["worker"]["spec"]["containers"][0].pop("name")


def misspell(spec: Tree) -> None:
    spec["spec"]["worker"]["spec"]["volumes"][0]["persistantVolumeClaim"] = {"claimName": "x"}


def many(spec: Tree) -> None:
    spec["spec"]["worker"]["replicas"] = "four"


def no_service(spec: Tree) -> None:
    del spec["spec"]["scheduler"]["service"]


@pytest.mark.parametrize("spoil", [drop_name, misspell, many, no_service])
def test_a_broken_spec_is_refused(schema: Tree, spoil: Callable[[Tree], None]) -> None:
    spec = copy.deepcopy(cluster_spec(config_of()))
    spoil(spec)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spec, schema)


@pytest.mark.parametrize("part", ["scheduler", "worker"])
def test_pods_are_locked(part: str) -> None:
    spec = cluster_spec(config_of())
    pod = spec["spec"][part]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["restartPolicy"] == "Always"
    inside = container(spec, part)["securityContext"]
    assert inside["readOnlyRootFilesystem"] is True
    assert inside["allowPrivilegeEscalation"] is False
    assert inside["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("part", ["scheduler", "worker"])
def test_pods_see_the_volume_and_the_secret(part: str) -> None:
    spec = cluster_spec(config_of())
    volumes = {volume["name"]: volume for volume in spec["spec"][part]["spec"]["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == "audiolex"
    assert volumes["keys"]["secret"] == {"secretName": "audiolex-tls", "defaultMode": 0o400}
    mounts = {mount["name"]: mount for mount in container(spec, part)["volumeMounts"]}
    assert mounts["data"]["mountPath"] == "/data"
    assert mounts["keys"] == {"name": "keys", "mountPath": "/keys", "readOnly": True}
    told = {item["name"]: item["value"] for item in container(spec, part)["env"]}
    assert told[f"DASK_DISTRIBUTED__COMM__TLS__{part.upper()}__KEY"] == "/keys/key.pem"
    assert told["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] == "0"


def test_a_gpu_is_a_limit_and_a_resource() -> None:
    worker = container(cluster_spec(config_of(gpus_per_worker=2)), "worker")
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert worker["args"][worker["args"].index("--resources") + 1] == "GPU=2"


def test_the_number_of_workers_is_fixed() -> None:
    spec = cluster_spec(config_of())
    assert spec["spec"]["worker"]["replicas"] == 4
    assert spec["kind"] == "DaskCluster"  # and no DaskAutoscaler beside it


def test_dashboards_are_on_loopback() -> None:
    spec = cluster_spec(config_of(insecure=True, tls_secret=None))
    words = container(spec, "worker")["args"]
    assert words[words.index("--dashboard-address") + 1] == "127.0.0.1:8787"
    assert '"dashboard_address": "127.0.0.1:8787"' in container(spec, "scheduler")["args"][-1]


def test_without_keys_it_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError) as caught:
        cluster_spec(config_of(tls_secret=None))
    assert (
        "kubectl create secret generic audiolex-tls --namespace audio --from-file=ca.pem "
        "--from-file=cert.pem --from-file=key.pem"
    ) in str(caught.value)


def test_without_a_volume_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="volume_claim: name the claim"):
        cluster_spec(config_of(volume_claim=None))


def test_no_api_server_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with (
        pytest.raises(ClusterFailed) as caught,
        open_client(config_of(mount=str(tmp_path)), tmp_path / "run" / "cluster") as opened,
    ):
        opened()
    assert str(caught.value).startswith("no Kubernetes with Dask's operator: ")
    assert "\n" not in str(caught.value)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def here(spec: Tree, part: str, swaps: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """A container's command and variables, for processes of this machine."""
    one = container(spec, part)
    told = {item["name"]: item["value"] for item in one["env"]}
    words, pairs = list(one["args"]), list(told.items())
    for old, new in swaps.items():
        words = [word.replace(old, new) for word in words]
        pairs = [(name, value.replace(old, new)) for name, value in pairs]
    return words, dict(pairs)


@pytest.mark.slow
def test_the_commands_of_the_pods_work_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers over TLS; the driver on loopback, where port forwarding ends, and only there."""
    keys = make_keys(tmp_path / "keys")
    (tmp_path / "keys" / "ca.pem").symlink_to(keys.ca)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    spec = cluster_spec(config_of())
    ports = {str(port): str(free_port()) for port in (PORT, DRIVER_PORT, DASHBOARD_PORT)}
    swaps = ports | {f"{KEYS_AT}/": f"{tmp_path}/keys/", "0.0.0.0": "127.0.0.1"}
    words, told = here(spec, "scheduler", swaps)
    others = {"audiolex-scheduler": "127.0.0.1", "$(DASK_WORKER_NAME)": "w"}
    others["127.0.0.1:8787"] = "127.0.0.1:0"
    worker_words, worker_told = here(spec, "worker", others | swaps)
    with started(words, tmp_path / "scheduler.log", **told) as process:
        process.wait_for(r"Scheduler at: *tcp://")
        worker_words += ["--host", "127.0.0.1"]
        with started(worker_words, tmp_path / "worker.log", **worker_told) as worker:
            worker.wait_for(r"Registered to: *tls://")
            address = f"tcp://127.0.0.1:{ports[str(DRIVER_PORT)]}"
            with Client(address, timeout=30) as client:
                assert client.submit(abs, -1).result(timeout=30) == 1
            with pytest.raises(OSError, match="Timed out|TLS|closed"):
                Client(f"tcp://127.0.0.1:{ports[str(PORT)]}", timeout=2)
            probe = container(spec, "scheduler")["livenessProbe"]["exec"]["command"]
            line = shlex.join(probe).replace(str(DASHBOARD_PORT), ports[str(DASHBOARD_PORT)])
            subprocess.run(["sh", "-c", line], check=True, timeout=30)


class StandIn:
    """What the launcher uses of KubeCluster and of kr8s."""

    asked: Tree
    is_closed = False

    def __init__(self, address: str) -> None:
        self.scheduler_address = address

    def KubeCluster(self, **words: Any) -> StandIn:
        self.asked = words
        return self

    def api(self, namespace: str) -> StandIn:
        assert namespace == "audio"
        return self

    def get(self, kind: str) -> list[str]:
        assert kind == "daskclusters.kubernetes.dask.org"
        return []

    def close(self) -> None:
        self.is_closed = True


def test_the_launcher_asks_the_operator_and_clears_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(mount=str(tmp_path))
    spec = cluster_spec(config)
    with scheduler(tmp_path) as (_, address):
        stand_in = StandIn(address)
        monkeypatch.setattr("cluster.kubernetes.extra", lambda module: stand_in)
        monkeypatch.setattr("cluster.kubernetes.cluster_spec", lambda config: spec)
        with open_client(config, tmp_path / "run" / "cluster") as opened:
            client = opened()
            assert client is not None
            assert client.status == "running"
        assert stand_in.is_closed
    assert stand_in.asked == {
        "custom_cluster_spec": spec,
        "namespace": "audio",
        "port_forward_cluster_ip": True,
        "shutdown_on_close": True,
        "quiet": True,
    }
