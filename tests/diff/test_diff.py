"""Two checkpoints differ in what they mean, however they are stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import surgery
import surgery.checkpoint.stored
from surgery.cli import main
from surgery.errors import IntegrityError, PatientError
from surgery.flow.diff import Difference, diff
from surgery.flow.files import base_of
from surgery.flow.structure import source_given
from surgery.hooks.registry import registry
from surgery.operate.journal import journal_of
from surgery.operate.operation import operate
from surgery.recipe.steps import steps_from
from surgery.report.console import rendered
from surgery.report.diff import diff_tree
from tests.command import Ran
from tests.diff.conftest import llama, mixtral, stir

Run = Callable[..., Ran]
LORA = {"use": "lora", "at": {"role": "attention.q"}, "with": {"rank": 2}}


def applied(base: Path, out: Path, *steps: dict[str, Any], save: str = "changed") -> Path:
    """Write an output over a base in a folder."""
    recipe = out.with_suffix(".yaml")
    data = {
        "recipe": 1,
        "patient": {"source": "hf", "path": str(base)},
        "surgeries": list(steps),
        "output": {"path": str(out), "save": save},
    }
    recipe.write_text(yaml.safe_dump(data))
    assert main(["apply", str(recipe), "--quiet"]) == 0
    return out


def names(found: Difference) -> tuple[set[str], set[str], set[str]]:
    return (
        {one.name for one in found.changed},
        {one.name for one in found.added},
        {one.name for one in found.removed},
    )


def test_a_checkpoint_equals_itself_and_its_copy(base: Path, tmp_path: Path) -> None:
    assert not diff(base, base).differs
    found = diff(base, copytree(base, tmp_path / "copy"))
    assert (found.differs, found.equal) == (False, len(load_file(base / "model.safetensors")))


def test_storage_is_no_difference(base: Path, tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert not diff(base, tmp_path / "shards").differs
    torch.save(model.state_dict(), tmp_path / "state.pt")
    for file in (tmp_path / "state.pt", base / "model.safetensors"):
        found = diff(base, file)
        assert not found.differs
        assert "weights alone" in found.notes[0]
    (tmp_path / "pickles").mkdir()
    torch.save(model.state_dict(), tmp_path / "pickles" / "pytorch_model.bin")
    assert not diff(base / "model.safetensors", tmp_path / "pickles").differs


def test_tensors_and_configuration_are_compared(base: Path, tmp_path: Path) -> None:
    model: Any = stir(llama(), "q_proj.weight")
    model.config.rms_norm_eps = 0.5
    model.save_pretrained(tmp_path / "tuned")
    found = diff(base, tmp_path / "tuned")
    wanted = {f"model.layers.{n}.self_attn.q_proj.weight" for n in (0, 1)}
    assert names(found) == (wanted, set(), set())
    assert {one.rank for one in found.changed} == {2}
    assert [(said.file, said.key) for said in found.said] == [("config.json", "rms_norm_eps")]


def test_added_and_removed_tensors_swap_with_the_sides(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["extra"] = torch.zeros(3)
    lost = tensors.pop("model.norm.weight")
    assert lost.shape == (16,)
    save_file(tensors, tmp_path / "other.safetensors")
    there = diff(base, tmp_path / "other.safetensors")
    back = diff(tmp_path / "other.safetensors", base)
    assert names(there) == (set(), {"extra"}, {"model.norm.weight"})
    assert names(back) == (set(), {"model.norm.weight"}, {"extra"})


def test_an_output_is_its_base_with_the_stored_tensors_over_it(base: Path, tmp_path: Path) -> None:
    out = applied(base, tmp_path / "out", {"use": "freeze"}, LORA)
    alone, both = diff(out), diff(base, out)
    stored = set(load_file(out / "changed.safetensors"))
    for found in (alone, both):
        assert names(found) == (set(), stored, set())
        assert [(one.kind, one.step.use) for one in found.steps] == [
            ("added", "freeze"),
            ("added", "lora"),
        ]
    assert alone.equal == len(load_file(base / "model.safetensors"))
    assert not diff(out, out).differs


def test_the_base_under_an_output_is_not_read(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = applied(base, tmp_path / "out", LORA)

    def fails(self: Any, name: str, start: int, stop: int) -> None:
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(surgery.checkpoint.stored.TensorReader, "rows", fails)
    assert len(diff(out).added) == 4


def test_trained_tensors_of_the_base_are_changes(base: Path, tmp_path: Path) -> None:
    out = applied(base, tmp_path / "out", {"use": "freeze"}, {
        "use": "unfreeze", "at": {"path": "model.norm"},
    })  # fmt: skip
    loaded = surgery.load(out)
    with torch.no_grad():
        loaded.model.get_parameter("model.norm.weight").mul_(3)
    saved = loaded.save(tmp_path / "trained")
    found = diff(saved)
    assert names(found) == ({"model.norm.weight"}, set(), set())
    assert found.changed[0].relative == pytest.approx(2.0)
    assert names(diff(out, saved)) == ({"model.norm.weight"}, set(), set())


def test_a_whole_model_is_its_own_tensors(base: Path, tmp_path: Path) -> None:
    part = applied(base, tmp_path / "part", {"use": "freeze"}, LORA)
    whole = applied(base, tmp_path / "whole", {"use": "freeze"}, LORA, save="full")
    found = diff(part, whole)
    assert (found.differs, found.equal) == (False, diff(whole, whole).equal)
    base.rename(tmp_path / "gone")
    assert len(diff(tmp_path / "gone", whole).added) == 4


def test_two_outputs_differ_in_their_own_steps_and_tensors(base: Path, tmp_path: Path) -> None:
    one = applied(base, tmp_path / "one", {"use": "freeze"}, LORA)
    other = {**LORA, "with": {"rank": 3}}
    two = applied(base, tmp_path / "two", {"use": "freeze"}, other)
    found = diff(one, two)
    assert [(s.kind, s.number, s.step.use) for s in found.steps] == [
        ("removed", 1, "lora"),
        ("added", 1, "lora"),
    ]
    assert {(c.before[1], c.after[1]) for c in found.changed} == {
        ((2, 16), (3, 16)),
        ((16, 2), (16, 3)),
    }


def test_the_base_of_an_output_may_have_moved(base: Path, tmp_path: Path) -> None:
    out = applied(base, tmp_path / "out", LORA)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(PatientError):
        diff(out)
    assert len(diff(out, base=tmp_path / "elsewhere").added) == 4
    llama(tie_word_embeddings=True).save_pretrained(base)
    with pytest.raises(IntegrityError, match="the files that were operated on"):
        diff(out)


def test_a_base_given_from_python_leaves_the_stored_tensors(tmp_path: Path) -> None:
    out = surgery.apply(nn.Sequential(nn.Linear(4, 4)), [
        {"use": "lora", "at": {"path": "0"}, "with": {"rank": 2}},
    ]).save(tmp_path / "out")  # fmt: skip
    found = diff(out, out)
    assert (found.differs, "given from Python" in found.notes[0]) == (False, True)
    with pytest.raises(IntegrityError, match="given from Python"):
        diff(out)


PLUGIN = """
from surgery.hooks.specs import hookimpl
from surgery.operate.edits import Keep, Place, Remove
from surgery.operate.surgery import Surgery

class Move(Surgery):
    name = "test/move"
    def refuse(self, site):
        return None
    def operate(self, sites, patient):
        import torch
        norm = patient.model.get_submodule("model.norm")
        with torch.device("meta"):
            twin = torch.nn.RMSNorm(norm.weight.shape[0])
        yield Place("model.layers.0.extra", twin, {"weight": Keep("model.norm.weight")})
        yield Remove("model.layers.1.input_layernorm")

@hookimpl
def surgery_surgeries():
    return (Move,)
"""


def test_tensors_that_moved_or_went_are_where_they_are_now(base: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "move.py"
    plugin.write_text(PLUGIN)
    folder, known = tmp_path / "out", registry([plugin])
    source = source_given(str(base), known)
    step = {"use": "test/move", "at": {"path": "model.norm"}}
    operation = operate(source.build(), steps_from([step], known))
    journal = journal_of(operation.plan, base_of(source))
    folder.mkdir()
    (folder / "surgery.json").write_text(journal.model_dump_json())
    save_file({}, folder / "changed.safetensors")
    found = diff(folder, plugins=known)
    gone = "model.layers.1.input_layernorm.weight"
    assert names(found) == (set(), {"model.layers.0.extra.weight"}, {gone})
    assert found.equal == len(load_file(base / "model.safetensors")) - 1


def test_names_that_the_library_converts_are_those_of_the_files(tmp_path: Path) -> None:
    base = tmp_path / "base"
    mixtral().save_pretrained(base)
    out = applied(base, tmp_path / "out", {"use": "freeze"}, LORA)
    found = diff(out)
    assert (found.equal, len(found.added)) == (len(load_file(base / "model.safetensors")), 4)


def test_the_exit_status_is_that_of_diff(base: Path, tmp_path: Path, run: Run) -> None:
    stir(llama(), "v_proj.weight").save_pretrained(tmp_path / "tuned")
    assert run("diff", base, base).status == 0
    assert run("diff", base, tmp_path / "tuned").status == 1
    assert run("diff", base, tmp_path / "missing").status == 2
    assert run("diff", base).status == 4
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    assert run("diff", base, tmp_path / "bad.safetensors").status == 4
    (tmp_path / "config.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    ran = run("diff", base, tmp_path / "config.pkl")
    assert (ran.status, ran.err.count("\n")) == (2, 1)


def test_json_has_everything(base: Path, tmp_path: Path, run: Run) -> None:
    tuned: Any = stir(llama(), "v_proj.weight")
    tuned.save_pretrained(tmp_path / "tuned")
    data = run("diff", base, tmp_path / "tuned", "--json").json
    assert (data["ok"], data["schema"], data["differs"]) == (True, 1, True)
    assert [one["rank"] for one in data["tensors"]["changed"]] == [2, 2]
    assert data == {**data, **json.loads(json.dumps(diff(base, tmp_path / "tuned").to_json()))}
    data = run("diff", base, tmp_path / "tuned", "--json", "--no-rank").json
    assert [one["rank"] for one in data["tensors"]["changed"]] == [None, None]


def test_numbers_that_json_lacks_do_not_break_it(base: Path, tmp_path: Path, run: Run) -> None:
    other = copytree(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "odd": float("nan")}))
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][0] = float("inf")
    save_file(tensors, other / "model.safetensors")
    ran = run("diff", base, other, "--json")
    assert ran.status == 1
    assert ran.json["tensors"]["changed"][0]["infs"] == [0, 1]
    assert ran.json["files"][0]["after"] == "NaN"


def test_text_folds_layers_and_says_how_much(base: Path, tmp_path: Path, run: Run) -> None:
    stir(llama(), "v_proj.weight").save_pretrained(tmp_path / "tuned")
    out = run("diff", base, tmp_path / "tuned").out
    assert "model.layers.0-1.self_attn.v_proj.weight x2 [8, 16] float32" in out
    assert "rank 2" in out
    assert "\x1b" not in out


def test_hostile_names_cannot_drive_a_terminal(base: Path, tmp_path: Path, run: Run) -> None:
    other = copytree(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "\x1b[2Jx\nfake": "\x1b[31m[bold]"}))
    out = run("diff", base, other).out
    assert "\x1b" not in out
    assert "\nfake" not in out
    assert "[bold]" in out


def test_colours_are_for_terminals_that_want_them(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stir(llama(), "v_proj.weight").save_pretrained(tmp_path / "tuned")
    found = diff(base, tmp_path / "tuned")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[33m~" in rendered(diff_tree(found))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in rendered(diff_tree(found))
