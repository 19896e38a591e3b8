"""Label spaces of AudioSet: the list's, the ontology's, the most frequent, a subtree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import InputError
from configs.sources import AudioSetSource
from pipeline.sources import read_source
from shards.plan import Catalogue


def real(lists: Path, **labels: Any) -> Catalogue:
    tree = {
        "kind": "audioset",
        "root": "data",
        "classes": lists / "class_labels_indices.csv",
        "ontology": lists / "ontology.json",
        "labels": labels,
        "sets": {
            "balanced": {"segments": lists / "balanced_train_segments.csv"},
            "eval": {"segments": lists / "eval_segments.csv", "split": "test"},
        },
    }
    return read_source(AudioSetSource.model_validate(tree))


def num_labels(catalogue: Catalogue) -> int:
    return len(catalogue.clips.column("labels").combine_chunks().flatten())


def test_the_default_is_the_527_of_the_list(audioset_lists: Path) -> None:
    catalogue = real(audioset_lists)
    assert len(catalogue.classes) == 527
    assert num_labels(catalogue) == 52_882 + 51_804
    assert catalogue.left_out == {}


def test_the_ontology_has_543_that_are_not_restricted(audioset_lists: Path) -> None:
    catalogue = real(audioset_lists, space="ontology")
    assert len(catalogue.classes) == 543
    assert catalogue.left_out == {"without a label that counts": 203 + 149}
    assert len(catalogue.clips) == 22_160 + 20_371 - 203 - 149
    whole = real(audioset_lists, space="ontology", keep_unlabelled=True)
    assert len(whole.clips) == 22_160 + 20_371
    of_train = whole.clips.filter(whole.clips.column("set").to_numpy() == "balanced")
    labels = of_train.column("labels").combine_chunks().flatten()
    assert len(labels) == 52_882 - 738


def test_the_most_frequent_classes_are_kept(audioset_lists: Path) -> None:
    catalogue = real(audioset_lists, top=2)
    assert {name.name for name in catalogue.classes} == {"Music", "Speech"}


@pytest.mark.parametrize("name", ["Dog", "dog", "/m/0bt9lr"])
def test_a_subtree_by_name_or_mid(audioset_lists: Path, name: str) -> None:
    classes = {known.name for known in real(audioset_lists, under=[name]).classes}
    assert {"Dog", "Bark", "Howl"} <= classes
    assert "Cat" not in classes


def test_an_unknown_class_is_refused(audioset_lists: Path) -> None:
    with pytest.raises(InputError, match="the ontology has no class 'Dragon'"):
        real(audioset_lists, under=["Dragon"])


# --- a made ontology ------------------------------------------------------------------------------

ONTOLOGY = [
    {"id": "/m/animal", "name": "Animal", "child_ids": ["/m/dog"], "restrictions": []},
    {"id": "/m/pet", "name": "Pet", "child_ids": ["/m/dog"], "restrictions": ["abstract"]},
    {"id": "/m/dog", "name": "Dog", "child_ids": ["/m/bark"], "restrictions": []},
    {"id": "/m/bark", "name": "Bark", "child_ids": [], "restrictions": []},
    {"id": "/m/rain", "name": "Rain", "child_ids": [], "restrictions": []},
]


def made(directory: Path, mids: str, **labels: Any) -> Catalogue:
    names = ["/m/animal", "/m/pet", "/m/dog", "/m/bark", "/m/rain"]
    lines = [f"{number},{mid},{mid[3:]}\n" for number, mid in enumerate(names)]
    (directory / "classes.csv").write_text("index,mid,display_name\n" + "".join(lines))
    (directory / "ontology.json").write_text(json.dumps(ONTOLOGY))
    (directory / "list.csv").write_text(f'abc, 0, 10, "{mids}"\n')
    tree = {
        "kind": "audioset",
        "root": "data",
        "classes": directory / "classes.csv",
        "ontology": directory / "ontology.json",
        "labels": labels,
        "sets": {"train": {"segments": directory / "list.csv"}},
    }
    return read_source(AudioSetSource.model_validate(tree))


def names_of(catalogue: Catalogue) -> set[str]:
    [labels] = catalogue.clips.column("labels").to_pylist()
    return {catalogue.classes[label].name for label in labels}


def test_parents_count_when_asked_for_and_each_once(tmp_path: Path) -> None:
    assert names_of(made(tmp_path, "/m/bark")) == {"bark"}
    everything = made(tmp_path, "/m/bark,/m/dog,/m/rain", parents=True)
    assert names_of(everything) == {"bark", "dog", "animal", "pet", "rain"}
    assert num_labels(everything) == 5


def test_a_class_may_stand_below_two(tmp_path: Path) -> None:
    for top in ("Animal", "Pet"):
        assert names_of(made(tmp_path, "/m/bark,/m/rain", under=[top])) == {"bark"}


def test_restricted_classes_are_not_in_the_ontologys_space(tmp_path: Path) -> None:
    catalogue = made(tmp_path, "/m/pet,/m/dog", space="ontology")
    assert names_of(catalogue) == {"Dog"}


def test_labels_that_no_list_knows_may_be_dropped(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"list\.csv: abc: label '/m/zebra' is not in the class"):
        made(tmp_path, "/m/dog,/m/zebra")
    assert names_of(made(tmp_path, "/m/dog,/m/zebra", drop_others=True)) == {"dog"}


def test_spaces_that_need_the_ontology_say_so(tmp_path: Path) -> None:
    tree = {
        "kind": "audioset",
        "root": "data",
        "classes": tmp_path / "classes.csv",
        "labels": {"under": ["Dog"]},
        "sets": {"train": {"segments": tmp_path / "list.csv"}},
    }
    with pytest.raises(ValueError, match=r"ontology: labels\.space=ontology, under and parents"):
        AudioSetSource.model_validate(tree)


def test_a_share_is_the_same_clips_from_any_longer_list(audioset_lists: Path) -> None:
    def ids(name: str, share: float) -> set[str]:
        part = {"segments": audioset_lists / name, "share": share}
        tree = {
            "kind": "audioset",
            "root": "data",
            "classes": audioset_lists / "class_labels_indices.csv",
            "sets": {"one": part},
        }
        catalogue = read_source(AudioSetSource.model_validate(tree))
        assert sum(catalogue.left_out.values()) + len(catalogue.clips) == 20_371
        return set(catalogue.clips.column("id").to_pylist())

    tenth, fifth = ids("eval_segments.csv", 0.1), ids("eval_segments.csv", 0.2)
    assert len(tenth) == pytest.approx(2037, rel=0.08)
    assert tenth < fifth
