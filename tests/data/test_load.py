"""A user's own data: CSVs, folders of images, folders of the `datasets` library; and what bad ones get."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from prefmerge.config import DataConfig
from prefmerge.data import load_corpus
from tests.data.datasets import class_in, image_folder, png, text_csv, write_csv, write_parquet


def corpus(name: Path | str, seed: int = 0, **options):
    return load_corpus(DataConfig(name=str(name), **options), seed)


# Tables.


def test_a_csv_in_one_line_of_configuration(tmp_path: Path):
    result = corpus(text_csv(tmp_path / "animals.csv"))
    assert (result.name, result.kind, result.classes, result.templates) == (
        "animals",
        "text",
        ("cat", "dog", "owl"),
        ("{}",),
    )
    assert (len(result.train), len(result.test)) == (24, 6)
    assert result.test.label_counts() == {0: 2, 1: 2, 2: 2}
    for split in (result.train, result.test):
        texts = split.read(range(len(split)))
        assert [text.split()[0] for text in texts] == [result.classes[label] for label in split.labels]
    assert not set(result.train.ids) & set(result.test.ids)
    assert set(result.train.ids) | set(result.test.ids) == {f"animals/{i:05d}" for i in range(30)}


def test_a_csv_with_its_test_file(tmp_path: Path):
    train = text_csv(tmp_path / "a.csv")
    test = text_csv(tmp_path / "b.csv", ("owl", "dog", "cat"), 2)
    result = corpus(train, test=str(test))
    assert (result.train.ids[0], result.test.ids) == ("train/00000", tuple(f"test/{i:05d}" for i in range(6)))
    assert result.test.labels.tolist() == [2, 1, 0, 2, 1, 0], "by name: owl is class 2 of the training file"


def test_a_folder_with_tables(tmp_path: Path):
    (tmp_path / "words").mkdir()
    text_csv(tmp_path / "words" / "train.csv")
    text_csv(tmp_path / "words" / "test.csv", per_class=2)
    result = corpus(tmp_path / "words")
    assert (result.name, len(result.train), len(result.test)) == ("words", 30, 6)


@pytest.mark.parametrize(("text", "label"), [("Sentence", "Category"), ("text", "class"), ("content", "target")])
def test_columns_are_recognised_whatever_their_case(tmp_path: Path, text: str, label: str):
    rows = [(i, f"x{i}", "ab"[i % 2]) for i in range(10)]
    result = corpus(write_csv(tmp_path / "t.csv", ("number", text, label), rows))
    assert result.classes == ("a", "b")
    assert sorted(result.train.read(range(8)) + result.test.read(range(2))) == sorted(f"x{i}" for i in range(10))


def test_columns_that_are_said(tmp_path: Path):
    rows = [("t", "body", "l", "topic", "north")] * 5
    file = write_csv(tmp_path / "t.csv", ("text", "body", "label", "topic", "region"), rows)
    result = corpus(file, input="body", label="topic", domain="region")
    assert (result.classes, result.train.read([0]), result.train.domains) == (("topic",), ["body"], ("north",) * 4)


def test_a_tsv_with_ids_quotes_and_a_byte_order_mark(tmp_path: Path):
    file = write_csv(
        tmp_path / "t.tsv", ("id", "text", "label"), [("k1", "a, b\nc", "x"), ("k2", 'say "d"', "x")], "\t"
    )
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    result = corpus(file, test=str(file))
    assert result.train.ids == ("k1", "k2")
    assert result.train.read([1, 0]) == ['say "d"', "a, b\nc"]


def test_a_csv_of_images(tmp_path: Path):
    image_folder(tmp_path / "photos", ("cat", "dog"))
    rows = [(f"photos/{name}/{i}.png", name) for i in range(4) for name in ("cat", "dog")]
    result = corpus(write_csv(tmp_path / "list.csv", ("path", "label"), rows), test=str(tmp_path / "photos"))
    assert (result.kind, result.templates) == ("image", ("a photo of a {}.",))
    assert result.train.ids[0] == "photos/cat/0.png"
    assert result.test.ids[0] == "test/cat/0.png"
    for split in (result.train, result.test):
        assert [class_in(image) for image in split.read(range(8))] == split.labels.tolist()


def test_classes_map_by_name_and_numbers_by_the_list(tmp_path: Path):
    named = corpus(text_csv(tmp_path / "a.csv"), classes=("Owl", "CAT", "dog"))
    assert [named.classes[label].casefold() for label in named.train.labels] == [
        text.split()[0] for text in named.train.read(range(24))
    ]
    numbers = write_csv(tmp_path / "n.csv", ("text", "label"), [(f"t{i % 3}", i % 3) for i in range(15)])
    numbered = corpus(numbers, classes=("zero", "one", "two"))
    assert [f"t{label}" for label in numbered.train.labels] == numbered.train.read(range(12))
    digits = corpus(numbers, classes=("2", "1", "0"))  # numbers that are names are names
    assert [f"t{2 - label}" for label in digits.train.labels] == digits.train.read(range(12))


def test_names_that_fold_alike_are_told_apart_as_written(tmp_path: Path):
    rows = [("x", "C"), ("y", "C++"), ("z", "C#")] * 5
    result = corpus(write_csv(tmp_path / "t.csv", ("text", "label"), rows), classes=("C#", "C", "C++"))
    assert [{"x": 1, "y": 2, "z": 0}[text] for text in result.train.read(range(12))] == result.train.labels.tolist()


# Folders of images.


def test_a_folder_of_class_folders_holds_a_fifth_out(tmp_path: Path):
    folder = image_folder(tmp_path / "pets", ("cat", "dog", "train"), per_class=5)  # train is a class here
    result = corpus(folder)
    assert (result.name, result.kind, result.classes) == ("pets", "image", ("cat", "dog", "train"))
    assert (len(result.train), result.test.label_counts()) == (12, {0: 1, 1: 1, 2: 1})
    assert {"cat/0.png", "dog/4.png"} <= set(result.train.ids) | set(result.test.ids)
    assert [class_in(image) for image in result.train.read(range(12))] == result.train.labels.tolist()


def test_a_folder_with_train_and_test(tmp_path: Path):
    image_folder(tmp_path / "pets" / "train", ("cat", "dog"), per_class=3)
    image_folder(tmp_path / "pets" / "test", ("cat", "dog"), per_class=1)
    (tmp_path / "pets" / "train" / "cat" / ".hidden.png").write_bytes(b"")
    image_folder(tmp_path / "pets" / "train" / ".thumbnails", ("cat",))
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("of no use")
    result = corpus(tmp_path / "pets")
    assert result.train.ids == tuple(f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(3))
    assert result.test.ids == ("test/cat/0.png", "test/dog/0.png")


def test_names_of_files_that_look_like_patterns_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a [b]" / "c*d").mkdir(parents=True)
    for i in range(5):
        (tmp_path / "a [b]" / "c*d" / f"img[{i}] (1).PNG").write_bytes(png(0, i))
    monkeypatch.chdir(tmp_path)
    result = corpus("a [b]")
    assert result.classes == ("c*d",)
    assert set(result.train.ids) | set(result.test.ids) == {f"c*d/img[{i}] (1).PNG" for i in range(5)}
    assert len(result.train.read(range(4))) == 4


def test_the_class_is_the_topmost_folder_however_deep_the_image(tmp_path: Path):
    for split in ("train", "test"):
        for label, name in enumerate(("cats", "dogs")):
            (tmp_path / split / name / "images" / "more").mkdir(parents=True)
            (tmp_path / split / name / "images" / "x.png").write_bytes(png(label))
            (tmp_path / split / name / "images" / "more" / "y.png").write_bytes(png(label))
    for result in (corpus(tmp_path), corpus(tmp_path / "train", test=str(tmp_path / "test"))):
        assert result.classes == ("cats", "dogs")
        assert [result.train.labels.tolist(), result.test.labels.tolist()] == [[0, 0, 1, 1]] * 2
    assert corpus(tmp_path).train.ids[:2] == ("train/cats/images/more/y.png", "train/cats/images/x.png")


def test_links_between_folders_repeat_no_sample(tmp_path: Path):
    folder = image_folder(tmp_path / "pets", ("cat", "dog"))
    image_folder(tmp_path / "store", ("owl",))
    (folder / "owl").symlink_to(tmp_path / "store" / "owl")
    plain = corpus(folder, test=str(folder))
    (folder / "cat" / "loop").symlink_to(folder / "cat")
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "cat" / "above").symlink_to(tmp_path)
    (folder / "a cat").symlink_to(folder / "cat")  # sorts before it, and yet the real folder names the class
    (tmp_path / "store" / "owl" / "out").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "other").mkdir()
    (tmp_path / "store" / "other" / "0.png").write_bytes(png(3))
    linked = corpus(folder, test=str(folder))
    assert plain.classes == linked.classes == ("cat", "dog", "owl")
    assert plain.train.ids == linked.train.ids
    assert len(plain.train) == 12


# Folders of the library.


def test_a_text_data_set_in_parquet_and_on_disk(tmp_path: Path):
    import datasets

    features = {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    columns = {"sentence": [f"bad {i}" for i in range(5)] + [f"good {i}" for i in range(5)], "label": [0] * 5 + [1] * 5}
    write_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", columns, features)
    write_parquet(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", columns, features)
    data = datasets.Dataset.from_dict(columns, datasets.Features(features))
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "two")
    for folder, sizes in (("hub", (10, 10)), ("one", (8, 2)), ("two", (10, 10))):
        result = corpus(tmp_path / folder)
        assert (result.kind, result.classes, result.templates) == ("text", ("bad", "good"), ("{}",))
        assert (len(result.train), len(result.test)) == sizes
        texts = result.train.read(range(sizes[0]))
        assert [result.classes[label] for label in result.train.labels] == [text.split()[0] for text in texts]
    assert len(corpus(tmp_path / "hub", test="train").test) == 10


def test_a_data_set_on_disk_that_was_selected_from(tmp_path: Path):
    import datasets

    columns = {
        "image": [{"bytes": png(i % 2, i), "path": None} for i in range(12)],
        "label": [i % 2 for i in range(12)],
    }
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    datasets.Dataset.from_dict(columns, features).select([1, 3, 5, 7, 0, 2, 4, 6, 8, 10]).save_to_disk(tmp_path / "d")
    result = corpus(tmp_path / "d")
    assert [class_in(image) for image in result.train.read(range(8))] == result.train.labels.tolist()


# Readers and fingerprints.


def test_fingerprints_follow_contents(tmp_path: Path):
    text = corpus(text_csv(tmp_path / "a.csv")).train
    folder = image_folder(tmp_path / "pets", ("cat", "dog"))
    image = corpus(folder, test=str(folder)).train
    for split in (text, image):
        assert split.fingerprint([0, 1]) == split.fingerprint([0, 1])
        assert len({split.fingerprint(at) for at in ([0], [1], [0, 1], [1, 0], [])}) == 5
    before = image.fingerprint([0]), image.fingerprint([1])
    (folder / "cat" / "0.png").write_bytes(b"not even an image")
    image = corpus(folder, test=str(folder)).train
    assert image.fingerprint([0]) != before[0], "contents are hashed, and nothing is decoded"
    assert image.fingerprint([1]) == before[1]


def test_fingerprints_tell_boundaries_apart(tmp_path: Path):
    one = write_csv(tmp_path / "1.csv", ("text", "label"), [("ab", "x"), ("c", "x")])
    two = write_csv(tmp_path / "2.csv", ("text", "label"), [("a", "x"), ("bc", "x")])
    result = [corpus(file, test=str(file)).train.fingerprint([0, 1]) for file in (one, two)]
    assert result[0] != result[1]


def test_what_reads_can_be_sent_to_other_processes(tmp_path: Path):
    folder = image_folder(tmp_path / "pets", ("cat", "dog"))
    photos = write_csv(tmp_path / "list.csv", ("path", "label"), [("pets/cat/0.png", "cat")] * 5)
    parquet_file = write_parquet(tmp_path / "p" / "train.parquet", {"text": list("abcde"), "label": ["x"] * 5})
    for place in (folder, photos, parquet_file.parent, text_csv(tmp_path / "a.csv")):
        split = corpus(place).train
        read, fingerprint = pickle.loads(pickle.dumps((split.read, split.fingerprint)))
        assert read([1, 0]) == split.read([1, 0])
        assert fingerprint([1, 0]) == split.fingerprint([1, 0])


# Choices.


def test_more_samples_of_a_class_keep_the_earlier_ones(tmp_path: Path):
    file = text_csv(tmp_path / "a.csv", per_class=40)
    sets = [set(corpus(file, train_per_class=n, test_per_class=min(n, 3)).train.ids) for n in (1, 3, 10, 1000)]
    assert [len(ids) for ids in sets] == [3, 9, 30, 96]
    assert sets[0] < sets[1] < sets[2] < sets[3]
    result = corpus(file, train_per_class=3, test_per_class=2)
    assert (result.train.label_counts(), result.test.label_counts()) == ({0: 3, 1: 3, 2: 3}, {0: 2, 1: 2, 2: 2})
    assert set(corpus(file, 1, train_per_class=3).train.ids) != set(corpus(file, 2, train_per_class=3).train.ids)
