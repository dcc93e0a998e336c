"""Folders of images and masks: pairs, what is missing, sizes, and kinds of files."""

from __future__ import annotations

import builtins
import json
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from surgery.errors import MissingExtraError, PatientError
from surgery_plugins.data.images import ImageMask

GREY = numpy.arange(6 * 8, dtype=numpy.uint8).reshape(6, 8)
MASK = (GREY % 3).astype(numpy.uint8)


def save(folder: Path, name: str, array: Any) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".npy":
        numpy.save(file, array)
    else:
        Image.fromarray(array).save(file)


def data(root: Path, **more: Any) -> ImageMask:
    return ImageMask(images=str(root / "images"), masks=str(root / "masks"), **more)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b.png", "deep/a.png", "c.bmp"):
        save(tmp_path / "images", name, numpy.stack([GREY] * 3, -1))
        save(tmp_path / "masks", name.replace("bmp", "png"), MASK)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path


def test_pairs_go_by_name_whatever_the_suffix_and_in_order(root: Path) -> None:
    found = data(root).open()
    assert len(found) == 3
    samples = [found[number] for number in range(3)]
    assert [one["name"] for one in samples] == ["b", "c", "deep/a"]
    for one in samples:
        assert one["image"].shape == (6, 8, 3)
        assert one["image"].dtype == numpy.uint8
        assert numpy.array_equal(one["mask"], MASK != 0)
    assert pickle.loads(pickle.dumps(found))[0]["name"] == "b"


def test_all_files_without_a_partner_are_counted_and_named(root: Path) -> None:
    (root / "masks" / "b.png").unlink()
    (root / "masks" / "deep" / "a.png").unlink()
    save(root / "masks", "lonely.png", MASK)
    with pytest.raises(PatientError) as caught:
        data(root).open()
    told = str(caught.value)
    assert "2 without a mask" in told
    assert "1 without an image" in told
    for name in ("b.png", "a.png", "lonely.png"):
        assert name in told


def test_of_many_the_first_are_named(root: Path) -> None:
    for number in range(9):
        save(root / "images", f"x{number}.png", GREY)
    with pytest.raises(PatientError, match=r"9 without a mask: .*x4\.png and 4 more"):
        data(root).open()


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_folders_that_are_missing_or_empty_are_named(tmp_path: Path, kind: str) -> None:
    save(tmp_path / ("masks" if kind == "images" else "images"), "a.png", GREY)
    with pytest.raises(PatientError, match=rf"train\.data\.{kind}.*no such folder"):
        data(tmp_path).open()
    (tmp_path / kind).mkdir()
    with pytest.raises(PatientError, match=rf"train\.data\.{kind}.*an empty one"):
        data(tmp_path).open()


def test_two_files_of_one_name_are_refused(root: Path) -> None:
    save(root / "images", "b.jpg", GREY)
    with pytest.raises(PatientError, match="one file of each name"):
        data(root).open()


def test_a_mask_of_another_size_names_its_file(root: Path) -> None:
    save(root / "masks", "b.png", MASK[:4])
    with pytest.raises(ValueError, match=r"b\.png: 4 x 8 pixels .* its image 6 x 8"):
        data(root).open()[0]


def test_one_object_of_several_is_chosen_by_its_number(root: Path) -> None:
    found = data(root, value=2).open()[0]
    assert numpy.array_equal(found["mask"], MASK == 2)


def test_numbers_of_a_palette_are_its_entries(root: Path) -> None:
    image = Image.fromarray(MASK, mode="P")
    image.putpalette([0, 0, 0, 9, 9, 9, 0, 0, 0])
    image.save(root / "masks" / "b.png")
    assert numpy.array_equal(data(root, value=2).open()[0]["mask"], MASK == 2)


def test_a_mask_in_colours_is_what_is_not_black_and_has_no_numbers(root: Path) -> None:
    save(root / "masks", "b.png", numpy.stack([MASK] * 3, -1))
    assert numpy.array_equal(data(root).open()[0]["mask"], MASK != 0)
    with pytest.raises(ValueError, match="not one number for each pixel"):
        data(root, value=2).open()[0]


def test_what_is_no_image_is_named(root: Path) -> None:
    (root / "images" / "b.png").write_text("nothing")
    with pytest.raises(ValueError, match=r"b\.png: no image"):
        data(root).open()[0]


def test_an_image_is_turned_as_its_camera_says(root: Path) -> None:
    image = Image.fromarray(numpy.stack([GREY] * 3, -1))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    (root / "images" / "b.png").unlink()
    image.save(root / "images" / "b.jpg", exif=exif)
    save(root / "masks", "b.png", MASK.T)
    assert data(root).open()[0]["image"].shape == (8, 6, 3)


def test_notes_join_the_samples_and_texts_have_a_default(root: Path) -> None:
    (root / "notes.json").write_text(json.dumps({"b": {"text": "a cat", "view": [1, 2]}}))
    found = data(root, notes=str(root / "notes.json"), text="a dog").open()
    assert (found[0]["text"], found[0]["view"]) == ("a cat", [1, 2])
    assert found[1]["text"] == "a dog"


@pytest.mark.parametrize(
    ("notes", "told"), [("{", "a JSON file"), ("[]", "a mapping"), ('{"z": {}}', "'z'")]
)
def test_notes_that_are_wrong_are_named(root: Path, notes: str, told: str) -> None:
    (root / "notes.json").write_text(notes)
    with pytest.raises(PatientError, match=told):
        data(root, notes=str(root / "notes.json")).open()


def test_without_pillow_the_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("PIL"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    found = data(root).open()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"model-surgery\[images\]"):
        found[0]
