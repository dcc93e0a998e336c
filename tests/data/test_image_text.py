"""Lines of JSON that name images are read with the images."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from surgery.errors import PatientError
from surgery_plugins.data.image_text import ImageText


def opened(root: Path, *lines: dict[str, Any], **options: Any) -> Any:
    (root / "images").mkdir(exist_ok=True)
    Image.new("RGB", (8, 6), (255, 0, 0)).save(root / "images" / "a.png")
    numpy.save(root / "images" / "m.npy", numpy.eye(6, 8))
    (root / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ImageText(path=str(root / "x.jsonl"), folder=str(root / "images"), **options).open()


def test_images_and_masks_are_arrays_and_the_rest_is_as_the_line_says(tmp_path: Path) -> None:
    line = {"image": "a.png", "mask": "m.npy", "text": "red", "n": 3}
    samples = pickle.loads(pickle.dumps(opened(tmp_path, line, line, masks=["mask"])))
    assert len(samples) == 2
    assert samples[1]["image"].shape == (6, 8, 3)
    assert samples[1]["image"][0, 0].tolist() == [255, 0, 0]
    assert samples[1]["mask"].sum() == 6
    assert (samples[1]["text"], samples[1]["n"]) == ("red", 3)


@pytest.mark.parametrize(
    ("name", "told"),
    [("../x.jsonl", "a file below"), ("/etc/hostname", "a file below"), ("b.png", "no such file"),
     (7, "the name of a file"), (None, "the name of a file")],
)  # fmt: skip
def test_a_line_that_names_no_file_of_the_folder_fails(
    tmp_path: Path, name: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        opened(tmp_path, {"image": name})[0]


def test_a_link_that_leads_out_of_the_folder_fails(tmp_path: Path) -> None:
    samples = opened(tmp_path, {"image": "out.png"})
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (tmp_path / "images" / "out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="a file below"):
        samples[0]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n")
    with pytest.raises(PatientError, match=r"train\.data\.folder"):
        ImageText(path=str(tmp_path / "x.jsonl"), folder=str(tmp_path / "none")).open()
