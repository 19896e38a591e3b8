"""A batch system of one machine without a queue: what `sbatch`, `scancel`, `squeue`, `qsub`,
`qdel` and `qstat` are to the launchers. Jobs start at once, each in a session of its own, and are
listed by pid in $FAKE_BATCH_SYSTEM; as strict about directives as the real ones.

Run as `python batch_system.py sbatch SCRIPT`; `install` puts all of them into a directory.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

STATE = "FAKE_BATCH_SYSTEM"
GRACE_S = 3.0
CLOCK = r"\d+:\d\d:\d\d"
NUMBER, ANYTHING, NOTHING = r"\d+", r".+", r""

SLURM = {
    "-J": ANYTHING,
    "-p": ANYTHING,
    "-A": ANYTHING,
    "-n": NUMBER,
    "-t": rf"(\d+-)?{CLOCK}",
    "--cpus-per-task": NUMBER,
    "--mem": r"\d+[KMGT]",
    "--requeue": NOTHING,
    "--open-mode": r"append|truncate",
    "--signal": r"(B:)?[A-Z0-9]+@\d+",
    "--output": ANYTHING,
    "--gres": ANYTHING,
    "--job-name": ANYTHING,
    "--partition": ANYTHING,
    "--account": ANYTHING,
    "--nodes": NUMBER,
    "--ntasks-per-node": NUMBER,
    "--gpus-per-node": NUMBER,
    "--time": rf"(\d+-)?{CLOCK}",
}
PBS = {
    "-N": r"\S{1,15}",
    "-q": ANYTHING,
    "-A": ANYTHING,
    "-l": rf"select=\d+(:\w+=\w+)*|place=scatter|walltime={CLOCK}",
    "-r": r"y|n",
    "-S": ANYTHING,
    "-j": r"oe|eo|n",
    "-o": ANYTHING,
}


def install(directory: Path) -> dict[str, str]:
    """Make the commands, and return the environment in which they are found."""
    commands, jobs = directory / "bin", directory / "jobs"
    for folder in (commands, jobs):
        folder.mkdir(parents=True)
    for name in COMMANDS:
        words = shlex.join([sys.executable, "-S", str(Path(__file__).resolve()), name])
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", STATE: str(jobs)}


def submit(script: Path, marker: str, known: Mapping[str, str]) -> tuple[int, dict[str, str]]:
    """Check a script and take it in; its number, and its directives."""
    text = script.read_text()
    if not text.startswith("#!"):
        sys.exit("error: This does not look like a batch script: its first line names no shell")
    directives = dict(
        directive
        for line in text.splitlines()
        if line.startswith(f"{marker} ")
        for directive in [parsed(line.removeprefix(f"{marker} "), known)]
    )
    number = 1
    while True:
        with suppress(FileExistsError):
            copy = state() / f"{number}.sh"
            with copy.open("x") as file:
                file.write(text)
            copy.chmod(0o700)
            return number, directives
        number += 1


def parsed(line: str, known: Mapping[str, str]) -> tuple[str, str]:
    words = shlex.split(line)
    name, equals, value = words[0].partition("=")
    value = value if equals else " ".join(words[1:])
    if name not in known:
        sys.exit(f"error: unrecognized option '{name}'")
    if not re.fullmatch(known[name], value) or (equals and len(words) > 1):
        sys.exit(f"error: option '{name}' does not take '{value}'")
    return name, value


def begin(number: int, log: Path, directory: str, environment: Mapping[str, str]) -> None:
    with log.open("ab") as file:
        job = subprocess.Popen(
            [str(state() / f"{number}.sh")],
            cwd=directory,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    (state() / f"{number}.pid").write_text(str(job.pid))


def sbatch(script: str) -> None:
    number, directives = submit(Path(script), "#SBATCH", SLURM)
    job = directives.get("-J") or directives["--job-name"]
    log = directives["--output"].replace("%x", job).replace("%j", str(number)).replace("%%", "%")
    told = {"SLURM_JOB_ID": str(number), "SLURM_JOB_NODELIST": "here"}
    begin(number, Path(log), str(Path.cwd()), told)
    print(f"Submitted batch job {number}")


def qsub(script: str) -> None:
    number, directives = submit(Path(script), "#PBS", PBS)
    log = Path(directives["-o"]) / f"{number}.here.OU"
    nodes = state() / "nodes"
    nodes.write_text("here\nhere\n")
    told = {"PBS_O_WORKDIR": str(Path.cwd()), "PBS_JOBID": f"{number}.here"}
    told["PBS_NODEFILE"] = str(nodes)
    begin(number, log, str(Path.home()), told)  # as PBS: not where it was asked
    print(f"{number}.here")


def cancel(number: str) -> None:
    path = state() / f"{number.partition('.')[0]}.pid"
    if not path.exists():
        sys.exit(f"error: Invalid job id {number}")
    group = int(path.read_text())
    deadline_s = time.monotonic() + GRACE_S
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline_s:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)


def squeue(*words: str) -> None:
    (jobs,) = [word.removeprefix("--jobs=") for word in words if word.startswith("--jobs=")]
    known = [job for job in jobs.split(",") if is_there(job)]
    if not known:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print("\n".join(known))


def qstat(*jobs: str) -> None:
    known = [job for job in jobs if is_there(job)]
    print("Job id            Name             User              Time Use S Queue")
    print("----------------  ---------------- ----------------  -------- - -----")
    for job in known:
        print(f"{job}.here            audiolex         someone           00:00:01 R batch")
    if len(known) < len(jobs):
        sys.exit("qstat: Unknown Job Id")


def is_there(number: str) -> bool:
    """Whether the first process of a job, its shell or what that became, is alive."""
    try:
        stat_line = Path(f"/proc/{(state() / f'{number}.pid').read_text()}/stat").read_text()
    except OSError:
        return False
    return ") Z " not in stat_line


def state() -> Path:
    return Path(os.environ[STATE])


def groups(jobs: Path) -> list[int]:
    """The process groups of all jobs that were ever started."""
    return [int(path.read_text()) for path in sorted(jobs.glob("*.pid"))]


COMMANDS: dict[str, Callable[..., None]] = {
    "sbatch": sbatch,
    "scancel": cancel,
    "squeue": squeue,
    "qsub": qsub,
    "qdel": cancel,
    "qstat": qstat,
}


def main(words: Sequence[str]) -> None:
    COMMANDS[words[0]](*words[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
