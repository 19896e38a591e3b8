"""What every pipeline verb does around its work: lock the run, sweep, save the config, time it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from configs.cli import QUARANTINE_EXIT_CODE
from configs.console import say
from configs.errors import InputError
from configs.load import dump_config
from configs.schema import Config
from shards.atomic import create_whole, make_directory, sweep, write_whole
from shards.events import timed
from shards.index import open_shards
from shards.layout import Layout
from shards.lock import hold


@contextmanager
def driving(config: Config, verb: str) -> Iterator[Layout]:
    """Hold the run for one verb; raises RunLocked where another driver is at work."""
    layout = Layout(config.run)
    try:
        make_directory(layout.root)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"run: {layout.root} is no directory, and none can be made") from None
    with hold(layout.lock):
        sweep(layout.partial)
        text = dump_config(config).encode()
        create_whole(layout.partial, layout.config, text)
        with timed(layout, verb):
            yield layout
        write_whole(layout.partial, layout.config, text)  # a refused config replaces nothing


def quarantine_exit_code(config: Config, layout: Layout) -> int:
    """0, or 3 with a message where more clips were refused than the config allows."""
    seal = open_shards(layout)
    refused, total = seal.total("quarantined"), seal.total("clips")
    if refused <= config.quarantine.max_share * total:
        return 0
    say(
        f"warning: {refused} of {total} clips ({refused / total:.1%}) are in quarantine, above "
        f"quarantine.max_share={config.quarantine.max_share:g}; "
        f"`python -m pipeline status {layout.root}` lists them. Mend what the source says of "
        "files, or the files, and give another run=DIR; or raise quarantine.max_share, to go on "
        "without them"
    )
    return QUARANTINE_EXIT_CODE
