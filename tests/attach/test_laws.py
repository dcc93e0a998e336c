"""Laws of attached modules: the model stays, they learn alone, and everything can be repeated."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import surgery
from surgery.flow.verify import verify
from surgery.hooks.registry import registry
from surgery_plugins.modules.attached import ConvEncoder, Layout, PooledEncoder
from surgery_plugins.surgeries.attach import attached
from tests.attach.kit import FREEZE, attach, laid_out, plain
from tests.rope import kit as models
from tests.stream.test_equal import files, run

HEAD = {"use": "mlp", "hidden": [8], "out": 3}
LINEAR = attach("linear", "model.layers.0.mlp", {"use": "linear", "out": 5}, detach=True)
STEPS = [FREEZE, attach("score", "model.norm", HEAD), LINEAR]
IDS = torch.tensor([[1, 5, 9, 3]])
TOKENS = {"use": "pooled_view", "layout": "tokens", "prefix": 1, "out": 2}
KINDS: dict[str, tuple[Any, list[int]]] = {
    "linear": ({"use": "linear", "out": 3, "bias": False}, [2, 17, 3]),
    "mlp": (HEAD, [2, 17, 3]),
    "pooled_view": (TOKENS, [2, 2]),
    "conv": ({"use": "conv", "layout": "tokens", "prefix": 1, "channels": [4, 4], "out": 1,
              "stride": 2, "upscale": 3}, [2, 1, 3, 3]),
}  # fmt: skip
sizes = st.integers(1, 4)


def llama() -> Any:
    return models.llama()


@torch.no_grad()
def answer(model: Any) -> Any:
    return model(IDS)


def test_the_models_own_outputs_stay_bit_for_bit() -> None:
    model = llama()
    before, tensors = answer(model), models.bits(model)
    with surgery.apply(model, STEPS) as applied:
        after = answer(model)
        assert torch.equal(after.logits, before.logits)
        assert set(after) == {*before, "score", "linear"}
        assert torch.equal(after["score"], attached(model)["score"])
        assert tuple(after.score.shape) == (1, 4, 3)
        names = {"score.0", "score.2", "linear"}
        wanted = {f"{n}.{leaf}" for n in names for leaf in ("weight", "bias")}
        assert set(applied.plan.trainable) == wanted
    assert set(answer(model)) == set(before)
    assert models.same_bits(tensors, models.bits(model))
    assert type(model) is transformers.LlamaForCausalLM


def test_what_feeds_a_module_is_what_the_site_gives() -> None:
    model = llama()
    with surgery.apply(model, attach("score", "model.norm", HEAD)):
        seen: list[torch.Tensor] = []
        handle = model.model.norm.register_forward_hook(lambda m, args, out: seen.append(out))
        found = answer(model).score
        assert torch.equal(found, model.score(seen[0]))
        handle.remove()


class Writing(nn.Module):
    """Write into the list that its part gave, as SAM 3's tracker does."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Listing()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.part(x)
        found[0] = found[0].sum(-1)
        return found[0]


class Listing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x * self.factor]


def test_what_the_model_does_with_an_output_afterwards_does_not_matter() -> None:
    model, x = Writing(), torch.randn(2, 3, 4)
    with surgery.apply(model, attach("score", "part", HEAD, output="0"), inputs={"x": x}):
        model(x)
        assert torch.equal(attached(model)["score"], model.score(x * 2))


def test_gradients_flow_to_the_attached_module_alone() -> None:
    model = llama()
    with surgery.apply(model, STEPS):
        model.train()
        out = model(IDS)
        (out.score.square().sum() + out.linear.sum()).backward()
        for name, parameter in model.named_parameters():
            beside = name.startswith(("score.", "linear."))
            assert (parameter.grad is not None and bool(parameter.grad.any())) == beside, name


@pytest.mark.parametrize("detach", [False, True])
def test_a_detached_module_teaches_the_model_nothing(detach: bool) -> None:
    model = llama()
    with surgery.apply(model, attach("score", "model.norm", HEAD, detach=detach)):
        model(IDS).score.sum().backward()
        reached = [n for n, p in model.named_parameters() if p.grad is not None]
        assert any(n.startswith("score.") for n in reached)
        assert any(not n.startswith("score.") for n in reached) is not detach


def test_it_trains_while_the_model_is_held_in_eval_mode() -> None:
    model = llama()
    with surgery.apply(model, STEPS):
        model.train()
        modes = {n: m.training for n, m in model.named_modules()}
        assert {n for n, training in modes.items() if training} == {
            n for n in modes if n.split(".")[0] in ("score", "linear")
        }
        model.eval()
        assert not any(m.training for m in model.modules())


def test_a_training_step_changes_it_and_nothing_else() -> None:
    model = llama()
    with surgery.apply(model, STEPS) as applied:
        before = models.bits(model)
        free = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(free, lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            out = model(IDS)
            (out.score.square().sum() + out.linear.square().sum()).backward()
            optimizer.step()
        after = models.bits(model)
        moved = {n for n in before if not torch.equal(before[n][3], after[n][3])}
        assert moved == set(applied.plan.trainable)


@pytest.mark.parametrize("save", ["changed", "full"])
def test_live_and_streamed_outputs_are_equal_and_load(save: str, tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base", max_shard_size="20KB")
    live = run(tmp_path / "base", STEPS, "live", "live", save)
    stream = run(tmp_path / "base", STEPS, "stream", "stream", save)
    assert live.mode is not None
    assert stream.mode is not None
    assert (live.mode.streamed, stream.mode.streamed) == (False, True)
    assert files(tmp_path / "live") == files(tmp_path / "stream")
    assert not [c for c in verify(tmp_path / "live", registry()) if c.status == "failed"]
    model = llama()
    with surgery.apply(model, STEPS):
        loaded = surgery.load(tmp_path / "stream", base=tmp_path / "base")
        again, wanted = answer(loaded.model), answer(model)
        assert torch.equal(again.score, wanted.score)
        assert torch.equal(again.linear, wanted.linear)
        assert torch.equal(again.logits, wanted.logits)
    loaded.undo()
    assert type(loaded.model) is transformers.LlamaForCausalLM
    assert not hasattr(loaded.model, "score")


def test_what_was_trained_is_saved_and_loaded(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    loaded = surgery.load(run(tmp_path / "base", STEPS, "auto", "out", "changed").folder)
    with torch.no_grad():
        loaded.model.score[0].weight.mul_(3)
    loaded.save(tmp_path / "trained")
    again = surgery.load(tmp_path / "trained")
    assert torch.equal(answer(again.model).score, answer(loaded.model).score)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_its_shape_live_and_after_a_copy(kind: str) -> None:
    module, shape = KINDS[kind]
    model, images = models.vit(), torch.randn(2, 3, 32, 32)
    with surgery.apply(model, attach("extra", "vit.layernorm", module)) as applied:
        assert f"makes: {[1, *shape[1:]]}" in applied.plan.steps[0].notes
        found = model(images).extra
        assert list(found.shape) == shape
        assert torch.equal(deepcopy(model)(images).extra, found)


def test_another_attachment_changes_no_values() -> None:
    one, two = llama(), llama()
    others = [attach("other", "model.norm", HEAD), attach("score", "model.norm", HEAD)]
    surgery.apply(one, attach("score", "model.norm", HEAD))
    surgery.apply(two, others)
    for name, tensor in one.score.state_dict().items():
        assert torch.equal(two.score.state_dict()[name], tensor)
    assert not torch.equal(two.other[0].weight, two.score[0].weight)


def test_fresh_values_are_those_of_the_class() -> None:
    model = llama()
    with surgery.apply(model, attach("wide", "model.norm", {"use": "linear", "out": 4000})):
        bound = 32**-0.5  # nn.Linear draws uniform numbers within 1 / sqrt(in)
        weight = model.wide.weight.detach()
        assert weight.abs().max() <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_values_do_not_move_the_generator_of_others() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    model = llama()
    torch.manual_seed(5)
    surgery.apply(model, attach("score", "model.norm", HEAD))
    assert torch.equal(torch.rand(3), wanted)


def test_a_model_whose_output_has_no_names_gives_it_apart() -> None:
    model, inputs = plain()
    with torch.no_grad():
        before = model(**inputs)
    last = {**attach("last", None, HEAD), "at": {"type": "Plain"}}
    steps = [attach("extra", "first", HEAD), last]
    with surgery.apply(model, steps, inputs=inputs) as applied:
        assert attached(model) == {}
        with torch.no_grad():
            assert torch.equal(model(**inputs), before)
            made = attached(model)
            assert torch.equal(made["extra"], model.extra(model.first(inputs["x"])))
            assert torch.equal(made["last"], model.last(before))
        assert "by attached(model)" in " ".join(applied.plan.steps[0].notes)


def test_the_dtype_follows_what_feeds_it_or_the_recipe() -> None:
    model = llama().to(torch.bfloat16)
    steps = [attach("one", "model.norm", HEAD), attach("two", "model.norm", HEAD, dtype="float32")]
    with surgery.apply(model, steps):
        out = answer(model)
        assert (out.one.dtype, out.two.dtype) == (torch.bfloat16, torch.float32)


def test_a_plugin_offers_more(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    known = registry((plugin,))
    model = llama()
    step = attach("scaled", "model.norm", {"use": "mine/scale", "by": 2.0})
    with surgery.apply(model, step, plugins=known) as applied:
        assert torch.equal(model.scaled.factor.detach(), torch.full((32,), 2.0))
        assert tuple(answer(model).scaled.shape) == (1, 4, 32)
        assert "scaled.factor" in applied.plan.trainable


PLUGIN = '''
import torch
from torch import nn
from surgery.hooks.specs import hookimpl
from surgery.operate.attachment import Attachment


class Scaling(nn.Module):
    def __init__(self, features, by):
        super().__init__()
        self.factor = nn.Parameter(torch.full((features,), by))

    def forward(self, x):
        return x * self.factor


class Scale(Attachment):
    """Scale features."""
    name = "mine/scale"
    by: float = 1.0

    def build(self, features):
        return Scaling(features, self.by)


@hookimpl
def surgery_attachments():
    return (Scale,)
'''


@settings(max_examples=25)
@given(batch=sizes, channels=sizes, side=sizes, prefix=st.integers(0, 3), seed=st.integers(0, 9))
def test_layouts_are_the_same_features(
    batch: int, channels: int, side: int, prefix: int, seed: int
) -> None:
    torch.manual_seed(seed)
    image = torch.randn(batch, channels, side, side)
    first = ConvEncoder([channels, 4], 2, 3, 1, 2, "channels_first", 0)
    pooled = PooledEncoder([channels, 3], "channels_first", 0)
    layouts: list[tuple[Layout, int]] = [("channels_last", 0), ("tokens", prefix)]
    for layout, skipped in layouts:
        given = laid_out(image, layout, skipped)
        _same(first, ConvEncoder([channels, 4], 2, 3, 1, 2, layout, skipped), image, given)
        _same(pooled, PooledEncoder([channels, 3], layout, skipped), image, given)


def _same(one: nn.Module, two: nn.Module, image: torch.Tensor, given: torch.Tensor) -> None:
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(image), two(given))
