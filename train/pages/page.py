"""One HTML file of a template, the look and the charts that all share, and data.

The file says of itself that nothing may be fetched: no address in a name or id can make it do so.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from pipeline.audio.shown import script_safe

Json = dict[str, Any]
HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; media-src data: blob:"
)
HEAD = (
    '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
)


def page(template: str, title: str, data: Json) -> bytes:
    """The page of a template `NAME.html` beside this file, whose script finds `data` as DATA."""
    style, charts, body = (
        (HERE / name).read_text(encoding="utf-8") for name in ("style.css", "charts.js", template)
    )
    parts = [
        HEAD,
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n",
        f'<script>\n"use strict";\nconst DATA = {script_safe(data)};\n{charts}</script>\n',
        body,
    ]
    return "".join(parts).encode()
