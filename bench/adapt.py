"""MiniLM tells 30 languages: a probe on frozen features beside LoRA, on the same samples."""

from __future__ import annotations

import json
from os import getloadavg
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, process_time
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from surgery.hooks.registry import registry
from surgery.operate.data import Data, Samples
from surgery.operate.patient import Patient
from surgery.recipe.read import read_recipe
from surgery.training.run import train_recipe
from surgery_plugins.data.cldr_names import LANGUAGES
from surgery_plugins.objectives.features import pooled
from surgery_plugins.sources.demo import DemoSource

DECAYS = (1e-4, 1e-3, 3e-3, 1e-2)
"""Weight decays of which the probe gets the best, judged by the held-out samples themselves."""


def run(*, quick: bool = False) -> dict[str, Any]:
    """Adapt with three seeds, and probe what is frozen; quick: one, on a tenth of the names."""
    rows = [compared(seed, names=480 if quick else 4800) for seed in range(1 if quick else 3)]
    gains = [row["lora"] - row["frozen probe"] for row in rows]
    means = {name: sum(row[name] for row in rows) / len(rows) for name in ("frozen probe", "lora")}
    verdicts = [
        f"mean of {len(rows)} seeds: frozen probe {means['frozen probe']:.3f}, "
        f"LoRA {means['lora']:.3f}; the least gain is {min(gains):+.3f}"
    ]
    what = "minilm-adapt: share of held-out names whose language is told"
    return {"what": what, "rows": rows, "verdicts": verdicts}


def compared(seed: int, names: int = 4800) -> dict[str, Any]:
    """Train the shipped recipe with one seed, and probe frozen features of the same samples."""
    known = registry()
    with TemporaryDirectory() as folder:
        sets = [f"seed={seed}", f"train.data.seed={seed}", f"output.path={folder}/out",
                f"train.data.count={names}"]  # fmt: skip
        recipe = read_recipe("minilm-adapt", registry=known, sets=sets)
        began, used = monotonic(), process_time()
        trained = train_recipe(recipe, known)
        seconds, busy = monotonic() - began, process_time() - used
        load = round(getloadavg()[2], 1)
        found = judged(trained.run)
    assert recipe.train is not None
    assert recipe.train.evaluation is not None
    return {
        "seed": seed,
        "frozen probe": round(probed(recipe.train.data[0], recipe.train.evaluation), 3),
        "lora": round(found, 3),
        "seconds": round(seconds, 1),
        "processor seconds": round(busy, 1),
        "load": load,
    }


def judged(run: Path) -> float:
    """Give the last accuracy that a run was judged by."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = [line["evaluation"]["accuracy"] for line in lines if "evaluation" in line]
    return float(found[-1])


def probed(data: Data, held: Data) -> float:
    """Give the best accuracy of logistic regressions on features of the frozen encoder."""
    patient = DemoSource(model="minilm").load()
    known, asked = (_features(patient, one.open()) for one in (data, held))
    mean, spread = known[0].mean(0), known[0].std(0)
    (x, y), (wanted, right) = (((f - mean) / spread, labels) for f, labels in (known, asked))
    return max(_accuracy(_regression(x, y, decay), wanted, right) for decay in DECAYS)


def _features(patient: Patient, samples: Samples, size: int = 64) -> tuple[Tensor, Tensor]:
    """Give mean-pooled states, names x width, and the numbers of the languages."""
    parts = []
    patient.model.eval()
    for start in range(0, len(samples), size):
        stop = min(start + size, len(samples))
        texts = [samples[number]["text"] for number in range(start, stop)]
        made = patient.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            states = patient.model(**made).last_hidden_state
        parts.append(pooled(states, made["attention_mask"], "mean"))
    named = [samples[number]["label"] for number in range(len(samples))]
    labels = torch.tensor([LANGUAGES.index(one) for one in named])
    return torch.cat(parts), labels


def _regression(x: Tensor, y: Tensor, decay: float) -> Tensor:
    """Fit a logistic regression to its optimum; give weights, the last row the biases."""
    x = _with_one(x)
    weights = torch.zeros(x.shape[1], len(LANGUAGES), requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        found = cross_entropy(x @ weights, y) + decay / 2 * weights[:-1].square().sum()
        found.backward()
        return found

    search.step(loss)
    return weights.detach()


def _accuracy(weights: Tensor, x: Tensor, y: Tensor) -> float:
    return float(((_with_one(x) @ weights).argmax(1) == y).float().mean())


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], dim=1)
