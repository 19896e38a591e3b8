"""What is wrong with a config, a line for each of pydantic's errors, in the words of its user."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from configs.schema import Config

WHOLE, NUMBER, SETTINGS = (
    "must be a whole number",
    "must be a number",
    "must be a mapping of settings",
)
A_LIST = "must be a list, as a,b,c"
WORDS = {  # for pydantic's own, by the type of error
    "int_type": WHOLE,
    "int_parsing": WHOLE,
    "int_from_float": WHOLE,
    "float_type": NUMBER,
    "float_parsing": NUMBER,
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "path_type": "must be a path",
    "tuple_type": A_LIST,
    "model_type": SETTINGS,
    "model_attributes_type": SETTINGS,
    "dict_type": SETTINGS,
}


def described(fault: Mapping[str, Any]) -> str:
    """One line for one of pydantic's errors: dotted path, what is wrong, what was meant."""
    loc = [part for part in fault["loc"] if not isinstance(part, int) and part != "[key]"]
    shown, here = _walk(loc)
    path = ".".join(shown)
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key{_meant(shown, _settings(_walk(loc[:-1])[1]))}"
    if fault["type"] == "missing":
        return f"{path}: missing"
    if fault["type"].startswith("union_tag"):
        return f"{path}.kind: {_kinds(fault, _tagged(here))}"
    given = fault["input"]
    got = f" (got {given!r})" if isinstance(given, str | int | float | bool) else ""
    text = _text(fault, _settings(here))
    return f"{path}: {text[0].lower()}{text[1:]}{got}" if path else f"{text}{got}"


def _text(fault: Mapping[str, Any], known: Sequence[str]) -> str:
    text = WORDS.get(fault["type"])
    if text is None:
        return str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if fault["input"] is None:
        text += "; nothing was given"
    return f"{text}: {', '.join(known)}" if text == SETTINGS and known else text


def _kinds(fault: Mapping[str, Any], known: Iterable[str]) -> str:
    """Of a section that is one of several by its `kind`."""
    given = fault.get("ctx", {}).get("tag")
    if given is None:
        return f"missing; it is one of {', '.join(known)}"
    return f"no kind {given}{did_you_mean(given, known)}; it is one of {', '.join(known)}"


def _meant(shown: Sequence[str], known: Iterable[str]) -> str:
    """What a key may stand for: at the top also one of a section, as `order` for `data.order`."""
    fields = Config.model_fields.items() if len(shown) == 1 else ()
    sections = {name: _bare(field.annotation) for name, field in fields}
    inside = [
        f"{name}.{shown[-1]}"
        for name, section in sections.items()
        if _is_model(section) and shown[-1] in section.model_fields
    ]
    return f" (did you mean {' or '.join(inside)}?)" if inside else did_you_mean(shown[-1], known)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean that?)`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def _walk(loc: Sequence[Any]) -> tuple[list[str], Any]:
    """The path as the user wrote it (pydantic adds the chosen union member, as `audioset`), and
    the type of what is there."""
    shown: list[str] = []
    here: Any = Config
    for part in loc:
        tagged = _tagged(here)
        if part in tagged:
            here = tagged[part]
        else:
            shown.append(str(part))
            here = _bare(_inside(here, str(part)))
    return shown, here


def _settings(annotation: Any) -> list[str]:
    """The keys that are allowed there."""
    return list(annotation.model_fields) if _is_model(annotation) else []


def _tagged(annotation: Any) -> dict[str, type[BaseModel]]:
    """The members of a union of models by the value of their `kind`; empty for anything else."""
    plain = _bare(annotation)
    if get_origin(plain) not in (Union, types.UnionType):
        return {}
    members = [member for member in map(_bare, get_args(plain)) if _is_model(member)]
    return {get_args(m.model_fields["kind"].annotation)[0]: m for m in members}


def _inside(annotation: Any, part: str) -> Any:
    plain = _bare(annotation)
    if _is_model(plain):
        return plain.model_fields[part].annotation if part in plain.model_fields else None
    return get_args(plain)[1] if get_origin(plain) is dict else None


def _bare(annotation: Any) -> Any:
    """Without its constraints, and without the None that it may be instead."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        return _bare(members[0]) if len(members) == 1 else annotation
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
