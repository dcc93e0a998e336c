"""Recipes with these objectives train: files in, guards on, an ordinary output out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import OPTConfig, OPTForCausalLM

import surgery
from surgery.errors import RefusedError, TrainingError
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from surgery.recipe.shipped import copy_shipped
from surgery.training.run import Trained, train_recipe
from tests.objectives import kit

FAST = {"steps": 12, "batch": 4, "log": {"every": 1, "trackers": []}, "optimizer": {"lr": 0.03}}
LORA = {"use": "lora", "at": {"role": ["attention.q", "attention.v"]}, "with": {"rank": 4}}
ANSWERS = ["a cat", "a dog", "on a mat", "in the image"]


def saved(patient: Any, folder: Path) -> Path:
    patient.model.save_pretrained(folder)
    patient.tokenizer.save_pretrained(folder)
    return folder


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def chats(count: int) -> list[dict[str, Any]]:
    answers = [ANSWERS[n % len(ANSWERS)] for n in range(count)]
    return [
        {"messages": [{"role": "user", "content": f"where is {n}?"},
                      {"role": "assistant", "content": answer}]}
        for n, answer in enumerate(answers)
    ]  # fmt: skip


def trained(
    folder: Path, train: dict[str, Any], surgeries: list[Any] | None = None, **options: Any
) -> Trained:
    recipe = {
        "recipe": 1, "seed": 0, "patient": {"source": "hf", "path": "./base"},
        "surgeries": surgeries or [{"use": "freeze"}, LORA], "output": {"path": "./out"},
        "train": {**FAST, **train},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    known = registry()
    return train_recipe(read_recipe(str(folder / "recipe.yaml"), registry=known), known, **options)


def lines(found: Trained, key: str) -> list[Any]:
    text = (found.run / "metrics.jsonl").read_text().splitlines()
    return [row[key] for row in map(json.loads, text) if key in row]


def test_the_shipped_recipe_of_a_chat_model_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = kit.causal(template=kit.CHATML)
    patient.model.lm_head.weight.data.mul_(20)  # the head stays frozen, and must tell tokens apart
    saved(patient, tmp_path / "llm")
    written(tmp_path / "chats.jsonl", chats(16))
    written(tmp_path / "chats-held-out.jsonl", chats(4))
    monkeypatch.chdir(tmp_path)
    known = registry()
    changes = {"steps": 25, "epochs": None, "batch": 4, "optimizer.lr": 0.01, "log.every": 1}
    recipe = read_recipe(
        str(copy_shipped("llm-lora", tmp_path)), registry=known,
        sets=[f"train.{key}={json.dumps(value)}" for key, value in changes.items()],
    )  # fmt: skip
    found = train_recipe(recipe, known)
    losses = lines(found, "loss")
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert lines(found, "accuracy")[-1] > lines(found, "accuracy")[0]
    assert {"loss", "accuracy", "bits_per_token", "learned"} == set(lines(found, "evaluation")[-1])
    loaded = surgery.load(tmp_path / "llm-lora")
    assert len(loaded.plan.trainable) == 2 * 2 * 7
    assert (tmp_path / "llm-lora" / "peft").is_dir()


def test_chats_train_the_same_packed_and_padded(tmp_path: Path) -> None:
    saved(kit.causal(template=kit.CHATML), tmp_path / "base")
    written(tmp_path / "x.jsonl", chats(16))
    losses = []
    for packing in (False, True):
        objective = {"use": "causal-lm", "messages": "messages", "packing": packing}
        train = {"objective": objective, "data": {"use": "jsonl", "path": "./x.jsonl"}, "steps": 6}
        losses.append(lines(trained(tmp_path, train, force=True), "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_labels_of_a_table_train_an_attached_head(tmp_path: Path) -> None:
    saved(kit.encoder(), tmp_path / "base")
    rows = [{"text": text, "label": text.split()[0]} for text in ANSWERS for _ in range(3)]
    with (tmp_path / "x.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    head = {
        "use": "attach", "at": {"path": "encoder"},
        "with": {"called": "kind", "module": {"use": "linear", "out": 3},
                 "output": "last_hidden_state"},
    }  # fmt: skip
    train = {
        "objective": {"use": "classification", "labels": ["a", "on", "in"], "output": "kind",
                      "pool": "mean"},
        "data": {"use": "csv", "path": "./x.csv"}, "steps": 40, "optimizer": {"lr": 0.01},
        "evaluation": {"use": "csv", "path": "./x.csv"}, "evaluate": {"metric": "accuracy"},
    }  # fmt: skip
    found = trained(tmp_path, train, [{"use": "freeze"}, LORA, head])
    assert lines(found, "evaluation")[-1]["accuracy"] == 1.0
    assert "kind.weight" in surgery.load(tmp_path / "out").plan.trainable


def test_pairs_of_several_sources_train_an_encoder(tmp_path: Path) -> None:
    saved(kit.encoder(), tmp_path / "base")
    pairs = [{"first": f"where is {a}?", "second": a} for a in ANSWERS]
    written(tmp_path / "x.jsonl", pairs[:2])
    (tmp_path / "first").write_text("".join(f"{one['first']}\n" for one in pairs[2:]))
    (tmp_path / "second").write_text("".join(f"{one['second']}\n" for one in pairs[2:]))
    texts = {"use": "text-pairs", "first": "./first", "second": "./second"}
    data = [{"use": "jsonl", "path": "./x.jsonl"}, {**texts, "weight": 2.0}]
    train = {
        "objective": {"use": "contrastive", "symmetric": True, "temperature": 0.1},
        "data": data, "batch": 6, "steps": 30, "optimizer": {"lr": 0.01},
    }  # fmt: skip
    found = trained(tmp_path, train)
    losses = lines(found, "loss")
    assert losses[-1] < 0.7 * losses[0]
    assert lines(found, "recall@1")[-1] == 1.0


def test_samples_that_cannot_be_used_are_listed_and_limited(tmp_path: Path) -> None:
    saved(kit.causal(), tmp_path / "base")
    written(tmp_path / "x.jsonl", [{"text": ""}, *({"text": "a cat"} for _ in range(15))])
    train = {
        "objective": {"use": "causal-lm", "text": "text"},
        "data": {"use": "jsonl", "path": "./x.jsonl"}, "steps": 4,
    }  # fmt: skip
    with pytest.raises(TrainingError, match="sample 0, ValueError: expected a text under 'text'"):
        trained(tmp_path, train)
    found = trained(tmp_path, {**train, "max_failed": 0.1}, force=True)
    assert found.progress.failed == 1
    assert lines(found, "failed") == [0]
    assert lines(found, "why") == ["ValueError: expected a text under 'text', got a blank one"]


def test_a_patient_that_mixes_packed_samples_is_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    patient = kit.causal()
    patient.model = OPTForCausalLM(
        OPTConfig(
            vocab_size=len(patient.tokenizer), hidden_size=16, ffn_dim=24, num_hidden_layers=2,
            num_attention_heads=4, word_embed_proj_dim=16,
        )
    )  # fmt: skip
    saved(patient, tmp_path / "base")
    train = {
        "objective": {"use": "causal-lm", "text": "text", "packing": True},
        "data": {"use": "jsonl", "path": str(written(tmp_path / "x.jsonl", chats(1)))},
    }
    with pytest.raises(RefusedError, match="packed samples see one another"):
        trained(tmp_path, train)
