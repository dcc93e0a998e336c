"""What is extracted from two checkpoints makes the tuned one of its base again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.anatomy.selector import Selector
from surgery.checkpoint.spectrum import Matrix, holding, leading
from surgery.errors import PluginError, RefusedError
from surgery.flow.extract import Extracted, Wanted, extract
from tests.command import Ran
from tests.diff.conftest import gpt2, llama, mixtral, stir

IDS = torch.tensor([[1, 5, 7, 3, 9]])


def both(tmp_path: Path, build: Callable[[], nn.Module], *endings: str, **more: Any) -> nn.Module:
    """Write a base and a tuned checkpoint, and give the tuned model."""
    model: Any = build()
    model.save_pretrained(tmp_path / "base")
    tuned: Any = stir(build(), *endings, **more)
    tuned.save_pretrained(tmp_path / "tuned")
    return tuned


ALL = Wanted(energy=0.999999)


def extracted(tmp_path: Path, wanted: Wanted = ALL) -> Extracted:
    return extract(tmp_path / "tuned", tmp_path / "base", tmp_path / "out", wanted)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(IDS).logits
    return result


def tied() -> nn.Module:
    return llama(tie_word_embeddings=True)


@pytest.mark.parametrize(
    ("build", "endings", "count"),
    [
        (llama, ("q_proj.weight", "down_proj.weight"), 4),
        (llama, ("embed_tokens.weight", "lm_head.weight"), 2),
        (tied, ("embed_tokens.weight",), 2),
        (gpt2, ("c_attn.weight", "mlp.c_proj.weight"), 4),
        (mixtral, ("experts.gate_up_proj", "experts.down_proj", "v_proj.weight"), 6),
    ],
    ids=["linear", "tables", "tied", "conv1d", "experts"],
)
def test_the_output_loads_as_the_tuned_model(
    tmp_path: Path, build: Callable[[], nn.Module], endings: tuple[str, ...], count: int
) -> None:
    tuned = both(tmp_path, build, *endings)
    made = extracted(tmp_path)
    assert len(made.fits) == count
    assert {fit.rank for fit in made.fits} == {2}
    assert max(fit.error for fit in made.fits) < 1e-5
    loaded = surgery.load(tmp_path / "out")
    assert torch.allclose(logits(loaded.model), logits(tuned), atol=1e-5)
    base: Any = build()
    assert not torch.allclose(logits(base), logits(tuned), atol=1e-3)


def test_a_part_of_a_fused_weight_is_extracted_alone(tmp_path: Path) -> None:
    tuned = both(tmp_path, gpt2, "c_attn.weight")
    made = extracted(tmp_path, Wanted(energy=0.999999, at=Selector(role=("attention.v",))))
    assert [fit.path for fit in made.fits] == [
        f"transformer.h.{n}.attn.c_attn attention.v" for n in (0, 1)
    ]
    base: Any = gpt2()
    with torch.no_grad():
        for new, old in zip(tuned.transformer.h, base.transformer.h, strict=True):
            old.attn.c_attn.weight[:, 32:] = new.attn.c_attn.weight[:, 32:]
    loaded = surgery.load(tmp_path / "out")
    assert torch.allclose(logits(loaded.model), logits(base), atol=1e-5)


def test_kernels_in_groups_have_a_part_each(tmp_path: Path) -> None:
    from transformers import ConvNextConfig, ConvNextModel

    def convnext() -> nn.Module:
        torch.manual_seed(0)
        config = ConvNextConfig(
            num_channels=3, hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, patch_size=2
        )
        return ConvNextModel(config).eval()

    both(tmp_path, convnext, "dwconv.weight", "embeddings.patch_embeddings.weight")
    made = extracted(tmp_path)
    assert {fit.rank for fit in made.fits if "dwconv" in fit.path} == {8}
    assert max(fit.error for fit in made.fits) < 1e-5
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tuned = ConvNextModel.from_pretrained(tmp_path / "tuned").eval()
    with torch.no_grad():
        wanted = tuned(x).last_hidden_state
        found = surgery.load(tmp_path / "out").model(x).last_hidden_state
    assert torch.allclose(wanted, found, atol=1e-5)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_the_energy_that_is_missed_is_at_most_what_was_allowed(
    tmp_path: Path, energy: float
) -> None:
    both(tmp_path, llama, "q_proj.weight", "up_proj.weight", rank=16)
    made = extracted(tmp_path, Wanted(energy=energy))
    for fit in made.fits:
        assert fit.error**2 <= 1 - energy + 1e-6
    base, tuned = llama(), stir(llama(), "q_proj.weight", "up_proj.weight", rank=16)
    for fit in made.fits:
        delta = tuned.get_parameter(f"{fit.path}.weight") - base.get_parameter(f"{fit.path}.weight")
        s = torch.linalg.svdvals(delta.detach().double()).square()
        held = s.cumsum(0) / s.sum()
        assert fit.rank == int((held < energy - 1e-6).sum()) + 1


def test_a_rank_that_is_given_is_used_and_is_the_best(tmp_path: Path) -> None:
    both(tmp_path, llama, "q_proj.weight", rank=16)
    made = extracted(tmp_path, Wanted(rank=3))
    base, tuned = llama(), stir(llama(), "q_proj.weight", rank=16)
    for fit in made.fits:
        assert fit.rank == 3
        name = f"{fit.path}.weight"
        delta = (tuned.get_parameter(name) - base.get_parameter(name)).detach().double()
        s = torch.linalg.svdvals(delta).square()
        assert fit.error == pytest.approx(float((s[3:].sum() / s.sum()).sqrt()), rel=1e-3)
        assert fit.norm == pytest.approx(float(delta.norm()), rel=1e-5)


def test_half_precision_is_extracted_in_float32(tmp_path: Path) -> None:
    both(tmp_path, lambda: llama().to(torch.bfloat16), "q_proj.weight")
    made = extracted(tmp_path, Wanted(rank=8))
    assert max(fit.error for fit in made.fits) < 0.05
    names = surgery.load(tmp_path / "out").model.state_dict()
    kinds = {t.dtype for n, t in names.items() if "lora" in n}
    assert kinds == {torch.float32}


def test_peft_reads_the_exported_adapter(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from surgery_plugins.peft.export import export_adapter

    tuned = both(tmp_path, llama, "q_proj.weight", "up_proj.weight")
    extracted(tmp_path)
    (tmp_path / "peft").mkdir()
    export_adapter(surgery.load(tmp_path / "out").model, "default", tmp_path / "peft")
    model = peft.PeftModel.from_pretrained(llama(), tmp_path / "peft")
    assert torch.allclose(logits(model), logits(tuned), atol=1e-5)


def test_an_output_with_an_adapter_is_no_change_of_the_base(tmp_path: Path) -> None:
    both(tmp_path, llama, "q_proj.weight")
    extracted(tmp_path)
    with pytest.raises(RefusedError, match="none that changed"):
        extract(tmp_path / "out", tmp_path / "base", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_each_change_that_is_expressed_is_reported(tmp_path: Path) -> None:
    both(tmp_path, llama, "q_proj.weight", "down_proj.weight")
    said: list[tuple[str, int, int]] = []
    place = [tmp_path / name for name in ("tuned", "base", "out")]
    extract(*place, ALL, report=lambda *what: said.append(what))
    counts = [("express", done, 4) for done in range(5)]
    assert said == [("compare", 0, 0), *counts, ("write", 0, 0)]


def test_where_nothing_changed_there_is_nothing_to_extract(tmp_path: Path) -> None:
    both(tmp_path, llama)
    with pytest.raises(RefusedError, match="none that changed"):
        extracted(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_cast_alone_is_no_change(tmp_path: Path) -> None:
    model: Any = llama().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    model.float().save_pretrained(tmp_path / "tuned")
    with pytest.raises(RefusedError, match="none that changed"):
        extracted(tmp_path)


def test_what_is_no_matrix_is_noted(tmp_path: Path) -> None:
    tuned: Any = both(tmp_path, llama, "q_proj.weight")
    with torch.no_grad():
        tuned.model.norm.weight.mul_(2)
    tuned.save_pretrained(tmp_path / "tuned")
    made = extracted(tmp_path)
    assert any("model.norm.weight" in note and "no matrix" in note for note in made.notes)
    alone = Wanted(at=Selector(path=("model.norm",)))
    with pytest.raises(RefusedError, match="none of them selected and fit"):
        extract(tmp_path / "tuned", tmp_path / "base", tmp_path / "x", alone)


def test_a_table_that_grew_is_noted(tmp_path: Path) -> None:
    tuned: Any = both(tmp_path, llama, "q_proj.weight")
    tuned.resize_token_embeddings(50, mean_resizing=False)
    tuned.save_pretrained(tmp_path / "tuned")
    made = extracted(tmp_path)
    assert len(made.fits) == 2
    assert sum("its shape was [48, 16] and is [50, 16]" in note for note in made.notes) == 2


def test_a_change_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    tuned: Any = both(tmp_path, llama, "q_proj.weight")
    with torch.no_grad():
        tuned.model.layers[0].self_attn.q_proj.weight[0, 0] = float("nan")
    tuned.save_pretrained(tmp_path / "tuned")
    with pytest.raises(RefusedError, match="a finite change"):
        extracted(tmp_path)


def test_a_surgery_that_cannot_express_changes_is_refused(tmp_path: Path) -> None:
    both(tmp_path, llama, "q_proj.weight")
    with pytest.raises(PluginError, match="one that can express changes"):
        extracted(tmp_path, Wanted(use="freeze"))


@pytest.mark.parametrize("shape", [(70, 50), (50, 70)])
def test_blocks_give_the_singular_values_of_the_whole(shape: tuple[int, int]) -> None:
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix = Matrix(*shape, lambda: iter(whole.split(7)))
    exact = torch.linalg.svdvals(whole)
    found = leading(matrix, 50)
    assert torch.allclose(found.s, exact, atol=1e-4)
    assert torch.allclose(found.u * found.s @ found.v.mT, whole, atol=1e-4)
    few = leading(matrix, 5)
    assert torch.allclose(few.s, exact[:5], rtol=0.03)
    assert len(holding(matrix, 1.0, matrix.energy()).s) == 50


def test_the_command_writes_and_says_what_it_wrote(tmp_path: Path, run: Callable[..., Ran]) -> None:
    both(tmp_path, llama, "q_proj.weight", "v_proj.weight")
    where = (tmp_path / "tuned", tmp_path / "base", "--out", tmp_path / "out")
    ran = run("extract", *where, "--at", "role=attention.q", "--at", "layers=1", "--json")
    assert ran.status == 0
    assert [one["path"] for one in ran.json["weights"]] == ["model.layers.1.self_attn.q_proj"]
    assert run("extract", *where).status == 1
    ran = run("extract", *where, "--force", "--rank", 1)
    assert (ran.status, "rank 1, relative error" in ran.out) == (0, True)
    journal = json.loads((tmp_path / "out" / "surgery.json").read_text())
    assert [step["use"] for step in journal["steps"]] == ["lora"]
    assert run("verify", tmp_path / "out").status == 0
    assert run("extract", *where, "--rank", 1, "--energy", 0.5).status == 2
    assert run("extract", *where, "--at", "role").status == 2
