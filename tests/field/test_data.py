"""Data of users: class folders that differ, separators, images and tables that change while they are read."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from prefmerge.config import DataConfig, FinetuneConfig, make_config
from prefmerge.data import Corpus, load_corpus, whole
from prefmerge.data.scenarios import Scenario, build_scenario
from prefmerge.data.tables import open_table
from prefmerge.errors import ConfigError, DataError
from prefmerge.target import given
from prefmerge.training.config_file import differences
from tests.data.datasets import image_folder, png, text_corpus, text_csv, write_csv


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library-cache")


def corpus(name: Path | str, **options) -> Corpus:
    return load_corpus(DataConfig(name=str(name), **options), 0)


def parts(folder: Path, train: tuple[str, ...], test: tuple[str, ...]) -> Path:
    image_folder(folder / "train", train)
    image_folder(folder / "test", test)
    return folder


# Classes that train and test do not share.


def test_journey_2_a_class_folder_that_is_only_in_test(tmp_path: Path):
    photos = parts(tmp_path / "photos", ("Bag", "Shoe"), ("Bags", "Shoe"))
    with pytest.raises(DataError) as error:
        corpus(photos)
    assert str(error.value) == (
        f"{photos}, split 'train' and {photos}, split 'test': test has class 'Bags', which train lacks (did you mean "
        "'Bag' by 'Bags'?); train has class 'Bag', which test lacks. Rename or remove them; or list all classes in "
        "`classes: […]`, if it is meant so."
    )


def test_journey_2_a_class_folder_that_is_only_in_train(tmp_path: Path):
    photos = parts(tmp_path / "photos", ("Bag", "Boot", "Shoe"), ("Bag", "Shoe"))
    with pytest.raises(DataError, match=r"train has class 'Boot', which test lacks\. Rename"):
        corpus(photos)
    assert corpus(photos, classes=("Bag", "Boot", "Shoe")).classes == ("Bag", "Boot", "Shoe"), "it is meant so"


def test_journey_2_labels_of_two_tables(tmp_path: Path):
    text_csv(tmp_path / "train.csv", ("cat", "dog"))
    text_csv(tmp_path / "test.csv", ("cat", "dogs"))
    with pytest.raises(DataError, match=r"test has class 'dogs', which train lacks \(did you mean 'dog' by 'dogs'\?\)"):
        corpus(tmp_path)


def test_journey_2_a_folder_of_test_images_apart(tmp_path: Path):
    train = image_folder(tmp_path / "a", ("Bag", "Shoe"))
    test = image_folder(tmp_path / "b", ("Bags", "Shoe"))
    with pytest.raises(DataError, match="did you mean 'Bag' by 'Bags'"):
        corpus(train, test=str(test))


def test_journey_2_names_that_differ_in_case_and_signs_are_one_class(tmp_path: Path):
    text_csv(tmp_path / "train.csv", ("hand bag", "shoe"))
    text_csv(tmp_path / "test.csv", ("Hand_Bag", "shoe"))
    result = corpus(tmp_path)
    assert result.classes == ("hand bag", "shoe")
    assert result.test.label_counts() == {0: 10, 1: 10}
    photos = corpus(parts(tmp_path / "photos", ("Bag", "Shoe"), ("bag", "Shoe")))
    assert photos.classes == ("Bag", "Shoe")
    assert photos.test.label_counts() == {0: 4, 1: 4}


# Tables as spreadsheets write them.


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["seen.csv", "seen.tsv"])
def test_journey_10_any_separator_in_any_table(separator: str, name: str, tmp_path: Path):
    rows = [("1, 2; 3\t4", "cat"), ("5", "dog")]
    file = write_csv(tmp_path / name, ("text", "label"), rows, separator)
    table = open_table(file)
    assert (table.columns, table.rows) == (["text", "label"], [list(row) for row in rows])
    assert given.read_labels(file) == {"cat": 1, "dog": 1}
    examples, _ = given.read_pairs(file, ("cat", "dog"), "text")
    assert examples.read([0, 1]) == ["1, 2; 3\t4", "5"]
    assert corpus(file, test=str(file)).classes == ("cat", "dog")


def test_journey_10_a_spreadsheet_that_says_its_separator(tmp_path: Path):
    file = tmp_path / "seen.csv"
    file.write_text("sep=|\r\nlabel|n\r\ncat|3\r\ndog|x\r\n", encoding="utf-8-sig")
    table = open_table(file)
    assert (table.columns, table.rows, table.lines) == (["label", "n"], [["cat", "3"], ["dog", "x"]], [3, 4])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("label\rcat\rdog\r", [2, 3]),
        ("\n\nlabel\ncat\ndog\n", [4, 5]),
        ("\r\n \r\nsep=;\r\nlabel;n\r\ncat;1\r\ndog;1\r\n", [5, 6]),
        ("id|label\n1|cat\n2|dog\n", [2, 3]),
    ],
)
def test_journey_10_lines_as_others_end_and_begin_them(text: str, lines: list[int], tmp_path: Path):
    file = tmp_path / "seen.csv"
    file.write_bytes(text.encode())
    assert given.read_labels(file) == {"cat": 1, "dog": 1}
    assert open_table(file).lines == lines


def test_journey_10_counts_of_tasks_with_semicolons(tmp_path: Path):
    file = write_csv(tmp_path / "tasks.csv", ("task", "label", "count"), [("a", "cat", 3), ("b", "dog", 4)], ";")
    assert given.read_task_labels(file) == {"a": {"cat": 3}, "b": {"dog": 4}}


def test_journey_10_one_column_keeps_its_semicolons(tmp_path: Path):
    file = tmp_path / "seen.csv"
    file.write_text("cat\ncat; wild\n")
    assert given.read_labels(file) == {"cat": 1, "cat; wild": 1}


# Files that change while they are read.


class Changing:
    """Stands for a writer: acts once, after the file was opened and its size and time were noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
        real, looks = os.fstat, []

        def fstat(fd: int) -> os.stat_result:
            result = real(fd)
            looks.append(fd)
            if len(looks) == 2:  # the first is for the clock
                act()
            return result

        monkeypatch.setattr(whole.os, "fstat", fstat)
        monkeypatch.setattr(whole, "TICK_NS", 0)  # so that the first look is the one that counts


LONGER = "text,label\n" + "other words,dog\n" * 9


@pytest.mark.parametrize("change", ["longer", "shorter", "as long"])
def test_changing_1_a_table_that_is_written_while_it_is_read(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = text_csv(tmp_path / "a.csv")
    os.utime(file, ns=(1, 1))
    new = {"longer": LONGER * 9, "shorter": "text,label\n", "as long": "x" * file.stat().st_size}[change]
    Changing(monkeypatch, lambda: file.write_text(new))
    with pytest.raises(DataError, match=r"a\.csv: changed while it was read\. Wait until it is written"):
        corpus(file)
    file.write_text(LONGER.replace("dog", "cat", 1))
    assert corpus(file, test=str(file)).classes == ("cat", "dog")


@pytest.mark.parametrize("reader", [given.read_labels, lambda file: given.read_inputs(file, "text")])
def test_changing_2_lists_of_the_target(
    reader: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "seen.txt"
    file.write_text("cat\ndog\n")
    Changing(monkeypatch, lambda: file.write_text("cat\n"))
    with pytest.raises(DataError, match="changed while it was read"):
        reader(file)


def test_changing_3_an_image_that_changes_between_two_readings(tmp_path: Path):
    folder = image_folder(tmp_path / "pets", ("cat", "dog"))
    listed = write_csv(tmp_path / "list.csv", ("path", "label"), [("pets/cat/0.png", "cat"), ("pets/dog/0.png", "dog")])
    of_folder, of_table = corpus(folder, test=str(folder)).train, corpus(listed, test=str(listed)).train
    target = given.read_inputs(folder, "image")
    for examples in (of_folder, of_table, target):
        examples.fingerprint(range(len(examples)))
    in_a_worker = pickle.loads(pickle.dumps(of_folder.read))
    touched = folder / "cat" / "0.png"
    os.utime(touched)
    of_folder.read([0])  # the same bytes with another time are no change
    touched.write_bytes(png(1, 1))
    for read in (of_folder.read, of_table.read, target.read, in_a_worker):
        with pytest.raises(DataError, match=r"0\.png.*: changed since it was first read"):
            read([0])
    assert len(of_folder.read([1, 2])) == 2, "the others are as they were"


def test_changing_4_a_file_written_just_now_is_looked_at_when_the_clock_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    slept: list[float] = []
    monkeypatch.setattr(whole.time, "sleep", slept.append)
    file = tmp_path / "a.txt"
    file.write_text("x")
    os.utime(file, ns=(1, 1))
    assert whole.read_whole(file, "it") == b"x"
    assert slept == []
    monkeypatch.setattr(whole, "TICK_NS", 10**12)
    file.write_text("y")
    assert whole.read_whole(file, "it") == b"y"
    assert len(slept) == 1


# Tasks by name, and domains that are folders.


def tasks_of(tasks: object, **more) -> tuple[FinetuneConfig, Scenario]:
    config = make_config({"model": "m", "data": "words", "scenario": {"tasks": tasks, **more}})
    return config, build_scenario(config, [text_corpus(classes=("Bag", "Boot", "Hand Bag", "Sandal", "Hat"))])


def test_journey_4_tasks_by_name():
    config, scenario = tasks_of({"shoes": ["Sandal", "Boot"], "bags & more": ["hand_bag", "Bag"]})
    assert [(task.name, [scenario.classes[c].name for c in task.classes]) for task in scenario.tasks] == [
        ("shoes", ["Sandal", "Boot"]),
        ("bags-more", ["Hand Bag", "Bag"]),
    ]
    assert [one.name for one in scenario.classes] == ["Bag", "Boot", "Hand Bag", "Sandal"], "the head has no other row"
    assert scenario.notes == ("Classes that no task has are left out: 'Hat'.",)
    for task in scenario.tasks:
        assert set(task.train.labels.tolist()) == set(task.test.labels.tolist()) == set(task.classes)
    assert make_config(yaml.safe_load(config.to_yaml())) == config


def test_journey_4_labels_stay_with_their_samples_where_classes_are_left_out():
    _, scenario = tasks_of({"late": ["Hat"], "early": ["Sandal"]})
    assert [one.name for one in scenario.classes] == ["Sandal", "Hat"]
    late = scenario.tasks[0]
    assert late.classes == (1,)
    assert all(text.endswith(" of 4") for text in late.train.read(range(len(late.train)))), "Hat was class 4"


def test_journey_4_tasks_beside_data_are_the_scenarios():
    least = {"model": "m", "data": "words", "tasks": {"a": ["Bag"], "b": ["Boot"]}}
    assert make_config(least).scenario.tasks == {"a": ("Bag",), "b": ("Boot",)}
    assert make_config({**least, "scenario": "class-incremental", "tasks": 3}).scenario.tasks == 3
    with pytest.raises(ConfigError, match="`tasks` stands twice"):
        make_config({**least, "scenario": {"tasks": 3}})


def test_journey_4_another_order_of_the_tasks_is_another_run():
    named = {"a": ["x"], "b": ["y"]}
    one, other = (
        make_config({"model": "m", "data": "w", "tasks": dict(pairs)})
        for pairs in (named.items(), [*named.items()][::-1])
    )
    assert [key for key, _, _ in differences(one, other)] == ["scenario.tasks"]
    assert differences(one, one) == []


@pytest.mark.parametrize(
    ("tasks", "more", "said"),
    [
        ({"a": ["Bags"]}, {}, "'a' has a class 'Bags', which 'words' lacks. Did you mean 'Bag'?"),
        (
            {"a": ["Bag"], "b": ["Boot", "bag"]},
            {},
            "the class 'bag' stands twice, in 'a' and in 'b'. A",
        ),
        ({"a": ["Bag", "Bag"]}, {}, "the class 'Bag' stands twice, in 'a'. A class"),
        ({"a": ["Bag"]}, {"class_order": "random"}, "`class_order` orders classes, and `tasks` lists them by task"),
        ({"a": ["Bag"]}, {"kind": "datasets"}, "tasks by name are made of the classes of one data set"),
        ({}, {}, "scenario.tasks: expected a number of tasks, or tasks by name"),
        ({"a": []}, {}, "scenario.tasks: expected a number of tasks, or tasks by name"),
        (0, {}, "scenario.tasks: expected a number of tasks, or tasks by name"),
    ],
)
def test_journey_4_tasks_that_cannot_be(tasks: object, more: dict[str, str], said: str):
    with pytest.raises(ConfigError) as error:
        tasks_of(tasks, **more)
    assert said in str(error.value)


def domains(folder: Path, layout: str) -> Path:
    for domain in ("photos", "sketches"):
        for part in ("train", "test"):
            into = folder / part / domain if layout == "split" else folder / domain
            image_folder(into, ("cat", "dog"), 5)
    return folder


@pytest.mark.parametrize("layout", ["split", "whole"])
def test_journey_4_domains_that_are_folders(layout: str, tmp_path: Path):
    folder = domains(tmp_path / "animals", layout)
    config = make_config(
        {"model": "m", "data": {"name": str(folder), "domain": "folder"}, "scenario": "domain-incremental"}
    )
    scenario = build_scenario(config, [load_corpus(config.data[0], 0)])
    assert [one.name for one in scenario.classes] == ["cat", "dog"]
    assert [task.name for task in scenario.tasks] == ["photos", "sketches"]
    for task in scenario.tasks:
        assert all(f"{task.name}/" in name for name in (*task.train.ids, *task.held_out.ids, *task.test.ids))
        assert task.classes == (0, 1)


def test_journey_4_an_image_beside_the_class_folders_of_a_domain(tmp_path: Path):
    folder = domains(tmp_path / "animals", "whole")
    (folder / "photos" / "stray.png").write_bytes(png(1))
    with pytest.raises(DataError, match=r"stray\.png: lies in a domain and in no class\. Expected DOMAIN/CLASS/IMAGE"):
        corpus(folder, domain="folder")


def test_journey_4_how_domains_are_said(tmp_path: Path):
    folder = image_folder(tmp_path / "animals", ("cat", "dog"), 5)
    config = make_config({"model": "m", "data": str(folder), "scenario": "domain-incremental"})
    with pytest.raises(DataError, match=r"DOMAIN/CLASS/IMAGE .*`data: \{name: …, domain: folder\}`"):
        build_scenario(config, [load_corpus(config.data[0], 0)])
