"""Laws of the surgery: refusal, provenance, warm start, seeds, dtypes, journal and recipe."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file

import surgery
from surgery.checkpoint.tensors import TensorReader
from surgery.cli import main
from surgery.errors import RecipeError, RefusedError, SurgeryError
from surgery.operate.patient import Patient
from surgery_plugins.surgeries.resampler import Resampler
from surgery_plugins.surgeries.resampler.kinds import KINDS
from tests.resampler.kit import (
    HOSTS,
    PATHS,
    SIZES,
    build,
    equal,
    idefics3,
    internvl,
    llava,
    state,
    step,
)

ROOT = Path(__file__).parent.parent.parent
PROJECTOR = PATHS["llava"]
FAST = ("normed_avg_pool", "perceiver", "c_abstractor", "bimamba")
SOME = [pytest.param(k, marks=() if k in FAST else pytest.mark.slow) for k in KINDS]


def test_the_recipes_kinds_are_all_kinds() -> None:
    annotation = Resampler.model_fields["kind"].annotation
    words = {word for part in get_args(annotation) for word in get_args(part)}
    assert words == set(KINDS)


def test_a_raw_parameter_and_several_connectors_are_refused() -> None:
    with pytest.raises(RefusedError, match="a raw parameter is no connector"):
        surgery.plan(HOSTS["idefics2"](), step("linear", at={"path": "**.latents"}))
    two = {"path": [PROJECTOR, "model.language_model"]}
    with pytest.raises(RefusedError, match=r"one connector.*got 2"):
        surgery.plan(llava(), step("linear", at=two))


def test_parts_of_a_selected_connector_are_not_sites_of_their_own() -> None:
    plan = surgery.plan(llava(), step("linear", at={"path": [PROJECTOR, f"{PROJECTOR}.*"]}))
    assert [site.path for site in plan.steps[0].sites] == [PROJECTOR]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hiden": 3}, "did you mean 'hidden'"),
        ({"hidden": 0}, "1 or more"),
        ({"hidden": "wide"}, "a whole number"),
        ({"norm": 1}, "true or false"),
        ({"act": "gelo"}, "gelo"),
    ],
)
def test_a_wrong_size_is_an_error_that_says_what_is_right(sizes: Any, message: str) -> None:
    given = {**SIZES["mlp"], **sizes}
    with pytest.raises(SurgeryError, match=message):
        surgery.plan(llava(), step(None, kind="mlp", sizes=given))


def test_sizes_that_do_not_go_together_are_refused() -> None:
    for kind, change in (
        ("qformer", {"heads": 3}), ("perceiver", {"heads": 3}), ("c_abstractor", {"kernel": 2}),
    ):  # fmt: skip
        sizes = {**SIZES[kind], **change}
        with pytest.raises(RefusedError):
            surgery.plan(llava(), step(None, kind=kind, sizes=sizes))


def test_without_kind_and_weights_the_kinds_are_listed() -> None:
    with pytest.raises(RecipeError, match="one of linear, mlp"):
        surgery.plan(llava(), step(None))


def test_what_is_not_given_comes_from_the_connector_that_is_there_and_says_so() -> None:
    plan = surgery.plan(llava(), step(None, kind="mlp", sizes={"hidden": 40}))
    notes = plan.steps[0].notes
    assert "hidden = 40 (recipe)" in notes
    assert "act = 'gelu' (config of llava)" in notes
    there = f"the connector that is there, shape of {PROJECTOR}.linear_2.weight"
    assert f"layers = 2 ({there})" in notes


def test_a_fresh_kind_without_sizes_asks_for_all_of_them() -> None:
    with pytest.raises(RecipeError) as caught:
        surgery.plan(llava(), step(None, kind="bimamba"))
    assert all(name in caught.value.instead for name in SIZES["bimamba"])


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: t for n, t in state(model).items() if n.startswith(PROJECTOR)}


def test_exact_carry_takes_tensors_of_equal_name_and_shape() -> None:
    model = llava()
    old = values(model)
    applied = surgery.apply(
        model, step(None, kind="mlp", sizes={"layers": 2, "hidden": 24, "norm": True})
    )
    new = values(model)
    assert set(new) - set(old) == {f"{PROJECTOR}.norm_1.weight", f"{PROJECTOR}.norm_1.bias"}
    assert all(torch.equal(new[n], old[n]) for n in old)
    assert set(applied.plan.saved) == set(new) - set(old)
    assert applied.plan.steps[0].notes[-1].startswith("carried 4 of 6 tensors: linear_1.weight")


@pytest.mark.parametrize("hidden", [10, 40])
def test_overlap_carries_the_common_part_and_fills_the_rest(hidden: int) -> None:
    model = llava()
    old = values(model)[f"{PROJECTOR}.linear_1.weight"]
    surgery.apply(model, step(None, kind="mlp", sizes={"hidden": hidden}, carry="overlap"))
    new = values(model)[f"{PROJECTOR}.linear_1.weight"]
    part = min(hidden, 24)
    assert torch.equal(new[:part], old[:part])
    assert torch.isfinite(new).all()
    assert hidden == 10 or float(new[24:].abs().max()) <= 32**-0.5


def test_no_carry_draws_everything() -> None:
    model = llava()
    old = values(model)
    applied = surgery.apply(model, step(None, kind="mlp", carry="none"))
    assert not any(torch.equal(t, old[n]) for n, t in values(model).items())
    assert len(applied.plan.saved) == 4


def test_idefics3s_matrix_is_carried_under_its_new_name() -> None:
    model: Any = idefics3()
    old = model.model.connector.modality_projection.proj.weight.detach().clone()
    surgery.apply(model, step(None, kind="pixel_shuffle"))
    assert torch.equal(model.model.connector.linear_1.weight, old)


@pytest.mark.parametrize("kind", SOME)
def test_the_same_seed_gives_the_same_values_and_another_does_not(kind: str) -> None:
    drawn = []
    for seed in (0, 0, 1):
        model = llava()
        surgery.apply(model, step(kind, carry="none"), seed=seed)
        drawn.append(values(model))
    assert equal(drawn[0], drawn[1])
    assert not equal(drawn[0], drawn[2])
    assert all(torch.isfinite(t).all() for t in drawn[0].values())


def test_the_dtype_is_the_models_and_decay_stays_in_float32() -> None:
    model = llava().to(torch.bfloat16)
    surgery.apply(model, step("bimamba"))
    kinds = {n.rpartition(".")[2]: t.dtype for n, t in values(model).items()}
    assert kinds.pop("A_log") == kinds.pop("D") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}


def test_weights_in_another_dtype_are_cast_to_the_models(tmp_path: Path) -> None:
    module = build("linear")
    save_file(dict(module.state_dict()), tmp_path / "connector.safetensors")
    model = llava().to(torch.bfloat16)
    surgery.apply(model, step(None, weights=str(tmp_path / "connector.safetensors")))
    found = model.get_parameter(f"{PROJECTOR}.linear.weight")
    assert torch.equal(found, module.get_parameter("linear.weight").to(torch.bfloat16))


@pytest.mark.parametrize("kind", SOME)
def test_weights_of_every_kind_load_bit_for_bit(kind: str, tmp_path: Path) -> None:
    module = build(kind)
    path = tmp_path / "connector.safetensors"
    save_file({f"some.prefix.{n}": t for n, t in module.state_dict().items()}, path)
    model: Any = llava()
    surgery.apply(model, step(kind, weights=str(path)))
    assert equal(dict(model.get_submodule(PROJECTOR).state_dict()), dict(module.state_dict()))


def test_a_freeze_before_is_a_conflict_and_one_after_is_not() -> None:
    from surgery.errors import ConflictError

    freeze = {"use": "freeze", "at": {"path": "**"}}
    with pytest.raises(ConflictError):
        surgery.plan(llava(), [freeze, step("linear")])
    after = {"use": "freeze", "at": {"path": ["model.vision_tower", "model.language_model"]}}
    plan = surgery.plan(llava(), [step("linear"), after])
    assert f"{PROJECTOR}.linear.weight" in plan.trainable


@pytest.fixture
def base(tmp_path: Path) -> Path:
    model: Any = llava()
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_shipped_recipe_runs_and_its_result_loads(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = "vlm-resampler-rebuild"
    options = ["--set", f"patient.path={base}", "--output", tmp_path / "out", "--json"]
    assert run("apply", recipe, *options) == 0, capsys.readouterr().err
    checks = {c["name"]: c["status"] for c in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["contracts of vision-language"] == checks["plan equals model"] == "passed"
    assert "failed" not in checks.values()
    loaded = surgery.load(tmp_path / "out")
    again = surgery.load(tmp_path / "out")
    assert equal(state(loaded.model), state(again.model))
    stored = TensorReader(tmp_path / "out" / "changed.safetensors").entries
    assert set(stored) == {n for n in state(loaded.model) if n.startswith(PROJECTOR)}
    loaded.undo()
    assert equal(state(loaded.model), state(llava()))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    journal = json.loads((tmp_path / "out" / "surgery.json").read_text())
    assert config["image_seq_length"] == 16
    assert journal["steps"][0]["options"]["sizes"]["d_inner"] == 1792
    assert run("verify", tmp_path / "out") == 0


def test_the_weights_of_internvls_own_repository_load_under_their_names(tmp_path: Path) -> None:
    module = build("pixel_shuffle", hidden=24)
    renamed = {"layer_norm": "mlp1.0", "linear_1": "mlp1.1", "linear_2": "mlp1.3"}
    stored = {
        ".".join((renamed[n.split(".")[0]], n.split(".")[1])): t
        for n, t in module.state_dict().items()
    }
    save_file(stored, tmp_path / "remote.safetensors")
    model, sizes = internvl(), {"act": "gelu", "transposed": False}
    surgery.apply(model, step(None, sizes=sizes, weights=str(tmp_path / "remote.safetensors")))
    assert equal(dict(model.get_submodule(PROJECTOR).state_dict()), dict(module.state_dict()))


def test_the_order_of_independent_surgeries_does_not_matter() -> None:
    lora = {"use": "lora", "at": {"match": r"model\.language_model\..*\.q_proj"}}
    results = []
    for steps in ([step("perceiver"), lora], [lora, step("perceiver")]):
        model = llava()
        surgery.apply(model, steps)
        results.append(dict(sorted(state(model).items())))
    assert equal(results[0], results[1])


@pytest.mark.parametrize("weights", [False, True])
def test_where_values_come_from_can_be_sent_elsewhere(weights: bool, tmp_path: Path) -> None:
    path = tmp_path / "connector.safetensors"
    save_file(dict(build("bimamba").state_dict()), path)
    options = {"weights": str(path)} if weights else {"carry": "overlap"}
    plan = surgery.plan(llava(), step("bimamba", **options))
    assert all(pickle.loads(pickle.dumps(slot.value)) for slot in plan.slots.values())


def test_the_processor_counts_the_same_places_and_undo_restores_it() -> None:
    model = internvl()
    processor = SimpleNamespace(image_seq_length=4)
    patient = Patient(model, config=model.config, processor=processor)
    applied = surgery.apply(patient, step("qformer"))
    assert (processor.image_seq_length, model.config.image_seq_length) == (7, 7)
    applied.undo()
    assert (processor.image_seq_length, model.config.image_seq_length) == (4, 4)


def loading_recipe(folder: Path, save: str) -> Path:
    """Write a recipe that loads a perceiver, and the perceiver beside it."""
    save_file(dict(build("perceiver").state_dict()), folder / "connector.safetensors")
    sizes = {n: SIZES["perceiver"][n] for n in ("heads", "act", "eps")}
    recipe = {
        "recipe": 1,
        "patient": {"source": "hf", "path": "./base"},
        "surgeries": [step(None, sizes=sizes, weights="./connector.safetensors")],
        "output": {"path": "./out", "save": save},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


def test_weights_are_found_beside_the_recipe_and_needed_only_once(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, written = loading_recipe(tmp_path, "changed"), []
    for way in ("live", "stream"):
        assert run("apply", recipe, "--output", tmp_path / way, f"--{way}") == 0, (
            capsys.readouterr().err
        )
        written.append((tmp_path / way / "changed.safetensors").read_bytes())
    assert written[0] == written[1]
    (tmp_path / "connector.safetensors").unlink()
    loaded = surgery.load(tmp_path / "stream")
    connector = loaded.model.get_submodule(PROJECTOR)
    assert equal(dict(connector.state_dict()), dict(build("perceiver").state_dict()))
    assert loaded.patient.config.image_seq_length == 6


def test_a_whole_model_that_its_configuration_would_not_build_is_not_written(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("apply", loading_recipe(tmp_path, "full")) == 1
    assert "write `output.save: changed`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
