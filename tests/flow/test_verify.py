"""Laws of verify: what is damaged is found, what is sound passes, what is unknown is skipped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from surgery.checkpoint.manifest import MANIFEST, write_manifest
from surgery.checks.check import FAILED, PASSED, SKIPPED, WARNED
from surgery.errors import RecipeError
from surgery.flow.verify import verify
from surgery.hooks.registry import Registry, registry
from surgery.operate.family import Family, Violation
from tests.command import Ran
from tests.flow.conftest import write_recipe

transformers = pytest.importorskip("transformers")
Run = Callable[..., Ran]
SHAPE = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WORDS = [f"w{number}" for number in range(60)]

shared_folder = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def save_model(folder: Path, **changes: Any) -> Path:
    """Save a tiny causal model with a tokenizer of 60 words."""
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**SHAPE, **changes})
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel(dict(zip(WORDS, range(60), strict=True)), unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and what an apply with an exporter made of it."""
    top = tmp_path_factory.mktemp("verify")
    save_model(top / "base")
    write_recipe(top / "recipe.yaml", output={"path": "./out", "also": ["peft"]}, surgeries=[
        {"use": "lora", "at": {"role": "attention.q"}, "with": {"rank": 2}, "expect": 2}
    ])  # fmt: skip
    from surgery.cli import main

    whole = ["--output", str(top / "whole"), "--set", "output.save=full"]
    assert main(["apply", str(top / "recipe.yaml"), "--quiet"]) == 0
    assert main(["apply", str(top / "recipe.yaml"), "--quiet", *whole]) == 0
    return top


@pytest.fixture
def out(saved: Path, tmp_path: Path) -> Path:
    """A copy of the output, beside a copy of its base."""
    copytree(saved, tmp_path / "copy")
    return tmp_path / "copy" / "out"


@pytest.fixture
def base(saved: Path, tmp_path: Path) -> Path:
    return Path(copytree(saved / "base", tmp_path / "plain"))


def statuses(folder: Path, known: Registry | None = None, **options: Any) -> dict[str, str]:
    options = {"base": folder.parent / "base", **options} if folder.name == "out" else options
    return {c.name: c.status for c in verify(folder, known or registry(), **options)}


def detail(folder: Path, name: str, **options: Any) -> str:
    """Give the detail of a check that failed, which is the only one."""
    options = {"base": folder.parent / "base", **options} if folder.name == "out" else options
    failed = [c for c in verify(folder, registry(), **options) if c.status == FAILED]
    assert [c.name for c in failed] == [name]
    return failed[0].detail


def change_json(file: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def seal(folder: Path) -> None:
    """Write the manifest anew: what follows it cannot find out."""
    (folder / MANIFEST).unlink()
    write_manifest(folder)


def test_everything_of_a_sound_output_holds_and_only_unknown_families_are_skipped(
    out: Path,
) -> None:
    found = statuses(out)
    assert {name for name, status in found.items() if status != PASSED} == {"contracts"}
    assert found["contracts"] == SKIPPED
    wanted = {"files", "digests", "journal", "ledger", "base", "finite values", "structure", "ties",
              "vocabulary rows", "token ids"}  # fmt: skip
    assert found.keys() == wanted | {"contracts"}


def test_a_whole_model_is_checked_with_and_without_its_base(out: Path) -> None:
    whole = out.parent / "whole"
    found = statuses(whole, base=out.parent / "base")
    assert {name for name, status in found.items() if status != PASSED} == {"contracts"}
    assert "weights" in found
    (out.parent / "base").rename(out.parent / "gone")
    change_json(whole / "surgery.json", lambda j: j["base"]["options"].update(path="/nowhere"))
    seal(whole)
    found = statuses(whole)
    assert {name for name, status in found.items() if status == FAILED} == {"base"}
    tensors = load_file(whole / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], float("inf"))
    save_file(tensors, whole / "model.safetensors", {"format": "pt"})
    seal(whole)
    assert statuses(whole)["finite values"] == FAILED
    del tensors["model.norm.weight"]
    save_file(tensors, whole / "model.safetensors", {"format": "pt"})
    seal(whole)
    assert statuses(whole)["weights"] == FAILED


def test_a_fast_check_lists_what_it_left_out(out: Path, base: Path) -> None:
    found = statuses(out, fast=True)
    assert {n for n, s in found.items() if s == PASSED} == {"files", "journal", "ledger", "base"}
    assert found.keys() == statuses(out).keys()
    plain = statuses(base, fast=True)
    assert {n for n, s in plain.items() if s == PASSED} == {"files"}
    assert plain.keys() == statuses(base).keys()


@shared_folder
@given(st.data())
def test_any_changed_byte_of_any_file_of_an_output_is_found(saved: Path, data: Any) -> None:
    out = saved / data.draw(st.sampled_from(["out", "whole"]))
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    files.remove("README.md")  # people edit it
    assert {"recipe.yaml", "surgery.json", "tokenizer.json", MANIFEST,
            "peft/adapter_model.safetensors", "config.json"} <= {*files}  # fmt: skip
    assert {"changed.safetensors", "model.safetensors"} & {*files}
    path = out / data.draw(st.sampled_from(files))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(len(content) - 1, 200)))
    value = data.draw(st.integers(0, 255).filter(lambda one: one != content[place]))
    path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
    try:
        found = statuses(out)
        assert found["files"] == FAILED
        assert {status for name, status in found.items() if name != "files"} == {SKIPPED}
    finally:
        path.write_bytes(content)


def test_every_byte_of_a_header_its_padding_and_the_journals_end_is_covered(saved: Path) -> None:
    out = saved / "out"
    for name in ("changed.safetensors", "surgery.json", MANIFEST):
        content = (out / name).read_bytes()
        places = {*range(0, len(content), 37), *range(12), len(content) - 1}
        if name.endswith(".safetensors"):
            end = 8 + int.from_bytes(content[:8], "little")
            places |= {*range(end - 9, end + 4)}
        for place in places:
            changed = bytearray(content)
            changed[place] ^= 1
            (out / name).write_bytes(changed)
            assert statuses(out)["files"] == FAILED, (name, place)
        (out / name).write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [".gitattributes", "README.md", "LICENSE", ".cache/huggingface/download/x.metadata"],
)
def test_what_a_download_adds_is_named_and_no_failure(out: Path, name: str) -> None:
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("x")
    checks = verify(out, registry(), base=out.parent / "base")
    assert FAILED not in {c.status for c in checks}
    assert name in next(c.detail for c in checks if c.name == "files")


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "pytorch_model.bin", "adapter_config.json", "generation_config2.json",
     ".metadata", "sub/README.md", "modeling.py"],
)  # fmt: skip
def test_an_extra_file_that_a_loader_may_read_is_a_failure(out: Path, name: str) -> None:
    (out / name).parent.mkdir(exist_ok=True)
    save_file({"x": torch.ones(1)}, out / name)
    assert name in detail(out, "files")


@pytest.mark.parametrize("name", ["README.md", "config.json", "peft"])
def test_a_link_in_an_output_is_a_failure(out: Path, name: str) -> None:
    if (out / name).exists():
        (out / name).rename(out.parent / "elsewhere")
    else:
        (out.parent / "elsewhere").write_text("x")
    (out / name).symlink_to(out.parent / "elsewhere")
    assert name in detail(out, "files")


def test_an_output_in_the_cache_of_hugging_face_is_sound(out: Path) -> None:
    model = out.parent / "models--org--name"
    folder = model / "snapshots" / "main"
    (model / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in out.rglob("*") if p.is_file())):
        place = folder / path.relative_to(out)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(model / "blobs" / str(number))
        place.symlink_to(os.path.relpath(model / "blobs" / str(number), place.parent))
    assert FAILED not in statuses(folder, base=out.parent / "base").values()


def test_tensors_that_the_journal_does_not_list_are_found(out: Path) -> None:
    file = out / "changed.safetensors"
    save_file({**load_file(file), "extra": torch.ones(1)}, file)
    seal(out)
    assert "1 not in the journal: extra" in detail(out, "ledger")


def test_values_that_are_not_finite_are_found(out: Path, base: Path) -> None:
    for folder, name in ((out, "changed.safetensors"), (base, "model.safetensors")):
        tensors = load_file(folder / name)
        last = max(tensors)
        tensors[last].view(-1)[-1] = float("nan")
        save_file(tensors, folder / name, {"format": "pt"})
    seal(out)
    assert "NaN" in detail(out, "finite values")
    assert "NaN" in detail(base, "finite values")


def test_a_journal_that_replays_otherwise_is_found(out: Path) -> None:
    change_json(out / "surgery.json", lambda j: j["steps"][0]["options"].update(rank=3))
    seal(out)
    assert "of another shape" in detail(out, "structure")


def test_what_is_not_here_is_skipped_and_says_why(out: Path) -> None:
    change_json(out / "surgery.json", lambda j: j["steps"][0].update(use="acme/x", plugin="acme"))
    seal(out)
    found = {c.name: c for c in verify(out, registry(), base=out.parent / "base")}
    assert found["structure"].status == SKIPPED
    assert "pip install 'acme>=" in found["structure"].detail
    assert found["ledger"].status == PASSED


def test_names_that_stand_twice_in_a_journal_are_refused(out: Path) -> None:
    text = (out / "surgery.json").read_text()
    (out / "surgery.json").write_text(text.replace("{", '{"seed": 1,', 1))
    seal(out)
    assert "'seed' twice" in detail(out, "journal")


@shared_folder
@given(st.data())
def test_a_forged_journal_never_brings_a_traceback(saved: Path, data: Any) -> None:
    out = saved / data.draw(st.sampled_from(["out", "whole"]))
    file = out / "surgery.json"
    before, manifest = file.read_bytes(), (out / MANIFEST).read_bytes()
    journal = json.loads(before)
    holder, key = data.draw(st.sampled_from(list(leaves(journal))))
    holder[key] = data.draw(st.sampled_from([None, -1, 2**70, "", "\ud800", [], {}, [[]], "../x"]))
    file.write_text(json.dumps(journal))
    seal(out)
    try:
        assert all(isinstance(c.detail, str) for c in verify(out, registry(), fast=True))
        verify(out, registry())
    finally:
        file.write_bytes(before)
        (out / MANIFEST).write_bytes(manifest)


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Give each place in nested containers: its holder, and its key or number."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in list(items):
        yield value, key
        if isinstance(child, dict | list):
            yield from leaves(child)


def test_of_a_folder_of_another_tool_all_that_can_be_checked_is(base: Path) -> None:
    found = statuses(base)
    skip = {"digests", "journal", "ledger", "base", "contracts"}
    assert {name for name, status in found.items() if status == SKIPPED} == skip
    assert {found[name] for name in found.keys() - skip} == {PASSED}


@pytest.mark.parametrize("kind", ["Bert", "GPT2", "Mixtral"])
def test_folders_of_other_architectures_pass(tmp_path: Path, kind: str) -> None:
    keys = dict(SHAPE) if kind != "GPT2" else {"n_embd": 16, "n_layer": 2, "n_head": 4}
    config = getattr(transformers, f"{kind}Config")(**{**keys, "vocab_size": 64, "eos_token_id": 2,
                                                       "bos_token_id": 1})  # fmt: skip
    model = "BertForMaskedLM" if kind == "Bert" else f"{kind}{'LMHeadModel' * (kind == 'GPT2')}"
    name = model if kind != "Mixtral" else "MixtralForCausalLM"
    getattr(transformers, name)(config).save_pretrained(tmp_path / "m", max_shard_size="20KB")
    assert {FAILED, WARNED}.isdisjoint(statuses(tmp_path / "m").values())


def test_a_tie_that_is_stored_unequal_is_a_failure(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    checks = {c.name: c for c in verify(folder, registry())}
    assert checks["ties"].status == PASSED
    assert "1 of them stored more than once" in checks["ties"].detail
    tensors["lm_head.weight"][-1, -1] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert "lm_head.weight" in detail(folder, "ties")


def test_weights_that_the_model_lacks_or_needs_are_told_apart(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    save_file({**tensors, "extra": torch.ones(1)}, base / "model.safetensors", {"format": "pt"})
    assert statuses(base)["weights"] == WARNED
    del tensors["model.norm.weight"]
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    assert "1 missing: model.norm.weight" in detail(base, "weights")


@pytest.mark.parametrize(
    ("file", "change", "check", "words"),
    [
        ("config.json", {"vocab_size": 66}, "vocabulary rows", "makes 66, the tensors have 64"),
        ("config.json", {"eos_token_id": 64}, "token ids", "eos_token_id is 64"),
        ("config.json", {"eos_token_id": [2, 61]}, "token ids", "61, which is no token"),
        ("generation_config.json", {"pad_token_id": -2}, "token ids", "pad_token_id is -2"),
        ("generation_config.json", {"bos_token_id": 1000}, "token ids", "there are 64 rows"),
    ],
)
def test_a_vocabulary_that_disagrees_is_found(
    base: Path, file: str, change: dict[str, Any], check: str, words: str
) -> None:
    change_json(base / file, lambda data: data.update(change))
    failed = {c.name: c.detail for c in verify(base, registry()) if c.status == FAILED}
    assert words in failed[check]
    assert failed.keys() <= {check, "weights"}


def test_a_token_without_a_row_is_found(base: Path) -> None:
    change_json(base / "tokenizer.json", lambda data: data["model"]["vocab"].update(far=64))
    assert "the tokenizer needs 65 rows" in detail(base, "vocabulary rows")


def test_an_id_that_stands_for_no_token_is_no_token(base: Path) -> None:
    change_json(base / "config.json", lambda data: data.update(pad_token_id=-1))
    assert FAILED not in statuses(base).values()


class Picky(Family):
    """A family that wants four layers."""

    name = "picky"

    def matches(self, model: Any) -> bool:
        return type(model).__name__ == "LlamaForCausalLM"

    def contracts(self, patient: Any) -> list[Violation]:
        layers = patient.config.num_hidden_layers
        return [Violation("layers", "config", "4", str(layers))] if layers != 4 else []


class Broken(Picky):
    """A family whose contracts break."""

    name = "broken"

    def contracts(self, patient: Any) -> list[Violation]:
        raise KeyError("oops")


def test_contracts_of_families_are_checked_on_the_rebuilt_structure(
    out: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = registry()
    monkeypatch.setattr(Registry, "families", lambda self: (Picky(), Broken()))
    for folder in (out, base):
        found = statuses(folder, known)
        assert found["contracts of picky"] == FAILED
        assert found["contracts of broken"] == SKIPPED


def test_links_and_twice_said_things_in_a_plain_folder_are_found(base: Path) -> None:
    text = (base / "config.json").read_text()
    (base / "config.json").write_text(text.replace("{", '{"vocab_size": 1,', 1))
    assert "'vocab_size' twice" in detail(base, "files")
    (base / "config.json").write_text(text)
    (base / "notes.txt").symlink_to("/etc/passwd")
    assert "notes.txt" in detail(base, "files")


def test_the_command_ends_with_a_status_and_prints_one_object(
    out: Path, run: Run, tmp_path: Path
) -> None:
    ran = run("verify", out, "--base", out.parent / "base", "--json")
    assert (ran.status, ran.json["ok"]) == (0, True)
    assert ran.json["counts"] == {"passed": 10, "warned": 0, "failed": 0, "skipped": 1}
    assert {c["status"] for c in ran.json["checks"]} == {PASSED, SKIPPED}
    (out / "recipe.yaml").write_text("x")
    ran = run("verify", out, "--json")
    assert (ran.status, ran.json["ok"]) == (4, False)
    assert "recipe.yaml" in ran.err
    assert "1 failed, 10 skipped" in run("verify", out).out
    assert run("verify", tmp_path / "none").status == 2
    (tmp_path / "empty").mkdir()
    assert run("verify", tmp_path / "empty").status == 4
    with pytest.raises(RecipeError):
        verify(tmp_path / "none", registry())


def test_finite_values_are_read_in_bounded_memory(tmp_path: Path) -> None:
    from surgery.checkpoint.stored import stored_files
    from surgery.flow import verify_values

    save_file({"x": torch.zeros(3 * verify_values.BLOCK)}, tmp_path / "a.safetensors")
    read: list[int] = []
    tensor = stored_files([tmp_path / "a.safetensors"])["x"]

    def watched(start: int, stop: int) -> Any:
        read.append(stop - start)
        return tensor.read(start, stop)

    from dataclasses import replace

    assert verify_values.finite_values([replace(tensor, read=watched)]).status == PASSED
    assert read == [verify_values.BLOCK] * 3


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float16", "complex64"])
def test_values_of_every_kind_are_looked_at(tmp_path: Path, dtype: str) -> None:
    from surgery.checkpoint.stored import stored_files
    from surgery.flow.verify_values import finite_values

    for values, status in (([1.0, 2.0], PASSED), ([1.0, float("nan")], FAILED)):
        tensor = torch.tensor(values).to(getattr(torch, dtype))
        save_file({"x": tensor}, tmp_path / f"{status}.safetensors")
        held = stored_files([tmp_path / f"{status}.safetensors"])
        assert finite_values(list(held.values())).status == status
