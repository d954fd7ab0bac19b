"""Images as data: folders of classes, paths in files, bytes; damage is named with its place."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.core.errors import DataError
from compress.data.images import ROW, class_folder, decode_images, images_by_class, open_image, pillow
from compress.data.load import load_data
from compress.inputs.load import train_and_validation
from support.data import write_rows
from support.images import Image, classes, picture, truncated


def test_a_folder_of_classes_is_data(tmp_path: Path) -> None:
    classes(tmp_path)
    rows = load_data(str(tmp_path), "train")
    assert rows.column_names == ["image", "label"] and len(rows) == 6
    assert sorted(set(rows["label"])) == ["dark", "light"]
    assert all(Path(path).is_file() for path in rows["image"])
    assert class_folder(str(tmp_path)) == tmp_path


def test_of_a_lone_folder_a_part_is_held_back(tmp_path: Path) -> None:
    train, held, note = train_and_validation(str(classes(tmp_path, each=10)), None, seed=0)
    assert held is not None and len(train) == 16 and len(held) == 4
    assert "4 rows" in note


def test_folders_of_splits_are_splits(tmp_path: Path) -> None:
    classes(tmp_path / "train", each=4)
    classes(tmp_path / "test", each=2)
    assert class_folder(str(tmp_path)) is None
    assert len(load_data(str(tmp_path), "train")) == 8
    assert len(load_data(str(tmp_path), "validation")) == 4


def test_hidden_and_empty_folders_are_no_classes(tmp_path: Path) -> None:
    classes(tmp_path)
    picture(tmp_path / ".cache" / "a.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    assert set(images_by_class(tmp_path)) == {"dark", "light"}


def test_a_directory_without_images_still_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match="has no train data"):
        load_data(str(tmp_path), "train")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_paths_are_relative_to_the_file_they_stand_in(tmp_path: Path, suffix: str) -> None:
    picture(tmp_path / "data" / "images" / "a.png")
    rows = [{"image": "images/a.png", "label": "dark"}, {"image": "images/a.png", "label": "light"}]
    data = load_data(str(write_rows(tmp_path / "data" / f"rows{suffix}", rows)), "train")
    assert data["image"][0] == str(tmp_path / "data" / "images" / "a.png")
    assert data["label"][1] == "light"
    assert data[ROW][:] == [1, 2]


def test_texts_stay_as_they_are(tmp_path: Path) -> None:
    rows = [{"text": "a photo", "label": "x"}, {"text": "see a.png", "label": "y"}]
    assert load_data(str(write_rows(tmp_path / "rows.csv", rows)), "train")["text"][:] == ["a photo", "see a.png"]


def test_paths_bytes_and_images_decode_to_the_same(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 77)
    data = path.read_bytes()
    values: list[Any] = [str(path), data, {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}]
    values.append(Image.open(path))
    found = [image.tobytes() for image in decode_images(values, [f"row {i}" for i in range(len(values))])]
    assert len(set(found)) == 1 and len(found[0]) == 3 * 8 * 8


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere.png", r"image 'nowhere.png' \(row 3\) does not exist"),
        (b"GIF no more", "image row 3 does not decode"),
        (truncated(), "image row 3 does not decode"),
        (None, "row 3 has 'None' where an image is expected"),
        (7, "row 3 has '7' where an image is expected"),
        ({"bytes": None, "path": None}, "row 3 has 'None' where an image is expected"),
    ],
)
def test_what_does_not_decode_is_named(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(decode_images([value], ["row 3"]))
    assert caught.value.exit_code == 3


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(DataError, match=r"a.png' \(row 1\) does not decode"):
        open_image(str(tmp_path / "a.png"), "row 1")


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "PIL", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'compress\[vision\]'"):
        pillow()
