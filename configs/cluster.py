"""The config's `cluster` section: where tasks run. `kind` picks the place by one word; each place
keeps its own details below its own key, so that one file serves a laptop and a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from configs.section import Name, Section, split_commas, worded

SIZE_PATTERN = r"[0-9]+([.][0-9]+)? ?([kMGT]i?)?B"
A_SIZE = "a size with its unit, as 4GiB or 500MB"


def _clock(value: Any) -> Any:
    """YAML takes 24:00:00 without quotes for a number of seconds, in sixties."""
    if not isinstance(value, int):
        return value
    minutes, seconds = divmod(value, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"


Size = Annotated[str, worded(SIZE_PATTERN, A_SIZE)]
Memory = Annotated[str, worded(rf"auto|{SIZE_PATTERN}", f"auto, or {A_SIZE}")]
Walltime = Annotated[
    str,
    worded(r"(\d+-)?\d{1,3}:\d{2}:\d{2}", "hours:minutes:seconds, as 04:00:00, or 2-00:00:00"),
    BeforeValidator(_clock),  # comes first
]
SchedulerAddress = Annotated[
    str, worded(r"(tcp|tls)://.+:\d+", "protocol, host and port, as tls://node1:8786")
]
Quantity = Annotated[str, worded(r"\d+[KMGT]i", "a quantity of Kubernetes, as 4Gi")]
PodName = Annotated[
    str,
    worded(
        r"(?=.{1,45}$)[a-z]([-a-z0-9]*[a-z0-9])?", "at most 45 small letters, digits and hyphens"
    ),
]

Kind = Literal["inline", "local", "address", "ssh", "slurm", "pbs", "kubernetes"]
Stage = Literal["shard", "codebook", "tokenize"]
Resources = dict[str, PositiveFloat]


class TlsConfig(Section):
    """Certificates of your own (PEM files that every host can read), in place of made ones."""

    ca: Path
    cert: Path
    key: Path


class AddressSection(Section):
    """A scheduler that is there: its address, or what `cluster up` wrote into the run."""

    scheduler: SchedulerAddress | None = None


class SshSection(Section):
    """Hosts that are reached by SSH keys; the first one holds the scheduler, too."""

    hosts: Annotated[tuple[str, ...], BeforeValidator(split_commas)] = ()
    username: str | None = None
    port: PositiveInt | None = None
    known_hosts: Path | None = None  # None: ~/.ssh/known_hosts; hosts that it lacks are refused
    private_key: Path | None = None  # None: the agent's, or those in ~/.ssh
    python: str | None = None  # on the hosts; None: as here
    workers_per_host: PositiveInt = 1


class QueueSection(Section):
    """What a batch system is told about each job; one job holds `workers_per_job` workers."""

    queue: str | None = None  # SLURM's partition
    account: str | None = None
    walltime: Walltime = "04:00:00"
    workers_per_job: PositiveInt = 1
    memory_per_worker: Size = "4GiB"
    interface: str | None = None  # network interface that compute nodes reach, as ib0
    directives: tuple[str, ...] = ()  # further ones, as --gres=gpu:1
    prologue: tuple[str, ...] = ()  # shell lines before the worker, as module load ...
    python: str | None = None  # on the nodes; None: as here
    grace_s: PositiveInt = 120  # between the warning signal and the end of a job


class KubernetesSection(Section):
    """Pods made by the Dask operator. `volume_claim` must hold run and sources, at `mount`."""

    name: PodName = "audiolex"
    namespace: Name | None = None
    image: str = "audiolex-worker:latest"
    volume_claim: str | None = None
    mount: Path = Path("/data")
    tls_secret: str | None = None  # with ca.pem, cert.pem and key.pem
    cpus_per_worker: PositiveInt = 1
    memory_per_worker: Quantity = "4Gi"
    gpus_per_worker: Annotated[int, Field(ge=0)] = 0


class TrainingJob(Section):
    """The batch job that `cluster script` prints for `torchrun -m train fit`."""

    nodes: PositiveInt = 1
    gpus_per_node: PositiveInt = 1
    cpus_per_gpu: PositiveInt = 8
    memory_per_node: Size = "64GiB"
    walltime: Walltime = "24:00:00"
    port: PositiveInt = 29500


class ClusterConfig(Section):
    """Where the stages' tasks run; no part of any recipe: the bytes are the same everywhere.

    `worker_resources` is what every started worker offers, `task_resources` what a stage's tasks
    ask for: {GPU: 1} on both sides sends `tokenize` to GPU workers only.
    """

    kind: Kind = "local"
    workers: PositiveInt | None = None  # None: one a core (local), 4 (slurm, pbs, kubernetes)
    memory_limit: Memory = "auto"  # a worker's, as 4GiB (local, ssh)
    worker_resources: Resources = Field(default_factory=dict)
    task_resources: dict[Stage, Resources] = Field(default_factory=dict)
    tls: TlsConfig | None = None
    insecure: bool = False  # True: plain TCP beyond loopback, where anyone who connects runs code
    wait_for_workers_s: PositiveFloat = 1800.0
    wait_for_disk_s: NonNegativeFloat = 600.0  # that a full disk is given to be emptied
    stall_s: PositiveFloat = 1800.0  # without a finished task, and 5 times the slowest one
    performance_report: bool = False  # Dask's own, as RUN/cluster/dask-*.html
    dask: dict[str, Any] = Field(default_factory=dict)  # any of Dask's settings, over ours
    address: AddressSection = AddressSection()
    ssh: SshSection = SshSection()
    slurm: QueueSection = QueueSection()
    pbs: QueueSection = QueueSection()
    kubernetes: KubernetesSection = KubernetesSection()
    training: TrainingJob = TrainingJob()

    def resources_of(self, stage: str) -> Resources:
        """What the tasks of a stage ask of a worker."""
        return dict[str, Resources](self.task_resources.items()).get(stage, {})
