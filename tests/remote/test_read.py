"""Laws of bases behind URLs: the same bytes come out, and only what is needed is fetched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import save_file

import surgery
from surgery.checkpoint.base import look_at, weights_at
from surgery.checkpoint.fetch import fetched
from surgery.checkpoint.header import read_header
from surgery.checkpoint.remote import RemoteFile, look_up
from surgery.checkpoint.tensors import TensorReader
from surgery.cli import main
from surgery.errors import IntegrityError, PatientError, RecipeError
from surgery.flow.executors import executor_of
from surgery.flow.write import Engine
from tests.remote.kit import LORA, MERGED, Server, here, in_memory, run, serving, tensors
from tests.stream.models import TEXT, save

WAYS = ["stream", "live"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["http", "memory", "local"])
def test_a_base_behind_a_url_gives_the_same_bytes(
    kind: str, way: Any, base: Path, server: Server, tmp_path: Path
) -> None:
    url = {
        "http": f"{server.url}/base", "memory": in_memory(base, "base"), "local": f"local://{base}"
    }[kind]  # fmt: skip
    wanted = run(tmp_path, base, tmp_path / "wanted", MERGED, "full", way=way)
    found = run(tmp_path, url, tmp_path / "found", MERGED, "full", way=way)
    assert tensors(here(tmp_path / "found")) == tensors(here(tmp_path / "wanted"))
    assert len(tensors(here(tmp_path / "found"))) > 3
    assert [c.name for c in found.checks] == [c.name for c in wanted.checks]
    assert surgery.load(tmp_path / "found").model(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_one_file_without_an_index_is_found_too(tmp_path: Path) -> None:
    single = save("llama tied", tmp_path / "single", False)
    url = in_memory(single, "single")
    run(tmp_path, url, tmp_path / "found", LORA)
    run(tmp_path, single, tmp_path / "wanted", LORA)
    assert tensors(here(tmp_path / "found")) == tensors(here(tmp_path / "wanted"))


def large(folder: Path) -> Path:
    """Save a model whose weights are much larger than headers and buffers."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 8000, "hidden_size": 64, "intermediate_size": 512}
    t.LlamaForCausalLM(t.LlamaConfig(**{**TEXT, **sizes})).save_pretrained(folder)
    return folder


def test_additive_surgeries_fetch_headers_alone(tmp_path: Path) -> None:
    size = (large(tmp_path / "served" / "base") / "model.safetensors").stat().st_size
    with serving(tmp_path / "served") as server:
        outcome = run(tmp_path, f"{server.url}/base", tmp_path / "out", LORA)
        assert outcome.mode is not None
        assert outcome.mode.streamed
        assert 0 < server.sent_of(".safetensors") < size / 4
        assert surgery.load(tmp_path / "out").model(torch.tensor([[1, 2]])).logits.shape[-1] == 8000


def test_only_the_tensors_that_are_needed_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    held = {name: torch.randn(1000, 100) for name in "abcdefgh"}
    save_file(held, tmp_path / "served" / "x.safetensors")
    with serving(tmp_path / "served") as server:
        file = look_up(server.url, ["x.safetensors"])["x.safetensors"]
        reader = TensorReader(file)
        headers = server.sent_of(".safetensors")
        assert headers <= 1 << 16
        assert torch.equal(reader.get("c"), held["c"])
        assert server.sent_of(".safetensors") - headers == 400_000
        assert torch.equal(reader.rows("d", 10, 20), held["d"][10:20])
        assert server.sent_of(".safetensors") - headers == 404_000


def test_a_header_behind_a_url_is_read_as_strictly(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "x.safetensors").write_bytes((5).to_bytes(8, "little") + b"[1,2]")
    with serving(tmp_path / "served") as server:
        file = look_up(server.url, ["x.safetensors"])["x.safetensors"]
        with pytest.raises(IntegrityError, match=r"x\.safetensors.*starts with"):
            read_header(file)


def test_a_server_that_fails_now_and_then_is_asked_again(server: Server, tmp_path: Path) -> None:
    file = look_up(f"{server.url}/base", ["config.json"])["config.json"]
    server.failing = 2
    assert file.read(0, 2) == b"{\n"
    server.failing = 100
    with pytest.raises(PatientError, match="a server that answers"):
        file.read(0, 2)
    server.failing = 100
    with pytest.raises(PatientError, match="a server that answers"):
        look_at(f"{server.url}/base")


def test_a_server_without_ranges_is_an_error_that_says_so(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    file = look_up(f"{server.url}/base", ["config.json"])["config.json"]
    with pytest.raises(PatientError, match=r"stretches.*--live"):
        file.read(0, 2)


def test_nothing_behind_a_url_is_said(server: Server, tmp_path: Path) -> None:
    for url in (f"{server.url}/nothing", "memory://nothing"):
        with pytest.raises(PatientError, match="nothing there"):
            look_at(url)
    with pytest.raises(PatientError, match="protocol"):
        look_at("nosuch://place")
    (tmp_path / "served" / "base" / "model.safetensors.index.json").unlink()
    with pytest.raises(PatientError, match=r"model\.safetensors"):
        weights_at(look_at(f"{server.url}/base", ["config.json"]))


def test_an_index_never_leads_out_of_its_folder(base: Path, server: Server) -> None:
    index = base / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"w": "../secret.safetensors"}}')
    for url in (f"{server.url}/base", in_memory(base, "base")):
        with pytest.raises(IntegrityError, match="name of a file in the folder"):
            weights_at(look_at(url))


def test_a_shard_that_is_missing_is_named(base: Path) -> None:
    next(base.glob("model-00002*")).unlink()
    with pytest.raises(PatientError, match=r"model-00002.*nothing there"):
        weights_at(look_at(in_memory(base, "base")))


@pytest.mark.parametrize(
    "url",
    ["http://me:secret@host/base", "https://host/base?token=secret", "memory://a#secret",
     "simplecache::http://secret/base"],
)  # fmt: skip
def test_a_url_with_more_than_a_place_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    for act in (lambda: run(tmp_path, url, tmp_path / "out", LORA), lambda: fetched(url)):
        with pytest.raises(RecipeError, match="scheme") as caught:
            act()
        assert "secret" not in str(caught.value)


def test_a_changed_base_is_noticed_without_reading_it(
    base: Path, server: Server, tmp_path: Path
) -> None:
    run(tmp_path, f"{server.url}/base", tmp_path / "out", LORA)
    surgery.load(tmp_path / "out")
    shard = next(base.glob("model-00001*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    os.utime(shard, (1, 1))
    with pytest.raises(IntegrityError, match="model-00001"):
        surgery.load(tmp_path / "out")


def test_a_base_that_moved_is_recognised_by_its_header_or_its_bytes(
    base: Path, server: Server, tmp_path: Path
) -> None:
    url = f"{server.url}/base"
    run(tmp_path, url, tmp_path / "remote", LORA)
    run(tmp_path, base, tmp_path / "local", LORA)
    weights = surgery.load(tmp_path / "local").model.state_dict()
    for out, where in ((tmp_path / "remote", base), (tmp_path / "local", url)):
        moved = surgery.load(out, base=where).model.state_dict()
        assert all(torch.equal(moved[name], weights[name]) for name in weights)
    assert main(["verify", str(tmp_path / "local"), "--base", url, "--quiet"]) == 0
    other = shutil.copytree(base, tmp_path / "other")
    shard = next(other.glob("model-00001*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match="model-00001"):
        surgery.load(tmp_path / "local", base=in_memory(other, "other"))


def test_a_server_that_says_nothing_of_changes_is_read_by_header(
    base: Path, server: Server, tmp_path: Path
) -> None:
    server.marks = False
    outcome = run(tmp_path, f"{server.url}/base", tmp_path / "out", LORA)
    digests = outcome.journal.base["digest"]["files"]
    assert {frozenset(one) for one in digests.values()} == {frozenset({"size", "url", "header"})}
    assert server.sent_of("/config.json") == (base / "config.json").stat().st_size
    surgery.load(tmp_path / "out")


def test_file_urls_are_paths(base: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path, f"file://{base}", f"file://{tmp_path}/out", LORA, "full", way="stream")
    assert outcome.folder == tmp_path / "out"
    assert main(["verify", f"file://{tmp_path}/out", "--quiet"]) == 0
    assert not (tmp_path / "cache").exists()


def test_a_state_dict_behind_a_url_is_read(base: Path, tmp_path: Path) -> None:
    from surgery_plugins.sources.tensors import TensorsSource

    found = TensorsSource(path=in_memory(base, "base")).load().model.state_dict()
    wanted = TensorsSource(path=str(base)).load().model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_commands_that_read_take_urls(
    base: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.url}/base"
    assert main(["inspect", url, "--quiet"]) == 0
    assert "q_proj" in capsys.readouterr().out
    assert main(["diff", url, str(base)]) == 0
    assert main(["diff", in_memory(base, "same"), url]) == 0


def test_a_file_behind_a_url_travels_to_another_process() -> None:
    import pickle

    file = RemoteFile("memory://x", 3, "mark")
    assert pickle.loads(pickle.dumps(file)) == file


@pytest.mark.slow
def test_processes_read_behind_urls_too(base: Path, server: Server, tmp_path: Path) -> None:
    run(tmp_path, base, tmp_path / "wanted", MERGED, "full", way="stream")
    with executor_of("processes:2") as pool:
        engine = Engine(executor=pool)
        url = f"{server.url}/base"
        run(tmp_path, url, tmp_path / "found", MERGED, "full", way="stream", engine=engine)
    assert tensors(here(tmp_path / "found")) == tensors(here(tmp_path / "wanted"))
