"""Any other method of PEFT on selected modules: PEFT's outputs, reload, undo, and refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

import surgery
from surgery.anatomy.extended import EXTENSIONS
from surgery.cli import main
from surgery_plugins.surgeries.peft_bridge.runtime import Bridge
from tests.peft import kit
from tests.peft.kit import answer, difference, fresh

pytestmark = pytest.mark.filterwarnings("ignore")

FREEZE = {"use": "freeze", "at": {"path": "**"}}
AT = {"path": ["**.q_proj", "**.down_proj"]}
METHODS: dict[str, dict[str, Any]] = {
    "beft": {},
    "boft": {},
    "c3a": {"block_size": 8},
    "deft": {},
    "delora": {},
    "fourierft": {"n_frequency": 20},
    "glora": {},
    "gralora": {},
    "hira": {},
    "hra": {},
    "ia3": {"feedforward_modules": ".*down_proj"},
    "lily": {},
    "loha": {"r": 4, "alpha": 6},
    "lokr": {"r": 4, "alpha": 6},
    "miss": {"r": 8},
    "oft": {},
    "peanut": {},
    "psoft": {"r": 4},
    "pvera": {"r": 8},
    "randlora": {"r": 4},
    "road": {"group_size": 8},
    "shira": {"r": 2},
    "supertuning": {},
    "tinylora": {},
    "unilora": {},
    "vblora": {"vector_length": 8, "num_vectors": 16, "topk": 2},
    "vera": {"r": 8},
    "waveft": {"n_frequency": 20},
}
KNOWN = {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
HERE = [name for name in METHODS if name in KNOWN]
QUICK = ["ia3", "loha", "lokr", "oft", "boft", "vera"]


def step(method: str, at: dict[str, Any] = AT, **more: Any) -> dict[str, Any]:
    options = METHODS.get(method, {})
    return {"use": "peft", "at": at, "with": {"method": method, "options": options, **more}}


def bridges(model: nn.Module) -> dict[str, tuple[nn.Module, Bridge]]:
    return {
        path: (module, one.settings)
        for path, module in model.named_modules()
        for one in module.__dict__.get(EXTENSIONS, {}).values()
        if isinstance(one.settings, Bridge)
    }


def move(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1


def in_peft(base: nn.Module, ours: nn.Module, method: str) -> nn.Module:
    """Give PEFT's model of the same method, with the tensors of ours."""
    kind = next(c for k, c in PEFT_TYPE_TO_CONFIG_MAPPING.items() if k.value.lower() == method)
    config = kind(target_modules=r".*\.(q_proj|down_proj)", **METHODS[method])
    theirs = peft.get_peft_model(base, config).eval()
    modules = dict(theirs.base_model.model.named_modules())
    with torch.no_grad():
        for path, (module, bridge) in bridges(ours).items():
            held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            for name, own in bridge.names.items():
                _put(modules[path], name, held[own])
    return theirs


def _put(layer: nn.Module, name: str, values: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    holder: Any = layer
    for part in path.split("."):
        holder = getattr(holder, part) if isinstance(holder, nn.Module) and part else holder
    target = holder[leaf] if isinstance(holder, dict) else getattr(holder, leaf)
    target.copy_(values)


@pytest.mark.parametrize(
    "method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in HERE]
)
def test_a_bridged_model_is_pefts_reloads_and_is_undone(method: str, tmp_path: Path) -> None:
    model = fresh(kit.llama)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = answer(model)
    applied = surgery.apply(model, [FREEZE, step(method)])
    assert set(before) <= set(model.state_dict()), "base tensors keep their names"
    move(model)
    trained = answer(model)
    assert difference(trained, plain) > 1e-4
    assert difference(answer(in_peft(fresh(kit.llama), model, method)), trained) <= 1e-6
    assert torch.equal(answer(copy.deepcopy(model)), trained)
    applied.save(tmp_path / "out")
    again = surgery.load(tmp_path / "out", fresh(kit.llama))
    assert torch.equal(answer(again.model), trained)
    applied.undo()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(answer(model), plain)


@pytest.mark.parametrize("method", QUICK)
def test_the_seed_alone_decides_and_a_plan_on_meta_knows_every_tensor(method: str) -> None:
    found: list[dict[str, torch.Tensor]] = []
    planned = surgery.plan(fresh(kit.llama), [FREEZE, step(method)], seed=1)
    for seed in (1, 1, 2):
        torch.manual_seed(len(found))  # the process' own state decides nothing
        applied = surgery.apply(fresh(kit.llama), [FREEZE, step(method)], seed=seed)
        named = dict(applied.model.named_parameters()) | dict(applied.model.named_buffers())
        found.append({name: t for name, t in named.items() if "peft_" in name})
        assert applied.plan.after == planned.after
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    if method not in ("ia3", "oft", "boft", "vera"):  # those draw nothing, or by a seed of PEFT's
        assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])


@pytest.mark.parametrize("method", QUICK)
def test_only_the_methods_tensors_learn_and_all_of_them_do(method: str) -> None:
    model = fresh(kit.llama).train()
    surgery.apply(model, [FREEZE, step(method)])
    move(model)
    model(input_ids=kit.IDS).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        learns = parameter.requires_grad
        assert ("peft_" in name) or not learns
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name


@pytest.mark.parametrize(
    ("method", "computed"),
    [("delora", "delora_w_norm"), ("tinylora", "tinylora_A"), ("boft", "boft_P")],
)
def test_what_peft_computes_of_a_weight_is_computed_of_that_weight(
    method: str, computed: str
) -> None:
    model = fresh(kit.llama)
    surgery.apply(model, [FREEZE, step(method)])
    base = fresh(kit.llama)
    kind = next(c for k, c in PEFT_TYPE_TO_CONFIG_MAPPING.items() if k.value.lower() == method)
    config = kind(target_modules=r".*\.(q_proj|down_proj)", **METHODS[method])
    theirs = dict(peft.get_peft_model(base, config).base_model.model.named_modules())
    for path, (module, bridge) in bridges(model).items():
        name = next(name for name in bridge.names if name.startswith(computed))
        wanted = dict(theirs[path].named_buffers())[name]
        assert torch.equal(getattr(module, bridge.names[name]), wanted)


def test_what_peft_shares_between_layers_is_one_tensor(tmp_path: Path) -> None:
    model = fresh(kit.llama)
    applied = surgery.apply(model, [FREEZE, step("vera", {"path": "**.q_proj"})])
    first, second = (module for module, _ in bridges(model).values())
    assert first.peft_default_vera_A is second.peft_default_vera_A
    shared = [row for row in applied.plan.added if row.aliases]
    assert len(shared) == 2
    applied.save(tmp_path / "out")
    again = surgery.load(tmp_path / "out", fresh(kit.llama)).model
    first, second = (module for module, _ in bridges(again).values())
    assert first.peft_default_vera_A is second.peft_default_vera_A


@pytest.mark.parametrize(
    ("make", "method", "at"),
    [
        (kit.gpt2, "ia3", {"role": "mlp.up"}),
        (kit.gpt2, "vera", {"role": "mlp.up"}),
        (kit.conv2d, "loha", {"type": "Conv2d"}),
        (kit.conv2d, "lokr", {"type": "Conv2d"}),
        (kit.conv1d, "loha", {"type": "Conv1d"}),
        (kit.llama, "road", {"path": "lm_head"}),
        (lambda: kit.llama().bfloat16(), "loha", AT),
        (kit.tied, "loha", {"path": "lm_head"}),
    ],
)
def test_other_kinds_of_modules(make: kit.Make, method: str, at: dict[str, Any]) -> None:
    model = fresh(make)
    names = set(model.state_dict())
    plain = answer(model)
    options = {"ia3": {"feedforward_modules": ".*"}, "road": {"group_size": 8}}.get(
        method, {"r": 4}
    )
    with surgery.apply(
        model, [FREEZE, step(method, at, options=options)], inputs=kit.inputs_of(model)
    ):
        move(model)
        assert difference(answer(model).float(), plain.float()) > 1e-4
    assert torch.equal(answer(model), plain)
    assert set(model.state_dict()) == names


def test_ties_hold_and_hooks_run_once() -> None:
    model: Any = fresh(kit.tied)
    surgery.apply(model, [FREEZE, step("loha", {"path": ["lm_head", "**.q_proj"]})])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    calls: list[nn.Module] = []
    model.lm_head.register_forward_hook(lambda module, *_: calls.append(module))
    answer(model)
    assert calls == [model.lm_head]


def test_a_method_s_dropout_follows_the_mode_also_where_the_module_is_held() -> None:
    model = fresh(kit.llama)
    held = {"use": "freeze", "at": {"path": "**.q_proj"}, "with": {"eval_mode": True}}
    options = {"r": 4, "module_dropout": 0.5}
    surgery.apply(model, [FREEZE, step("loha", {"path": "**.q_proj"}, options=options), held])
    move(model)
    assert torch.equal(answer(model.eval()), answer(model))
    model.train()
    assert len({float(answer(model).sum()) for _ in range(8)}) > 1


def test_lora_goes_on_top_and_comes_off_again() -> None:
    model = fresh(kit.llama)
    surgery.apply(model, [FREEZE, step("loha")])
    move(model)
    bridged = answer(model)
    with surgery.apply(model, {"use": "lora", "at": {"path": "**.q_proj"}, "overlap": True}):
        assert torch.equal(answer(model), bridged)
        kit.stir(model)
        assert difference(answer(model), bridged) > 1e-4
    assert torch.equal(answer(model), bridged)


def test_a_recipe_bridges_and_the_checkpoint_says_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh(kit.llama).save_pretrained(tmp_path / "base")  # type: ignore[operator]
    recipe = {
        "recipe": 1,
        "patient": {"source": "hf", "path": "./base"},
        "surgeries": [{"use": "freeze"}, step("lokr")],
        "output": {"path": "./out"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["plan", str(tmp_path / "recipe.yaml")]) == 0
    assert "must be installed to load" in capsys.readouterr().out
    assert main(["apply", str(tmp_path / "recipe.yaml"), "--quiet"]) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
    live = surgery.apply(fresh(kit.llama), recipe["surgeries"])  # type: ignore[arg-type]
    again = surgery.load(tmp_path / "out").model
    assert torch.equal(answer(again), answer(live.model))
