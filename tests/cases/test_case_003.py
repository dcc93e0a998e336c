"""Case 003: a resampler rebuilt with other sizes than it was trained with, and then trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration

import surgery
from surgery.errors import IntegrityError, RecipeError, TrainingError
from surgery.hooks.registry import registry
from surgery.operate.patient import Patient
from surgery.recipe.read import read_recipe
from surgery.recipe.recipe import Recipe
from surgery.recipe.shipped import copy_shipped
from surgery.training.run import Trained, train_recipe
from surgery_plugins.objectives.causal_lm import CausalLm
from surgery_plugins.objectives.vision import Images
from tests.objectives import kit as objectives
from tests.resampler.panovlm import DEFAULTS, TRAINED, panovlm
from tests.segmentation.kit import disc
from tests.tokens import kit as tokens

COLOURS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
PLACES = 16
LOOK = CausalLm(image=Images(**COLOURS), prompt="prompt", completion="answer")


def tokenizer() -> Any:
    made = tokens.tokenizer("byte-level")
    made.add_tokens(["<image>"], special_tokens=True)
    return made


def llava(slots: int = PLACES) -> Patient:
    """Give a LLaVA with the widths of the look-alike: a tower of 18, a language model of 12."""
    words = tokenizer()
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 18, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
            "projection_dim": 8,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(words), "hidden_size": 12,
            "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "initializer_range": 0.5,
            "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
        },
        image_token_index=words.convert_tokens_to_ids("<image>"), image_seq_length=slots,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config).eval()
    return Patient(model, model.config, words)


def written(root: Path, name: str, count: int, **more: Any) -> None:
    (root / "images").mkdir(exist_ok=True)
    lines = []
    for number in range(count):
        found = disc(number, 48, 48)
        file = f"{name}-{number}.npy"
        numpy.save(root / "images" / file, found["image"])
        where = "left" if found["place"][0] < 0.5 else "right"
        lines.append({"image": file, "prompt": "<image>\nwhere is it?", "answer": where, **more})
    (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def shipped(root: Path, trained: dict[str, Any] | None = None, **sets: Any) -> Recipe:
    """Give the shipped recipe for a tiny LLaVA, with the weights of a resampler trained before."""
    owner = llava()
    owner.model.save_pretrained(root / "llava")
    owner.tokenizer.save_pretrained(root / "llava")
    state = panovlm(trained or TRAINED, seed=1).state_dict()
    save_file(dict(state), root / "resampler.safetensors")
    written(root, "train", 8)
    written(root, "held-out", 2)
    copy_shipped("vlm-resampler", root)
    return again(root, **sets)


def again(root: Path, **sets: Any) -> Recipe:
    quick = {
        "train.epochs": None, "train.steps": 1, "train.batch": 4, "train.micro": None,
        "train.precision": "float32", "train.log.every": 1, "train.log.trackers": [],
        "train.objective.image": {"key": "image", **COLOURS}, **sets,
    }  # fmt: skip
    given = tuple(f"{key}={json.dumps(value)}" for key, value in quick.items())
    return read_recipe(str(root / "vlm-resampler.yaml"), registry=registry(), sets=given)


def run(recipe: Recipe) -> tuple[Trained, list[dict[str, Any]]]:
    done = train_recipe(recipe, registry())
    lines = (done.run / "metrics.jsonl").read_text().splitlines()
    return done, [json.loads(line) for line in lines]


def test_the_failure_of_the_report_and_the_weights_that_are_dropped_in_silence() -> None:
    trained = panovlm(TRAINED, seed=1)
    with pytest.raises(RuntimeError, match=r"input_proj\.weight: copying a param with shape"):
        panovlm(DEFAULTS, seed=2).load_state_dict(trained.state_dict(), strict=False)
    mlp = torch.nn.ModuleDict({"resampler_module": torch.nn.Linear(18, 12)})
    lost = mlp.load_state_dict(trained.state_dict(), strict=False).unexpected_keys
    assert sum(name.startswith("resampler_module") for name in lost) > 20


def test_sizes_that_nobody_wrote_down_are_asked_for_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    recipe = shipped(tmp_path, **{"surgeries.0.with.sizes": {"eps": 1e-5}})
    with pytest.raises(RecipeError, match=r"nothing that says norm_first .*dropout") as caught:
        run(recipe)
    assert caught.value.instead == "add `sizes: {norm_first: ..., dropout: ...}`"
    assert not (tmp_path / "llava-resampler").exists()


@pytest.mark.parametrize(("name", "value"), [("hidden", 24), ("d_inner", 48)])
def test_defaults_that_the_tensors_contradict_are_named(
    tmp_path: Path, name: str, value: int
) -> None:
    sizes = {"norm_first": True, "eps": 1e-5, "dropout": 0.0, name: value}
    recipe = shipped(tmp_path, **{"surgeries.0.with.sizes": sizes})
    wanted = rf"sizes\.{name}: expected {TRAINED[name]} \(shape of .*got {value}"
    with pytest.raises(RecipeError, match=wanted):
        run(recipe)


def test_metadata_that_were_written_by_half_are_named(tmp_path: Path) -> None:
    recipe = shipped(tmp_path)
    (tmp_path / "config.json").write_text('{"resampler_config": ')
    with pytest.raises(IntegrityError, match=r"config\.json.*metadata: false"):
        run(recipe)


def test_the_recipe_trains_the_rebuilt_resampler_and_nothing_else(tmp_path: Path) -> None:
    sets = {"train.steps": 10, "train.optimizer.lr": 0.01}
    done, lines = run(shipped(tmp_path, **sets))
    losses = [line["loss"] for line in lines if "loss" in line]
    assert done.ended == "done"
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert all(check.status == "passed" for check in done.checks)
    loaded = surgery.load(tmp_path / "llava-resampler")
    assert all(".multi_modal_projector." in name for name in loaded.plan.trainable)
    options = loaded.journal.steps[0].options
    assert options["sizes"]["d_inner"] == TRAINED["d_inner"]
    assert options["found"]["norm_first"] == "recipe"
    (tmp_path / "resampler.safetensors").unlink()
    assert type(surgery.load(tmp_path / "llava-resampler").model).__name__.startswith("Llava")


def test_a_tower_held_in_eval_mode_still_gives_the_layer_that_the_connector_reads() -> None:
    owner, pixels = llava(), torch.ones(1, 3, 32, 32)
    held = {"use": "freeze", "at": {"path": "**.vision_tower"}, "with": {"eval_mode": True}}
    before = owner.model.model.get_image_features(pixels).pooler_output[0]
    surgery.apply(owner, held)
    assert torch.equal(owner.model.model.get_image_features(pixels).pooler_output[0], before)


def test_a_text_made_for_another_connector_is_a_sample_that_fails_before_the_forward(
    tmp_path: Path,
) -> None:
    recipe = shipped(tmp_path)
    written(tmp_path, "train", 8, prompt="<image>" * 36 + "\nwhere is it?")
    with pytest.raises(TrainingError, match=r"16 places as config\.image_seq_length says, got 36"):
        run(recipe)


def test_a_connector_that_gives_another_number_of_tokens_than_is_stated_is_refused() -> None:
    why = LOOK.refuse(llava(slots=36))
    assert why is not None
    assert "with 36 places for an image, as config.image_seq_length says" in why
    assert "expected 16 places: 1 image of 16 tokens" in why
    assert LOOK.refuse(llava()) is None


def test_the_recipe_says_how_many_places_the_new_connector_gives(tmp_path: Path) -> None:
    owner = llava()
    sizes = {"hidden": 16, "latents": 5, "depth": 1, "heads": 2, "kv_heads": 1, "head_dim": 8,
             "act": "silu", "eps": 1e-6}  # fmt: skip
    step = {"use": "resampler", "at": {"path": "**.multi_modal_projector"},
            "with": {"kind": "perceiver", "sizes": sizes}}  # fmt: skip
    surgery.apply(owner, step)
    assert LOOK.refuse(owner) is None
    sample = {"image": disc(0)["image"], "prompt": "<image> where is it?", "answer": "left"}
    row = objectives.encoded(LOOK, sample, owner)
    slots = int((row["input_ids"] == owner.config.image_token_id).sum())
    assert slots == 5
    assert torch.isfinite(objectives.step(LOOK, [sample], owner).loss)


def test_places_are_never_learned_and_the_rest_is_as_without_an_image() -> None:
    owner = llava()
    sample = {"image": disc(0)["image"], "prompt": "<image> where is it?", "answer": "left"}
    row = objectives.encoded(LOOK, sample, owner)
    assert objectives.learned(row, owner.tokenizer) == "left</s>"
    text = CausalLm(text="text", image=Images(**COLOURS))
    row = objectives.encoded(text, {"image": sample["image"], "text": "<image> a cat"}, owner)
    places = row["input_ids"] == owner.config.image_token_id
    assert int(places.sum()) == PLACES
    assert bool((row["labels"][places] == -100).all())
    assert objectives.learned(row, owner.tokenizer) == " a cat</s>"


def test_the_image_reaches_the_loss() -> None:
    owner = llava()
    prompts = [{"image": disc(n)["image"], "prompt": "<image> where?", "answer": "left"}
               for n in range(2)]  # fmt: skip
    with torch.no_grad():
        one, other = (float(objectives.step(LOOK, [prompt], owner).loss) for prompt in prompts)
    assert one != other


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": "where is it?"}, "got 0; write <image> where the image stands"),
        ({"prompt": "<image><image> where?"}, "<image> once for 1 image.*got 2"),
        ({"image": None}, "not bytes of RGB"),
    ],
)
def test_samples_that_cannot_be_used_say_why(change: dict[str, Any], told: str) -> None:
    good = {"image": disc(0)["image"], "prompt": "<image> where?", "answer": "left"}
    sample = {**good, **change}
    if sample["image"] is None:
        sample["image"] = good["image"].astype("float32")
    with pytest.raises(ValueError, match=told):
        objectives.encoded(LOOK, sample, llava())


def test_a_tokenizer_that_never_saw_the_image_token_is_named() -> None:
    owner = replace(llava(), tokenizer=tokens.tokenizer("byte-level"))
    why = LOOK.refuse(owner)
    assert why is not None
    assert "its tokenizer has no such token" in why
    assert "use: tokens" in why


def test_images_are_neither_packed_nor_cut() -> None:
    for more in ({"packing": True}, {"too_long": "cut"}):
        with pytest.raises(ValueError, match="without packing and without cutting"):
            CausalLm(image=Images(), text="text", **more)


def test_a_text_model_is_no_place_for_images() -> None:
    assert "no size of images in the configuration" in str(LOOK.refuse(objectives.causal()))
