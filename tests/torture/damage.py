"""Data that is damaged: bits of a run, and files of a source."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from pipeline.synth import write_set
from shards.index import QUARANTINED
from shards.layout import Layout
from shards.plan import load as load_plan
from shards.verify import verify
from tests.broken import corpus
from tests.commands import ROOT
from tests.processes import dask_workers, family
from tests.torture import trials
from tests.torture.job import Report, fresh, index_of, small_job

ESC10 = ROOT / "../shared/data/esc10"

KNOWN = (".wav", ".flac", ".mp3")


def flips(directory: Path, *, count: int = 10_000, seed: int = 2) -> Report:
    """Flip one bit of one data file, and see that `verify` finds it; undo; again."""
    config = small_job(directory)
    run = directory / "run"
    assert trials.run(["all", str(config), "codebook.k=8"], directory / "log") == 0
    layout, rng = Layout(run), random.Random(seed)
    assert verify(layout, "full").to_json()["ok"]
    files = [run / name for name in trials.data_files(run)]
    missed, by_kind = [], Counter[str]()
    for number in range(count):
        path = files[number % len(files)]
        original = path.read_bytes()
        place, bit = rng.randrange(len(original)), rng.randrange(8)
        changed = bytearray(original)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        findings = verify(layout, "full")
        path.write_bytes(original)
        by_kind[path.relative_to(run).parts[0]] += 1
        if not findings.faults:
            missed.append(f"{path.relative_to(run)} byte {place} bit {bit}")
    assert not missed, missed[:10]
    return {"flips": count, "missed": len(missed), "files": len(files), "by_kind": dict(by_kind)}


def broken(directory: Path, *, seed: int = 4, worker_kills: int = 6) -> Report:
    """ESC-10 (or generated clips) and the broken corpus; workers are killed while they decode."""
    reasons = _write_zoo(directory / "audio")
    num_good = sum(1 for path in (directory / "audio/good").rglob("*") if path.is_file())
    tree = {
        "run": str(directory / "run"),
        "source": {"kind": "folder", "root": str(directory / "audio")},
        "shards": {"clips_per_shard": 24},
        "quarantine": {"max_share": 0.9},
        "cluster": {"kind": "local", "workers": 2},
    }
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    killed = _run_with_worker_kills(config, random.Random(seed), worker_kills)
    layout = Layout(directory / "run")
    index = index_of(layout)
    ids = index.column("id").to_pylist()
    planned = load_plan(layout).column("id").to_pylist()
    refused = {
        row["id"]: row["reason"] for row in index.to_pylist() if row["status"] == QUARANTINED
    }
    wrong = {
        name: (refused.get(name), kind.reason)
        for name, kind in reasons.items()
        if name not in refused or not kind.is_reason(refused[name])
    }
    assert not wrong, wrong
    assert set(refused) == set(reasons), set(refused) - set(reasons)
    assert sorted(ids) == sorted(planned)
    return {
        "clips": len(ids),
        "good": num_good,
        "broken": len(reasons),
        "kinds": len({kind.kind for kind in reasons.values()}),
        "lost": len(set(planned) - set(ids)),
        "doubled": len(ids) - len(set(ids)),
        "unnamed": len(wrong),
        "worker_kills": killed,
    }


def _write_zoo(root: Path) -> dict[str, Any]:
    """Good recordings under good/, broken ones under broken/; the reasons of these by id."""
    reasons = {}
    (root / "broken").mkdir(parents=True)
    for number, item in enumerate(corpus()):
        name = f"broken/{number:03d}-{item.name}"
        if Path(name).suffix not in KNOWN:
            name += ".wav"
        (root / name).write_bytes(item.data)
        reasons[name] = item
    if ESC10.is_dir():
        for path in ESC10.rglob("*.ogg"):
            (root / "good").mkdir(exist_ok=True)
            shutil.copyfile(path, root / "good" / path.name)
    else:
        write_set(root / "good", 64, seed=9, seconds=1.0)
    return reasons


def _run_with_worker_kills(config: Path, rng: random.Random, most: int) -> int:
    """Run the job, killing a worker now and then; run it again until it ends well."""
    killed = 0
    for _ in range(most + 2):
        process = fresh(config, [], "")
        while process.poll() is None:
            time.sleep(rng.uniform(0.5, 1.5))
            workers = dask_workers(family(process.pid))
            if workers and killed < most:
                rng.choice(workers).kill()
                killed += 1
        if process.returncode == 0:
            return killed
    raise AssertionError(f"the job never ended well: exit {process.returncode}")
