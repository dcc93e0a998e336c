"""Whole adoptions: from what a trainer wrote to a folder that loads, or to nothing at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

import surgery
from surgery_plugins.sources.hf import HfSource
from tests.adopt.conftest import transformers
from tests.adopt.kit import saved, wrappings
from tests.command import Ran

Run = Callable[..., Ran]
Tensors = dict[str, torch.Tensor]


def weights(folder: Path) -> Tensors:
    files = sorted(folder.glob("model*.safetensors"))
    return {name: t for file in files for name, t in load_file(file).items()}


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(t, found[n]) and t.dtype == found[n].dtype for n, t in wanted.items())


def lightning(state: Tensors, **more: Any) -> dict[str, Any]:
    return {
        "pytorch-lightning_version": "2.6.6", "epoch": 4, "global_step": 100,
        "state_dict": state, "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{}]}],
        **more,
    }  # fmt: skip


def test_a_lightning_checkpoint_becomes_a_patient(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    held = {f"net._orig_mod.module.{n}": t for n, t in state.items()}
    path = saved(tmp_path / "a.ckpt", lightning(held))
    done = run("adopt", path, "--like", base, "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    assert done.json["complete"]
    assert done.json["prefix"] == {"from": "net", "to": ""}
    assert_same(weights(tmp_path / "out"), state)
    patient = HfSource(path=str(tmp_path / "out")).load()
    assert_same(dict(patient.model.state_dict()), state)
    assert surgery.load(tmp_path / "out").model.config.hidden_size == 16
    assert run("verify", tmp_path / "out").status == 0


def test_the_journal_says_what_was_done(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.ckpt", lightning({f"m.{n}": t for n, t in state.items()}))
    run("adopt", path, "--like", base, "-o", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "surgery.json").read_text())["base"]["adopted"]
    from hashlib import sha256

    assert record["files"]["a.ckpt"]["sha256"] == sha256(path.read_bytes()).hexdigest()
    assert record["key"] == "state_dict"
    assert record["told"] == {"epoch": 4, "global_step": 100, "lr": 0.1}
    assert record["names"]["model.norm.weight"] == ["m.model.norm.weight"]


@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_wrapping_of_a_real_model_gives_back_its_bits(
    data: st.DataObject, run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    names = data.draw(wrappings(list(state)))
    tree: Any = {names[name]: t for name, t in state.items()}
    for key in data.draw(st.lists(st.sampled_from(["model", "state_dict", "x"]), max_size=2)):
        tree = {key: tree, "epoch": 1, "rng": torch.zeros(8, dtype=torch.uint8)}
    saved(tmp_path / "a.pt", tree)
    done = run("adopt", tmp_path / "a.pt", "--like", base, "-o", tmp_path / "out", "--force")
    assert done.status == 0, done.err
    assert_same(weights(tmp_path / "out"), state)


@pytest.mark.slow
def test_real_wrappers_of_torch(tmp_path: Path, run: Run, base: Path, state: Tensors) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    model.model.layers[1] = checkpoint_wrapper(model.model.layers[1])
    model.model.layers[2].mlp = torch.compile(model.model.layers[2].mlp)
    whole = AveragedModel(nn.DataParallel(torch.compile(model)))
    path = saved(tmp_path / "a.pt", {"model": whole.state_dict()})
    done = run("adopt", path, "--like", base, "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    assert done.json["dropped"]["n_averaged"] == "a wrapper's counter"
    assert_same(weights(tmp_path / "out"), state)


def test_without_a_structure_names_are_cleaned_and_the_doubt_is_said(
    run: Run, state: Tensors, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.pt", {f"module._orig_mod.net.{n}": t for n, t in state.items()})
    done = run("adopt", path, "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    assert [check["status"] for check in done.json["checks"]] == ["skipped", "passed"]
    assert any("--prefix net=" in note for note in done.json["notes"])
    assert {(one["what"], one["value"]) for one in done.json["shown"]} >= {
        ("layers of net.model.layers", 3), ("width", 16), ("rows of net.lm_head.weight", 96),
    }  # fmt: skip
    assert_same(weights(tmp_path / "out"), {f"net.{n}": t for n, t in state.items()})
    done = run("adopt", path, "-o", tmp_path / "plain", "--prefix", "net=")
    assert_same(weights(tmp_path / "plain"), state)
    assert run("verify", tmp_path / "plain").status == 0


def test_without_output_nothing_is_written(run: Run, base: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = run("adopt", base / "model.safetensors", "--like", base)
    assert done.status == 0
    assert "nothing was written" in done.out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("model.norm.weight"), "1 missing: model.norm.weight"),
        (lambda s: s.update({"model.extra": torch.ones(2)}), "1 unexpected: m.model.extra"),
        (lambda s: s.update({"loss.weight": torch.ones(2)}), "1 unexpected: m.loss.weight"),
        (lambda s: s.update({"model.norm.weight": torch.ones(17)}), "is [17] and not [16]"),
    ],
)
def test_less_than_all_of_a_component_fails_and_leaves_nothing(
    run: Run, base: Path, state: Tensors, tmp_path: Path, change: Any, words: str
) -> None:
    changed = dict(state)
    change(changed)
    path = saved(tmp_path / "a.pt", {f"m.{n}": t for n, t in changed.items()})
    done = run("adopt", path, "--like", base, "-o", tmp_path / "out", "--json")
    assert done.status == 1
    assert words in done.err
    assert not done.json["ok"]
    assert done.json["errors"][0]["code"] == "proof"
    assert not (tmp_path / "out").exists()


def test_tensors_are_left_out_only_by_name(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    held = {f"m._orig_mod.{n}": t for n, t in state.items()} | {"loss.weight": torch.ones(2)}
    path = saved(tmp_path / "a.pt", held)
    assert run("adopt", path, "--like", base).status == 1
    done = run("adopt", path, "--like", base, "--drop", "loss.**", "--json")
    assert done.status == 0, done.err
    assert done.json["dropped"] == {"loss.weight": "left out by --drop"}
    done = run("adopt", path, "--like", base, "--drop", "loss.**", "--drop", "none.*")
    assert done.status == 2
    assert "--drop none.*" in done.err


def test_a_declared_component_is_enough_and_no_model_is_promised(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    layer = {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.layers")}
    path = saved(tmp_path / "a.pt", {f"backbone.{n}": t for n, t in layer.items()})
    assert run("adopt", path, "--like", base).status == 1
    done = run(
        "adopt", path, "--like", base, "--component", "model.layers", "-o", tmp_path / "out",
        "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert not done.json["complete"]
    assert done.json["prefix"] == {"from": "backbone", "to": "model"}
    assert not (tmp_path / "out" / "config.json").exists()
    assert set(weights(tmp_path / "out")) == {f"model.{n}" for n in layer}
    done = run("adopt", path, "--like", base, "--component", "model.layer")
    assert done.status == 2
    assert "did you mean 'model.layers" in done.err


def test_tied_weights_are_kept_once_and_must_agree(run: Run, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "like")
    state = {f"module.{n}": t for n, t in model.state_dict().items()}
    path = saved(tmp_path / "a.pt", state)
    done = run("adopt", path, "--like", tmp_path / "like", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert "lm_head.weight" not in weights(tmp_path / "out")
    assert HfSource(path=str(tmp_path / "out")).load().model
    state["module.lm_head.weight"] = state["module.lm_head.weight"] + 1
    done = run("adopt", saved(path, state), "--like", tmp_path / "like")
    assert done.status == 4
    assert "its tie" in done.err
    del state["module.model.embed_tokens.weight"]
    done = run("adopt", saved(path, state), "--like", tmp_path / "like", "--json")
    assert done.status == 0, done.err


def test_old_buffers_are_left_out_by_themselves(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    held = {**state, "model.rotary_emb.inv_freq": torch.ones(2)}
    done = run("adopt", saved(tmp_path / "a.pt", held), "--like", base, "--json")
    assert done.status == 0, done.err
    assert "no longer saved" in done.json["dropped"]["model.rotary_emb.inv_freq"]


def test_a_large_one_is_written_in_shards_that_load(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.pt", state)
    done = run("adopt", path, "--like", base, "-o", tmp_path / "out", "--shard-size", "9kb")
    assert done.status == 0, done.err
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert_same(weights(tmp_path / "out"), state)
    assert_same(dict(surgery.load(tmp_path / "out").model.state_dict()), state)
    for file in set(index["weight_map"].values()):
        with safe_open(tmp_path / "out" / file, "pt") as shard:
            assert shard.metadata()["format"] == "pt"


def test_weights_in_parts_become_plain_and_the_model_answers_the_same(
    run: Run, base: Path, tmp_path: Path
) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(base).eval()
    for layer in model.model.layers:
        nn.utils.parametrizations.weight_norm(layer.self_attn.q_proj)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.parametrizations.weight.original0.mul_(1.5)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        before = model(ids).logits
    path = saved(tmp_path / "a.ckpt", lightning(dict(model.state_dict())))
    done = run("adopt", path, "--like", base, "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    assert [pair["kind"] for pair in done.json["pairs"]] == ["weight norm"] * 3
    with torch.no_grad():
        after = HfSource(path=str(tmp_path / "out")).load().model(ids).logits
    assert torch.equal(before, after)


def test_an_output_that_stands_already_is_not_touched(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    path = saved(tmp_path / "a.pt", state)
    assert run("adopt", path, "--like", base, "-o", tmp_path / "out").status == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_the_same_file_gives_the_same_weights_twice(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.pt", dict(reversed(state.items())))
    for name in ("one", "two"):
        run("adopt", path, "--like", base, "-o", tmp_path / name)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_an_adopted_folder_is_a_structure_for_the_next(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.pt", state)
    run("adopt", path, "--like", base, "-o", tmp_path / "one")
    done = run("adopt", path, "--like", tmp_path / "one", "-o", tmp_path / "two", "--json")
    assert done.status == 0, done.err
    assert_same(weights(tmp_path / "two"), state)


def test_a_recipe_declares_the_structure_too(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    import yaml

    inline = json.loads((base / "config.json").read_text())
    recipe = {
        "recipe": 1, "patient": {"source": "hf", "from_config": inline},
        "surgeries": [{"use": "freeze"}],
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    path = saved(tmp_path / "a.pt", {f"module.{n}": t for n, t in state.items()})
    done = run("adopt", path, "--like", tmp_path / "r.yaml", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert_same(dict(surgery.load(tmp_path / "out").model.state_dict()), state)


@pytest.mark.parametrize("name", ["a/../b", "../x", "\x1b[2J", "a\nb", "", "x" * 600, "\ud800"])
def test_hostile_names_are_refused_and_nothing_is_written(
    run: Run, state: Tensors, tmp_path: Path, name: str
) -> None:
    path = saved(tmp_path / "a.pt", {"sd": {**state, name: torch.ones(2)}})
    done = run("adopt", path, "-o", tmp_path / "out", "--json")
    assert done.status == 4
    assert done.json["errors"][0]["code"] == "integrity"
    assert "\x1b" not in done.err
    assert not (tmp_path / "out").exists()


def test_odd_keys_around_the_state_dict_do_no_harm(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    tree = {
        "\ud800\x1b": state,
        "hyper_parameters": {"\ud800": 1, "inf": float("inf"), "n": 10**400},
    }
    done = run(
        "adopt", saved(tmp_path / "a.pt", tree), "--like", base, "-o", tmp_path / "out", "--json"
    )
    assert done.status == 0, done.err
    assert_same(weights(tmp_path / "out"), state)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--infer"], "--like"), (["--component", "a"], "--like"), (["--prefix", "x"], "'='"),
        (["--shard-size", "0"], "a size such as"), (["--adapters", "drop"], "adapters in the file"),
        (["--key", "x"], "--key"), (["--prefix", "x="], "--prefix"),
        (["--like", "none"], "none"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line_are_clear(
    run: Run, state: Tensors, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = run("adopt", saved(tmp_path / "a.pt", state), *arguments)
    assert done.status in (1, 2)
    assert words in done.err
    assert "Traceback" not in done.err
    assert "unexpected" not in done.err
