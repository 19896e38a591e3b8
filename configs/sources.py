"""Sources: where clips and labels come from, one section a kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from configs.section import Name, Section

Split = Literal["train", "valid", "test"]
FILES_PATTERN = r"^([^{}]|\{(set|prefix|id)\})*\{id\}([^{}]|\{(set|prefix|id)\})*$"
Share = Annotated[float, Field(gt=0, le=1)]


class WindowsConfig(Section):
    """Cut files into clips of `length_s` every `hop_s`; a rest shorter than `min_s` is left out."""

    length_s: PositiveFloat = 10.0
    hop_s: PositiveFloat | None = None  # None: length_s, windows side by side
    min_s: PositiveFloat = 1.0

    @property
    def step_s(self) -> float:
        return self.hop_s or self.length_s


class SourceSection(Section):
    """What all sources have: where the audio lies (a directory, or an address as `hf://...`),
    how long a clip may be, and how long files are cut."""

    root: str
    max_clip_s: PositiveFloat = 60.0
    windows: WindowsConfig | None = None

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.windows is not None and self.windows.length_s > self.max_clip_s:
            raise ValueError(
                f"windows.length_s {self.windows.length_s} is over max_clip_s {self.max_clip_s}"
            )
        return self


class SegmentSet(Section):
    """One of AudioSet's segment lists, and where its audio lies under the source's root.

    `files` is a path with {id} in it (`{prefix}` its first two characters; `.*` at the end: any
    extension), or a glob of tar files (`bal_train*.tar`) or of Parquet files
    (`bal_train/*.parquet`), which are read in place. Parquet files hold labels of their own:
    without `segments` they are the list.
    """

    segments: Path | None = None
    files: str = "{set}/{prefix}/{id}.flac"
    split: Split = "train"
    share: Share = 1.0  # of its clips, by a hash of their ids

    @property
    def storage(self) -> Literal["files", "tar", "parquet"]:
        suffix = Path(self.files).suffix
        if "{id}" in self.files:
            return "files"
        return "tar" if suffix == ".tar" else "parquet"

    @field_validator("files")
    @classmethod
    def _names_clips(cls, files: str) -> str:
        is_container = "{" not in files and Path(files).suffix in (".tar", ".parquet")
        if not is_container and not re.match(FILES_PATTERN, files):
            raise ValueError(
                "needs {id} (and may have {set} and {prefix}), or is a glob of .tar or .parquet"
            )
        return files

    @model_validator(mode="after")
    def _has_a_list(self) -> Self:
        if self.segments is None and self.storage != "parquet":
            raise ValueError("segments is missing: only Parquet files hold labels of their own")
        return self


class LabelSpace(Section):
    """Which of AudioSet's classes count, and what becomes of the other labels."""

    space: Literal["list", "ontology"] = "list"  # the 527 of the class list; the ontology's 543
    top: PositiveInt | None = None  # the most frequent ones
    under: tuple[str, ...] = ()  # mids or names: these and all that is below them
    parents: bool = False  # a label also counts for the classes above it
    drop_others: bool = False  # labels that no list knows are dropped, not an error
    keep_unlabelled: bool = False  # clips whose labels were all dropped

    @property
    def needs_ontology(self) -> bool:
        return self.space == "ontology" or bool(self.under) or self.parents


class AudioSetSource(SourceSection):
    """AudioSet's own metadata, or any data set written in its format (multi-label)."""

    kind: Literal["audioset"]
    classes: Path
    ontology: Path | None = None
    labels: LabelSpace = LabelSpace()
    sets: Annotated[dict[Name, SegmentSet], Field(min_length=1)]

    @model_validator(mode="after")
    def _ontology_is_given(self) -> Self:
        if self.labels.needs_ontology and self.ontology is None:
            raise ValueError("ontology: labels.space=ontology, under and parents need it")
        return self


class EscSource(SourceSection):
    """ESC-50 as published, or an ESC-10 folder with `esc10.csv` (one label a clip, 5 folds)."""

    kind: Literal["esc"]
    only_esc10: bool = False


class FolderSource(SourceSection):
    """A directory a class: `root/dog/1.wav`. Directories train, valid and test above the classes
    are the splits. `group_pattern` finds what must not be torn apart (a song, a recording): its
    first group, in the path below the root."""

    kind: Literal["folder"]
    group_pattern: str | None = None

    @field_validator("group_pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str | None) -> str | None:
        try:
            if pattern is not None and not re.compile(pattern).groups:
                raise ValueError("needs a group, as in ([^/]+)_\\d+")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return pattern


class TableColumns(Section):
    """Names of the table's columns; only `file` must be there."""

    file: str = "file"
    id: str = "id"
    labels: str = "labels"
    start: str = "start"
    end: str = "end"
    split: str = "split"
    fold: str = "fold"
    group: str = "group"


class TableSource(SourceSection):
    """A table (.csv, .tsv, .parquet, .jsonl) with one row a clip: a file below the root, and
    labels, or numeric targets; start and end, in seconds, cut the clip out of its file."""

    kind: Literal["table"]
    table: Path
    columns: TableColumns = TableColumns()
    targets: tuple[str, ...] = ()  # columns of numbers, instead of labels
    label_separator: Annotated[str, Field(min_length=1)] = ","
    task: Literal["multilabel", "multiclass"] | None = None  # None: multiclass if each has one


Source = Annotated[
    AudioSetSource | EscSource | FolderSource | TableSource, Field(discriminator="kind")
]
