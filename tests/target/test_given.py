"""What a user has of the target: every form that is read gives the same, and every wrong one gets one message."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="images are read with Pillow (extra train)")
pytest.importorskip("datasets", reason="folders of classes are read with datasets (extra train)")

from prefmerge.data.examples import Examples
from prefmerge.errors import DataError
from prefmerge.target import given
from tests.data.datasets import class_in, image_folder, png, text_csv, write_csv

LABELS = ["owl", "cat", "owl", "dog", "owl", "cat"]
COUNTS = Counter(owl=3, cat=2, dog=1)


def lines(file: Path, *texts: str) -> Path:
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return file


def saved(file: Path, data: object) -> Path:
    file.write_text(json.dumps(data))
    return file


LABEL_FILES: dict[str, Callable[[Path], Path]] = {
    "a column": lambda p: write_csv(p / "m.csv", ("text", "label"), [("x", one) for one in LABELS]),
    "another name of it": lambda p: write_csv(p / "m.tsv", ("Category", "z"), [(one, 1) for one in LABELS], "\t"),
    "one column with header": lambda p: write_csv(p / "m.csv", ("label",), [(one,) for one in LABELS]),
    "one column without header": lambda p: write_csv(p / "m.csv", LABELS[:1], [(one,) for one in LABELS[1:]]),
    "counts": lambda p: write_csv(p / "m.csv", ("label", "count"), [("owl", 3), ("cat", 1), ("dog", 1), ("cat", 1)]),
    "a line each": lambda p: lines(p / "m.txt", *LABELS, "", "  "),
    "JSON": lambda p: saved(p / "m.json", {"owl": 3, "cat": 2, "dog": 1, "fox": 0}),
    "a JSON list": lambda p: saved(p / "m.json", LABELS),
}


@pytest.mark.parametrize("form", LABEL_FILES)
def test_labels_are_counted_in_every_form(form: str, tmp_path: Path):
    assert dict(given.read_labels(LABEL_FILES[form](tmp_path))) == dict(COUNTS)


def test_a_list_of_one_label_without_header(tmp_path: Path):
    assert given.read_labels(lines(tmp_path / "m.csv", '"owl, barn"')) == Counter({"owl, barn": 1})


def test_label_counts_of_tasks(tmp_path: Path):
    expected = {"cars": {"sedan": 3, "van": 1}, "birds": {"owl": 2}}
    rows = [("cars", "sedan", 2), ("birds", "owl", 2), ("cars", "van", 1), ("cars", "sedan", 1)]
    table = write_csv(tmp_path / "c.csv", ("task", "label", "count"), rows)
    assert given.read_task_labels(table) == expected
    assert list(given.read_task_labels(table)) == ["cars", "birds"]
    assert given.read_task_labels(saved(tmp_path / "c.json", expected)) == expected


def test_labels_match_classes_by_name_and_never_by_position():
    found = given.matched(
        {"Sweet_pepper": 2, "sweet pepper": 1, "C": 4, "c++": 8, "0": 16, "owI": 32},
        ["sweet pepper", "C", "C++", "owl"],
    )
    # C and C++ fold alike, so `c++` is neither; 0 is no position.
    assert found.known == Counter({"sweet pepper": 3, "C": 4})
    assert found.unknown == Counter({"c++": 8, "0": 16, "owI": 32})
    assert found.nearest == {"c++": "C++", "owI": "owl"}


def images_by_list(folder: Path) -> Path:
    return lines(folder / "target.txt", "b/owl/0.png", "a/cat/0.png")


IMAGES: dict[str, Callable[[Path], Path]] = {
    "a folder": lambda p: p,
    "a list of paths": images_by_list,
    "a CSV of paths": lambda p: write_csv(p / "p.csv", ("n", "Image"), [(1, "b/owl/0.png"), (2, "a/cat/0.png")]),
}


def two_images(folder: Path) -> None:
    for label, name in enumerate(("a/cat", "b/owl")):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.png").write_bytes(png(label))
    (folder / "a" / ".hidden.png").write_bytes(b"")
    (folder / "a" / "loop").symlink_to(folder)


@pytest.mark.parametrize("form", IMAGES)
def test_images_of_a_target(form: str, tmp_path: Path):
    two_images(tmp_path)
    found = given.read_inputs(IMAGES[form](tmp_path), "image")
    read = dict(zip(found.ids, map(class_in, found.read(range(len(found)))), strict=True))
    assert read == {"a/cat/0.png": 0, "b/owl/0.png": 1}
    assert found.labels.tolist() == [-1, -1]
    assert found.fingerprint([0]) != found.fingerprint([1])


def text_folder(folder: Path) -> Path:
    (folder / "texts" / "deep").mkdir(parents=True)
    lines(folder / "texts" / "1.txt", "one")
    lines(folder / "texts" / "deep" / "2.txt", "two", "and a half")
    return folder / "texts"


TEXTS: dict[str, tuple[Callable[[Path], Path], list[str], tuple[str, ...]]] = {
    "a folder": (text_folder, ["one", "two\nand a half"], ("1.txt", "deep/2.txt")),
    "a list": (lambda p: lines(p / "p.txt", "one", "", "two"), ["one", "two"], ("p/00000", "p/00001")),
    "a CSV": (
        lambda p: write_csv(p / "p.csv", ("id", "Sentence"), [("x", "one"), ("y", "two")]),
        ["one", "two"],
        ("x", "y"),
    ),
}


@pytest.mark.parametrize("form", TEXTS)
def test_texts_of_a_target(form: str, tmp_path: Path):
    make, texts, ids = TEXTS[form]
    found = given.read_inputs(make(tmp_path), "text")
    assert (found.read(range(len(found))), found.ids) == (texts, ids)


def test_pairs_of_texts(tmp_path: Path):
    file = write_csv(tmp_path / "p.csv", ("text", "label"), [("hoo", "OWL"), ("miau", "cat"), ("hoot", "owl")])
    found = given.read_labelled(file, ("dog", "owl", "cat"), "text")
    assert found.labels.tolist() == [1, 2, 1]
    assert found.read([2]) == ["hoot"]


def test_pairs_whose_labels_are_no_class_are_left_aside_up_to_half(tmp_path: Path):
    rows = [("hoo", "owl"), ("x", "yak"), ("miau", "cat"), ("y", "emu")]
    file = write_csv(tmp_path / "p.csv", ("text", "label"), rows)
    examples, notes = given.read_pairs(file, ("yam", "owl", "cat"), "text")
    assert examples.ids == ("p/00000", "p/00002")
    assert examples.labels.tolist() == [1, 2]
    assert examples.read([0, 1]) == ["hoo", "miau"]
    assert notes == (
        "2 of the target's 4 labels are no class of any task and not counted: 'emu' (first at sample 'p/00003'), "
        "'yak' (first at sample 'p/00001'). Did you mean 'yam' by 'yak'?",
    )
    assert given.read_pairs(file, ("yak", "emu", "owl", "cat"), "text")[1] == ()


def test_pairs_of_images_in_folders_of_some_of_the_classes(tmp_path: Path):
    image_folder(tmp_path / "target", ("Owl", "cat"), per_class=2)
    found = given.read_labelled(tmp_path / "target", ("dog", "owl", "cat"), "image")
    assert [("dog", "owl", "cat")[label] for label in found.labels] == ["owl", "owl", "cat", "cat"]
    assert [class_in(image) for image in found.read(range(4))] == [0, 0, 1, 1]


def test_the_samples_chosen_depend_on_ids_alone_and_grow(tmp_path: Path):
    whole = given.read_inputs(lines(tmp_path / "p.txt", *(f"text {i}" for i in range(60))), "text")
    few, more = given.chosen(whole, 10, 3), given.chosen(whole, 25, 3)
    assert (len(few), len(more), given.chosen(whole, 60, 3).ids) == (10, 25, whole.ids)
    assert set(few.ids) < set(more.ids)
    assert set(given.chosen(whole.take(range(59, -1, -1)), 10, 3).ids) == set(few.ids)
    assert given.chosen(whole, 10, 4).ids != few.ids


def test_samples_of_tasks_lie_in_one_folder_or_in_one_each(tmp_path: Path):
    for name in ("cars", "birds"):
        (tmp_path / name).mkdir()
    lines(tmp_path / "digits.txt", "one")
    names = ("birds", "digits", "cars")
    expected = [tmp_path / "birds", tmp_path / "digits.txt", tmp_path / "cars"]
    assert given.task_sources([tmp_path], names) == expected
    assert given.task_sources(expected, ("x", "y", "z")) == expected
    assert given.task_sources([tmp_path], ("other",)) == [tmp_path]
    assert given.task_sources([tmp_path], ("cars",)) == [tmp_path / "cars"]


def test_embeddings_by_task_or_one_for_all(tmp_path: Path):
    a, b = np.arange(6.0).reshape(2, 3), np.ones((4, 3), np.float32)
    np.savez(tmp_path / "tasks.npz", x=b, cars=a, birds=b)
    assert [f.tolist() for f in given.read_embeddings(tmp_path / "tasks.npz", ("cars", "birds"), "x")] == [
        a.tolist(),
        b.tolist(),
    ]
    np.save(tmp_path / "target.npy", a)
    np.savez(tmp_path / "target.npz", target=a)
    for name in ("target.npy", "target.npz"):
        assert [f.tolist() for f in given.read_embeddings(tmp_path / name, ("cars", "birds"), "x")] == [a.tolist()] * 2


def pairs(path: Path) -> Examples:
    return given.read_labelled(path, ("cat", "dog", "owl"), "text")


def pairs_of_the_target(path: Path) -> Examples:
    return given.read_pairs(path, ("cat", "dog", "owl"), "text")[0]


def embeddings(path: Path) -> list[np.ndarray]:
    return given.read_embeddings(path, ("cars", "birds"), "embeddings of the target")


def images(path: Path) -> Examples:
    return given.read_inputs(path, "image")


def texts(path: Path) -> Examples:
    return given.read_inputs(path, "text")


def made(folder: Path) -> None:
    """Everything that a user could give by mistake."""
    lines(folder / "empty.txt")
    (folder / "none").mkdir()
    two_images(folder / "images")
    text_folder(folder)
    lines(folder / "list.txt", "images/a/cat/0.png")
    lines(folder / "lost.txt", "images/a/cat/0.png", "images/a/cat/9.png")
    lines(folder / "words.txt", "a text")
    write_csv(folder / "texts.csv", ("text", "other"), [("one", "two")])
    write_csv(folder / "images.csv", ("image", "label"), [("images/a/cat/0.png", "cat")])
    write_csv(folder / "odd.csv", ("a", "b"), [("one", "two")])
    write_csv(folder / "hole.csv", ("text", "label"), [("one", "cat"), ("two", "")])
    write_csv(folder / "unknown.csv", ("text", "label"), [("1", "cat"), ("2", "dgo"), ("3", "ant"), ("4", "dgo")])
    write_csv(folder / "numbers.csv", ("text", "label"), [("1", "2"), ("2", "0")])
    write_csv(folder / "minus.csv", ("label", "count"), [("cat", "-1")])
    write_csv(folder / "notask.csv", ("task_name", "label", "count"), [("a", "cat", 1)])
    lines(folder / "broken.json", "{")
    saved(folder / "nested.json", {"cat": {"n": 1}})
    saved(folder / "flat.json", {"cat": 1})
    saved(folder / "list.json", ["cat", 7, {"n": 1}])
    saved(folder / "number.json", 3)
    saved(folder / "half.json", {"cars": {"cat": 1.5}})
    saved(folder / "zero.json", {"cars": {"cat": 0}})
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    np.savez(folder / "other.npz", cars=np.ones((2, 3)), bird=np.ones((2, 3)))
    np.savez(folder / "single.npz", cars=np.ones((2, 3)))
    np.save(folder / "vector.npy", np.ones(3))
    np.save(folder / "nan.npy", np.full((1, 2), np.nan))
    np.save(folder / "nothing.npy", np.ones((0, 3)))
    lines(folder / "text.npy", "no array")
    image_folder(folder / "split" / "train", ("cat",))
    image_folder(folder / "split" / "test", ("cat",))


@pytest.mark.parametrize(
    ("read", "name", "said"),
    [
        (given.read_labels, "absent.csv", "absent.csv: no such file or folder; expected labels."),
        (given.read_labels, "none", "none: is a folder; labels are a CSV with a column `label`, a .txt with"),
        (given.read_labels, "empty.txt", "empty.txt: holds no labels. Give a label for each sample of the target."),
        (given.read_labels, "odd.csv", "odd.csv: no column looks like the label (label, class, category, labels, …);"),
        (given.read_labels, "hole.csv", "hole.csv: line 3 has nothing in column 'label'."),
        (given.read_labels, "minus.csv", "minus.csv: row 1: count is '-1'; expected a number of samples."),
        (given.read_labels, "broken.json", "broken.json: cannot be read as JSON: "),
        (given.read_labels, "nested.json", "nested.json: 'cat': expected a number of samples, found {'n': 1}."),
        (given.read_labels, "list.json", "list.json: entry 3: expected a label, found {'n': 1}."),
        (
            given.read_labels,
            "number.json",
            "number.json: expected an object {label: number of samples} or a list of labels, found 3.",
        ),
        (given.read_task_labels, "half.json", "half.json: 'cars': 'cat': expected a number of samples, found 1.5."),
        (given.read_labels, "latin.txt", "latin.txt: byte 3 is not UTF-8. Save the file as UTF-8."),
        (given.read_labels, "nan.npy", "nan.npy: its name ends in '.npy'; labels are read from .csv, .tsv, .txt or"),
        (
            given.read_task_labels,
            "flat.json",
            "flat.json: 'cat': expected an object {class: number of samples}, found 1.",
        ),
        (given.read_task_labels, "zero.json", "zero.json: task 'cars' has no samples. Every task needs the number"),
        (given.read_task_labels, "notask.csv", "notask.csv: there is no column 'task'; the columns are: task_name,"),
        (given.read_task_labels, "list.txt", "list.txt: label counts of the tasks are a .json, {task: {class: n}},"),
        (images, "none", "none: holds no image files (.bmp, .gif, .jpeg, .jpg, .png"),
        (texts, "none", "none: holds no text files (.txt), nor do the folders in it."),
        (
            texts,
            "images",
            "images: holds 2 image files and no text files, and the model reads texts. Expected a folder",
        ),
        (
            images,
            "texts",
            "texts: holds 2 text files and no image files, and the model reads images. Expected a folder",
        ),
        (
            texts,
            "images.csv",
            "images.csv: has a column 'image' of images, and the model reads texts. Expected a folder",
        ),
        (images, "texts.csv", "texts.csv: has a column 'text' of texts, and the model reads images. Expected a folder"),
        (texts, "odd.csv", "odd.csv: no column looks like the text (text, sentence, content, phrase, …); the columns"),
        (texts, "list.txt", "list.txt: lists images, and the model reads texts. Expected a folder of .txt files"),
        (images, "lost.txt", "lost.txt: line 2 names 'images/a/cat/9.png', and there is no such file. Paths are"),
        (images, "words.txt", "words.txt: line 1 names 'a text', and there is no such file. The model reads images."),
        (texts, "empty.txt", "empty.txt: holds nothing. Expected a text a line."),
        (texts, "nan.npy", "nan.npy: holds embeddings, and those of the tasks are not. Expected a folder of .txt"),
        (texts, "flat.json", "flat.json: is none of texts. Expected a folder of .txt files"),
        (
            pairs,
            "unknown.csv",
            "2 labels 'dgo' (first at sample 'unknown/00001'), 'ant' (first at sample 'unknown/00002') are not among",
        ),
        (
            pairs_of_the_target,
            "unknown.csv",
            "unknown.csv: 3 of the target's 4 labels are no class of any task: 'dgo' (first at sample "
            "'unknown/00001'), 'ant' (first at sample 'unknown/00002'). The 3 classes are 'cat', 'dog', "
            "'owl'. Did you mean 'dog' by 'dgo'? Write the labels as the tasks' class names.",
        ),
        (pairs, "unknown.csv", "'cat', 'dog', 'owl'. Did you mean 'dog'?"),
        (
            pairs,
            "numbers.csv",
            "(first at sample 'numbers/00001') are not among the 3 classes 'cat', 'dog', 'owl'. Wri",
        ),
        (pairs, "texts.csv", "no column looks like the label (label, class, category, labels, …); the columns are: te"),
        (pairs, "images.csv", "images.csv: has a column 'image' of images, and the model reads texts."),
        (pairs, "texts", "texts: is a folder; texts with labels are a CSV with the columns text and label."),
        (pairs, "list.txt", "list.txt: texts with labels are a CSV with the columns text and label."),
        (
            embeddings,
            "other.npz",
            "other.npz: there is no array for task 'birds'; it holds 'cars', 'bird'. Expected embed",
        ),
        (
            embeddings,
            "single.npz",
            "single.npz: there is no array for task 'birds'; it holds 'cars'. Expected embeddings",
        ),
        (embeddings, "vector.npy", "vector.npy: has shape (3,) and type float64; expected numbers of shape (samples,"),
        (embeddings, "nan.npy", "nan.npy: holds NaN or infinity."),
        (embeddings, "nothing.npy", "nothing.npy: holds no embeddings: its shape is (0, 3)."),
        (embeddings, "text.npy", "text.npy: cannot be read as .npy or .npz: "),
    ],
)
def test_what_a_user_gets_wrong(
    read: Callable[[Path], object], name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    made(tmp_path)
    with pytest.raises(DataError) as error:
        read(Path(name))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_that_is_none(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    found = given.read_inputs(tmp_path, "image")
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read as an image \(8 bytes\)\. Replace or remove it\."):
        found.read([0])
    lines(tmp_path / "list.txt", "a.jpg")
    with pytest.raises(DataError, match=r"list\.txt: line 1: image '.*a\.jpg': cannot be read as an image"):
        given.read_inputs(tmp_path / "list.txt", "image").read([0])


def test_parts_of_a_data_set_are_not_taken_for_a_target(tmp_path: Path):
    made(tmp_path)
    with pytest.raises(DataError, match=r"holds several parts \(train, test\)\. Give the one that is of the target"):
        given.read_pairs(tmp_path / "split", ("cat",), "image")
    text_csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"t\.csv: has a column 'text' of texts, and the model reads images"):
        given.read_pairs(tmp_path / "t.csv", ("cat",), "image")


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["cars", "birds"], "samples are given for 2 tasks, and there are 3: cars, birds, digits. Give --task-samples"),
        (["."], "there are no samples of task 'digits': expected a folder (or .txt, .csv or .npy) named after each of"),
        (["cars", "birds", "lost"], "lost: no such file or folder; expected samples of task 'digits'."),
        ([], "samples are given for 0 tasks, and there are 3"),
    ],
)
def test_tasks_without_samples(paths: list[str], said: str, tmp_path: Path):
    for name in ("cars", "birds"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError) as error:
        given.task_sources([tmp_path / one for one in paths], ("cars", "birds", "digits"))
    assert said in str(error.value)
