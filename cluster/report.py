"""Dask's own view of a job: the dashboard while it runs, a performance report after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from distributed import Client, performance_report

from configs.cluster import ClusterConfig
from configs.console import say
from configs.errors import ClusterLost


@contextmanager
def reported(client: Client | None, config: ClusterConfig, path: Path) -> Iterator[None]:
    """Write Dask's performance report of what happens inside to `path`, where the config asks for
    one and bokeh is there to draw it."""
    if client is None or not config.performance_report:
        yield
        return
    if find_spec("bokeh") is None:
        say("warning: cluster.performance_report needs bokeh: install the extra `cluster`")
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(performance_report(filename=str(path)))
        try:
            yield
        except ClusterLost:  # nobody is left to ask
            stack.pop_all()
            raise
    say(f"Dask's performance report: {path}")


def dashboard(client: Client) -> str:
    """Where Dask's dashboard is, or what it lacks."""
    link = str(client.dashboard_link)
    return link if find_spec("bokeh") else f"{link} (its pages need bokeh)"
