"""Laws that need no names, on every architecture of transformers that builds and runs on meta."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.nn import functional

pytest.importorskip("transformers")

from surgery.anatomy import handlers  # noqa: F401  (registers what the tracer handles)
from surgery.anatomy.inputs import guesses
from surgery.anatomy.site import Anatomy, Site
from surgery.anatomy.stand_in import on_meta
from surgery.anatomy.trace import Trace
from surgery.anatomy.walk import walk
from tests.zoo.architectures import build, class_names, model_types

SAMPLE = (
    "llama", "bert", "gpt2", "gpt_neox", "codegen", "falcon", "phi3", "mpt", "bloom", "t5", "bart",
    "whisper", "clip", "vit", "mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3", "mamba", "resnet",
    "jamba", "modernbert",
)  # fmt: skip

RAW_QUERY = {"Aimv2Model", "Aimv2VisionModel"}
"""Their pooling head's query is a parameter that meets no weight, so it has no ``attention.q``."""


OVER_THE_STREAM = {"Inkling2Model", "Inkling2TextModel"}
"""A learned query also attends to the outputs of earlier layers; no weight makes k and v there."""

MIXED = {"ZayaModel"}
"""Its q and k are sums of both projections, so rows of each reach both."""


@dataclass
class Tally:
    """What was checked, and what was wrong."""

    attention: int = 0
    calls: int = 0
    fused: int = 0
    layers: int = 0
    whole: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class CountAttention:
    """Count the calls of torch's attention function, without the tracer."""

    def __enter__(self) -> CountAttention:
        self.count, self._before = 0, functional.scaled_dot_product_attention

        def counted(*args: object, **kwargs: object) -> torch.Tensor:
            self.count += 1
            return self._before(*args, **kwargs)

        functional.scaled_dot_product_attention = counted
        return self

    def __exit__(self, *_: object) -> None:
        functional.scaled_dot_product_attention = self._before


def observed(model: nn.Module) -> tuple[Trace, int] | None:
    """Trace the first guess that runs; give the trace and the independent count."""
    with on_meta(model):
        for guess in guesses(model):
            trace = Trace(model, guess)
            try:
                with CountAttention() as counter, trace.watching():
                    model(**guess)
            except Exception:
                continue
            return trace, counter.count
    return None


def check(model_type: str, tally: Tally) -> None:
    for name in class_names(model_type):
        try:
            model = build(model_type, name)
        except Exception:
            continue
        seen = observed(model)
        if seen is None or not seen[0].attentions:
            continue
        trace, counted = seen
        anatomy = walk(model)
        tally.attention += 1
        tally.calls += len(trace.attentions)
        tally.whole.append(name)
        tally.wrong += [f"{name}: {what}" for what in wrong_calls(name, trace, counted)]
        tally.wrong += [f"{name}: {what}" for what in wrong_rows(name, anatomy, tally)]
        tally.wrong += [f"{name}: {what}" for what in unlike_neighbours(model, anatomy, tally)]


def wrong_calls(name: str, trace: Trace, counted: int) -> Iterator[str]:
    if len(trace.attentions) < counted:
        yield f"{counted} calls of attention, {len(trace.attentions)} seen"
    for number, call in enumerate(trace.attentions):
        parts = {"q": call.q.origins, "k": call.k.origins, "v": call.v.origins, "proj": call.proj}
        missing = [part for part, found in parts.items() if not found]
        if name in OVER_THE_STREAM and "q" in missing and call.k.stream:
            continue
        if missing and not (name in RAW_QUERY and missing == ["q"]):
            yield f"call {number} has no {missing}"


def wrong_rows(name: str, anatomy: Anatomy, tally: Tally) -> Iterator[str]:
    for site in anatomy:
        parts = {r: site.rows[r] for r in site.rows if r.startswith("attention.")}
        if len(parts) < 2:
            continue
        tally.fused += 1
        numbers = [n for ranges in parts.values() for a, b in ranges for n in range(a, b)]
        shared = parts.get("attention.k") == parts.get("attention.v")  # one weight makes both
        if len(numbers) != len(set(numbers)) and not shared and name not in MIXED:
            yield f"{site.path}: rows of {sorted(parts)} overlap"
        if max(numbers) >= site.shape[site.out_axis]:
            yield f"{site.path}: row {max(numbers)} of {site.shape}"


def unlike_neighbours(model: nn.Module, anatomy: Anatomy, tally: Tally) -> Iterator[str]:
    """Layers of one class in one container whose weights have equal names have equal roles."""
    found: dict[str, dict[str, Site]] = defaultdict(dict)
    for site in anatomy:
        if site.layer is not None and site.parameter:
            above = f"{site.layer.container}."
            number, _, inside = site.path.removeprefix(above).partition(".")
            found[above + number][inside] = site
    kinds: dict[object, tuple[str, dict[str, Site]]] = {}
    modules = dict(model.named_modules())
    for path, sites in found.items():
        kind = (path.rpartition(".")[0], type(modules[path]), tuple(sites), _shapes(sites))
        first, known = kinds.setdefault(kind, (path, sites))
        tally.layers += first != path
        for inside, site in sites.items():
            if site.roles != known[inside].roles:
                yield f"{site.path} is {set(site.roles)}, in {first} {set(known[inside].roles)}"


def _shapes(sites: dict[str, Site]) -> tuple[tuple[int, ...], ...]:
    return tuple(site.shape for site in sites.values())


@pytest.mark.parametrize("model_type", SAMPLE)
def test_laws_hold_on_a_sample(model_type: str) -> None:
    tally = Tally()
    check(model_type, tally)
    assert tally.wrong == []
    assert tally.attention >= (model_type not in ("mamba", "resnet"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_laws_hold_on_every_architecture() -> None:
    torch.set_num_threads(1)
    tally = Tally()
    for model_type in model_types():
        check(model_type, tally)
    assert tally.wrong == []
    assert tally.attention >= 378
    assert tally.calls >= 1350
    assert tally.fused >= 185
    assert tally.layers >= 690


if __name__ == "__main__":
    import sys

    total = Tally()
    for each in sys.argv[1:] or model_types():
        check(each, total)
    print(*total.wrong, sep="\n")
    print(total.attention, total.calls, total.fused, total.layers)
