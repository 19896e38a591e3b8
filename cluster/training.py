"""The batch script of `torchrun -m train fit` on several nodes. Pure: nothing is started here.

torchrun ends with 1 whatever its workers end with: their 75, which asks for another run, is looked
for in what it prints; and one that was warned is always given another run.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from string import Template

import dask

from cluster.jobs import LOGS, SYSTEMS, seconds_of, section_of
from configs.cluster import ClusterConfig, QueueSection
from configs.errors import InputError, Preempted

AGAIN = rf"exitcode *: {Preempted.exit_code}\b"  # in torchrun's summary of failures

SLURM = """\
#!/usr/bin/env bash
# Training; save as fit.sbatch, then: mkdir -p $logs && sbatch fit.sbatch
# Torch speaks plain TCP between nodes: they must be on a network of their own.
#SBATCH --job-name=audiolex-fit
$directives#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$gpus
#SBATCH --cpus-per-task=$cpus
#SBATCH --mem=${memory_mib}M
#SBATCH --time=$walltime
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@$grace_s
#SBATCH --output=$job_log
cd $directory || exit
$prologue
log=$logs/fit-"$$SLURM_JOB_ID-$${SLURM_RESTART_COUNT:-0}".log
first=$$(scontrol show hostnames "$$SLURM_JOB_NODELIST" | head -n 1)
warned=
step=
trap 'warned=1; [ -z "$$step" ] || kill -TERM "$$step"' TERM # before the end of the wall time

srun --output="$$log" $torchrun \\
  --rdzv-id="$$SLURM_JOB_ID" --rdzv-endpoint="$$first:$port" \\
  $program &
step=$$!
wait "$$step"
while kill -0 "$$step" 2> /dev/null; do wait "$$step"; done # a signal ends only the waiting
wait "$$step"
code=$$?

if [ "$$code" -ne 0 ] && { [ -n "$$warned" ] || grep -q '$again' "$$log"; }; then
  scontrol requeue "$$SLURM_JOB_ID"
fi
exit "$$code"
"""

PBS = """\
#!/usr/bin/env bash
# Training; save as $directory_text/fit.pbs, then: mkdir -p $logs && qsub fit.pbs
# It submits that file again where it was stopped before its end.
# Torch speaks plain TCP between nodes: they must be on a network of their own.
#PBS -N audiolex-fit
$directives#PBS -l select=$nodes:ncpus=$cpus:ngpus=$gpus:mem=${memory_mib}mb
#PBS -l place=scatter
#PBS -l walltime=$walltime
#PBS -r y
#PBS -S /bin/bash
#PBS -j oe
#PBS -o $job_log
cd $directory || exit
log=$logs/fit-"$$PBS_JOBID".log
first=$$(sort -u "$$PBS_NODEFILE" | head -n 1)

# PBS warns nobody: on every node torchrun has its time, and is warned by timeout.
# shellcheck disable=SC2016 # arguments of the shell there
on_node=$on_node
pbsdsh -- bash -c "$$on_node" torchrun "$$PBS_JOBID" "$$first:$port" > "$$log" 2>&1
code=$$?

if grep -q '$again' "$$log" || [ "$$SECONDS" -ge $usable_s ]; then
  qsub fit.pbs
fi
exit "$$code"
"""
TEMPLATES = {"slurm": SLURM, "pbs": PBS}


def training_script(config: ClusterConfig, run: Path, home: Path) -> str:
    """The batch script for the batch system of `config.kind`."""
    section, job = section_of(config), config.training
    usable_s = seconds_of(job.walltime) - section.grace_s
    if usable_s <= 0:
        raise InputError(
            f"cluster.training.walltime: {job.walltime} leaves nothing beside "
            f"cluster.{config.kind}.grace_s={section.grace_s}"
        )
    logs = home / LOGS
    torchrun, program = torchrun_words(config), shlex.join(["-m", "train", "fit", str(run)])
    return Template(TEMPLATES[config.kind]).substitute(
        directives=_directives(config),
        nodes=job.nodes,
        gpus=job.gpus_per_node,
        cpus=job.gpus_per_node * job.cpus_per_gpu,
        memory_mib=dask.utils.parse_bytes(job.memory_per_node) // 2**20,
        walltime=SYSTEMS[config.kind].walltime(job.walltime),
        grace_s=section.grace_s,
        usable_s=usable_s,
        job_log=SYSTEMS[config.kind].log(home),
        logs=shlex.quote(str(logs)),
        directory=shlex.quote(str(Path.cwd())),
        directory_text=Path.cwd(),
        prologue="\n".join(section.prologue),
        torchrun=torchrun,
        program=program,
        port=job.port,
        again=AGAIN,
        on_node=shlex.quote(_on_node(section, torchrun, program, usable_s)),
    )


def _directives(config: ClusterConfig) -> str:
    """Where jobs go; the other directives of the section are for workers."""
    section = section_of(config)
    marker, queue, account = (
        ("#SBATCH", "--partition=", "--account=")
        if config.kind == "slurm"
        else ("#PBS", "-q ", "-A ")
    )
    given = {queue: section.queue, account: section.account}
    return "".join(f"{marker} {name}{value}\n" for name, value in given.items() if value)


def torchrun_words(config: ClusterConfig) -> str:
    """The same on every node, but for who they are together."""
    python = Path(section_of(config).python or sys.executable)
    job = config.training
    words = [str(python.with_name("torchrun")), f"--nnodes={job.nodes}"]
    return shlex.join([*words, f"--nproc-per-node={job.gpus_per_node}", "--rdzv-backend=c10d"])


def _on_node(section: QueueSection, torchrun: str, program: str, usable_s: int) -> str:
    run = f"exec timeout --foreground --signal=TERM {usable_s} {torchrun}"
    run += f' --rdzv-id="$1" --rdzv-endpoint="$2" {program}'
    return "\n".join([f"cd {shlex.quote(str(Path.cwd()))} || exit", *section.prologue, run])
