"""Laws of casts: exact rounding, tables and complex numbers stay, models run, undo is exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import surgery
from surgery.anatomy.inputs import real_inputs
from surgery.errors import SurgeryError
from surgery.flow.verify import verify
from surgery.hooks.registry import registry
from surgery.operate.patient import Patient
from surgery.operate.table import named_tensors
from surgery_plugins.surgeries.cast.choose import Found, chosen, is_position, stays
from tests.rope import kit as models
from tests.rope import lookalike
from tests.stream import models as stored
from tests.stream.test_equal import files, run

KINDS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
REAL = ("float64", "float32", "bfloat16", "float16")
MODELS: dict[str, Callable[[], Any]] = {
    name: getattr(models, name)
    for name in ("vit", "dinov2", "siglip", "llama", "gemma3", "sam3_trunk", "sam3_tracker", "sam2")
}


def cast(dtype: str = "bfloat16", at: Any = None, **options: Any) -> dict[str, Any]:
    where = {} if at is None else {"at": at}
    return {"use": "cast", **where, "with": {"dtype": dtype, **options}}


def first(out: Any) -> torch.Tensor:
    return next(v for v in out.values() if torch.is_tensor(v) and v.is_floating_point())


@pytest.mark.parametrize("name", MODELS)
def test_the_model_runs_in_the_new_dtype_close_to_the_old(name: str) -> None:
    model = MODELS[name]()
    before, config = models.bits(model), model.config.to_dict()
    inputs = real_inputs(model)
    narrow = {k: v.bfloat16() if v.is_floating_point() else v for k, v in _tensors(inputs)}
    with torch.no_grad():
        wanted = first(model(**inputs))
        with surgery.apply(model, cast()) as applied:
            found = first(model(**{**inputs, **narrow}))
            kept = [n for n, t, _ in named_tensors(model) if t.dtype == torch.float32]
            assert kept
            now = models.bits(model)
            assert all(torch.equal(now[one][3], before[one][3]) for one in kept)
            assert any("keeps its precision" in note for note in applied.plan.steps[0].notes)
        assert torch.equal(first(model(**inputs)), wanted)
    assert found.dtype == torch.bfloat16
    assert float((found.float() - wanted).norm() / wanted.norm()) < 0.05
    assert models.same_bits(before, models.bits(model))
    assert model.config.to_dict() == config


def _tensors(inputs: Any) -> list[tuple[str, torch.Tensor]]:
    return [(k, v) for k, v in inputs.items() if torch.is_tensor(v)]


def test_all_else_is_rounded_as_torch_rounds() -> None:
    model = models.sam3_trunk()
    before = models.bits(model)
    with surgery.apply(model, cast("float16")):
        for name, (_, dtype, _, values) in models.bits(model).items():
            old = before[name][3]
            table = is_position(name) or "position_ids" in name
            rounds = old.is_floating_point() and not table
            assert torch.equal(values, old.half() if rounds else old), name
            assert dtype == (torch.float16 if rounds else old.dtype), name


def test_complex_tables_stay_and_the_trunk_still_runs() -> None:
    model = lookalike.Trunk((126, 126)).eval()
    before = models.bits(model)
    names = [name for name, found in before.items() if found[3].is_complex()]
    assert names
    with surgery.apply(model, cast()) as applied, torch.no_grad():
        now = models.bits(model)
        assert all(torch.equal(now[name][3], before[name][3]) for name in names)
        assert any("complex numbers have no other dtype" in n for n in applied.plan.steps[0].notes)
        assert model(torch.randn(1, 3, 126, 126).bfloat16()).dtype == torch.bfloat16
    with pytest.raises(SurgeryError, match="imaginary part would be lost"):
        surgery.apply(model, cast(tables=["**.freqs_cis"]))
    assert models.same_bits(before, models.bits(model))


def test_named_tables_are_cast_and_named_tensors_stay() -> None:
    model = models.vit()
    table = "vit.embeddings.position_embeddings"
    keep = ["**.layernorm_before.weight", "classifier.*"]
    step = cast(tables=["**.position_embeddings"], keep=keep)
    with surgery.apply(model, step), torch.no_grad():
        state = model.state_dict()
        assert state[table].dtype == torch.bfloat16
        assert state["vit.layers.0.layernorm_before.weight"].dtype == torch.float32
        assert state["classifier.weight"].dtype == torch.float32
        assert model(torch.randn(1, 3, 32, 32).bfloat16()).logits.dtype == torch.bfloat16
        assert model.config.dtype != torch.bfloat16


def test_kept_weights_train_in_full_precision_while_the_rest_flows_in_half() -> None:
    model = models.vit()
    with surgery.apply(model, cast(keep=["classifier.*"])):
        model(torch.randn(1, 3, 32, 32).bfloat16()).logits.sum().backward()
        grad = model.classifier.weight.grad
        assert grad is not None
        assert grad.dtype == torch.float32


def test_only_the_sites_are_cast() -> None:
    model = models.clip()
    config = model.config.to_dict()
    with surgery.apply(model, cast(at={"path": "vision_model"})):
        wide = {n.split(".")[0] for n, p in model.named_parameters() if p.dtype == torch.float32}
        narrow = {n.split(".")[0] for n, p in model.named_parameters() if p.dtype != torch.float32}
        assert narrow == {"vision_model"}
        assert "text_model" in wide
        assert model.config.to_dict() == config


@pytest.mark.parametrize("path", ["vit.layers.*", "vit", "vit.layers.0.mlp", "classifier"])
def test_a_part_converts_at_its_edges(path: str) -> None:
    model, image = models.vit(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted = model(image).logits
        with surgery.apply(model, cast(at={"path": path}, convert=True)):
            out = model(image, output_hidden_states=True)
            assert type(out).__name__ == "ImageClassifierOutput"
            assert out.logits.dtype == torch.float32
            assert 0 < float((out.logits - wanted).norm() / wanted.norm()) < 0.05
        assert torch.equal(model(image).logits, wanted)


def test_a_layer_that_converts_twice_runs_in_the_last_dtype() -> None:
    model, ids = models.llama(), torch.tensor([[1, 2, 3]])
    steps = [cast(kind, {"path": "model.layers.0"}, convert=True) for kind in REAL[2:]]
    seen: list[torch.dtype] = []
    with surgery.apply(model, steps), torch.no_grad():
        mlp = model.model.layers[0].mlp
        handle = mlp.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
        assert model(ids).logits.dtype == torch.float32
        handle.remove()
    assert seen == [torch.float16]


def test_casting_back_lets_go_of_what_was_held() -> None:
    model = models.vit()
    image = torch.randn(1, 3, 32, 32)
    rounded = models.vit()
    for name, parameter in rounded.named_parameters():
        if not is_position(name):
            parameter.data = parameter.data.bfloat16().float()
    with surgery.apply(model, [cast(), cast("float32")]), torch.no_grad():
        assert torch.equal(model(image).logits, rounded(image).logits)


def test_a_part_of_what_is_held_can_be_cast_again() -> None:
    model = models.vit()
    path = "vit.embeddings.cls_token"
    steps = [cast(keep=["**.cls_token"]), cast("float16", {"path": path}, keep=[path], tables=[])]
    with pytest.raises(SurgeryError, match="a tensor that is cast"):
        surgery.apply(model, steps)
    steps[1] = cast("bfloat16", {"path": path})
    with surgery.apply(model, steps), torch.no_grad():
        assert model.vit.embeddings.cls_token.dtype == torch.bfloat16
        assert model.vit.embeddings._parameters["position_embeddings"].dtype == torch.float32
        assert model(torch.randn(1, 3, 32, 32).bfloat16()).logits.dtype == torch.bfloat16


def test_ties_hold() -> None:
    model = stored.MODELS["llama tied"]()
    with surgery.apply(model, cast()):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.lm_head.weight.dtype == torch.bfloat16


def test_adapters_keep_their_dtype() -> None:
    model = models.llama()
    lora = {"use": "lora", "at": {"role": "attention.q"}, "with": {"rank": 2}}
    with surgery.apply(model, [lora, cast()]), torch.no_grad():
        kinds = {n.rpartition(".")[2]: p.dtype for n, p in model.named_parameters()}
        assert kinds["weight"] == torch.bfloat16
        assert {d for n, d in kinds.items() if n.startswith("lora")} == {torch.float32}
        assert model(torch.tensor([[1, 2]])).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("save", ["changed", "full"])
@pytest.mark.parametrize("name", ["llama tied", "vit", "llava"])
def test_live_and_streamed_outputs_are_equal_and_load(name: str, save: str, tmp_path: Path) -> None:
    base = stored.save(name, tmp_path / "base", True)
    step = cast(tables=TABLES[name] if save == "full" else [])
    live = run(base, [step], "live", "live", save)
    stream = run(base, [step], "stream", "stream", save)
    assert live.mode is not None
    assert stream.mode is not None
    assert (live.mode.streamed, stream.mode.streamed) == (False, True)
    assert files(tmp_path / "live") == files(tmp_path / "stream")
    assert not [c for c in verify(tmp_path / "live", registry()) if c.status == "failed"]
    loaded = surgery.load(tmp_path / "stream", base=base)
    model = _plain(name, base)
    with surgery.apply(model, step):
        wanted = {n: (t.dtype, t.detach().clone()) for n, t, _ in named_tensors(model)}
    found = {n: (t.dtype, t) for n, t, _ in named_tensors(loaded.model)}
    assert {n: d for n, (d, _) in found.items()} == {n: d for n, (d, _) in wanted.items()}
    assert all(torch.equal(found[n][1], t) for n, (_, t) in wanted.items())
    loaded.undo()
    before = _plain(name, base).state_dict()
    assert all(torch.equal(t, before[n]) for n, t in loaded.model.state_dict().items())


TABLES: dict[str, list[str]] = {
    "llama tied": [], "vit": ["**.position_embeddings"], "llava": ["**.position_embedding.weight"],
}  # fmt: skip


def test_a_whole_output_says_the_new_dtype_and_refuses_two(tmp_path: Path) -> None:
    base = stored.save("vit", tmp_path / "base", False)
    with pytest.raises(SurgeryError, match=r"position_embeddings.*float32.*save: changed"):
        run(base, [cast()], "auto", "two", "full")
    assert not (tmp_path / "two").exists()
    out = run(base, [cast(tables=TABLES["vit"])], "auto", "one", "full").folder
    plain = _plain("vit", out)
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    assert plain.config.dtype == torch.bfloat16


def _plain(name: str, base: Path) -> Any:
    return type(stored.MODELS[name]()).from_pretrained(base).eval()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an integer dtype": (cast("int8"), "dtype"),
    "what is cast already": (cast("float32"), "a tensor that is cast to float32"),
    "tables that are not there": (cast(tables=["**.freq"]), "cast.tables"),
    "what keep and tables both name": (
        cast(tables=["**.position_embeddings"], keep=["vit.**"]), "a name that keep does not match",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_refused_and_leave_no_trace(name: str) -> None:
    step, message = WRONG[name]
    model = models.vit()
    before = models.bits(model)
    with pytest.raises(SurgeryError, match=message):
        surgery.apply(model, step)
    assert models.same_bits(before, models.bits(model))


def test_integers_are_no_tables() -> None:
    model = torch.nn.Module()
    model.register_buffer("counts", torch.arange(3))
    model.weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(SurgeryError, match="real floating numbers"):
        surgery.apply(Patient(model), cast(tables=["counts"]))


@given(
    now=st.sampled_from((*KINDS, torch.complex64, torch.int64, torch.bool)),
    to=st.sampled_from(KINDS),
    buffer=st.booleans(),
    persistent=st.booleans(),
    name=st.sampled_from(["a.weight", "a.freqs_cis", "model.pos_embed", "wpe.weight"]),
)
def test_what_stays_loses_nothing_and_what_is_cast_is_asked_for(
    now: torch.dtype, to: torch.dtype, buffer: bool, persistent: bool, name: str
) -> None:
    one = Found(name, torch.zeros(2, dtype=now), buffer, persistent or not buffer)
    why = stays(one, to)
    lossless = now.is_floating_point and torch.promote_types(now, to) == to
    table = (buffer and not one.persistent) or is_position(name)
    assert (why is None) == (now.is_floating_point and (lossless or not table))
    cast_too, kept = chosen([one], to, [], [])
    assert bool(cast_too) == (why is None and now != to)
    assert (name in kept) == (why is not None)
    if now.is_complex:
        with pytest.raises(SurgeryError, match="imaginary"):
            chosen([one], to, [name], [])


POSITIONS = {
    "vit.embeddings.position_embeddings": True, "model.embed_positions.weight": True,
    "transformer.wpe.weight": True, "encoder.pos_embed": True, "blocks.0.attn.freqs_cis": True,
    "rotary_emb.inv_freq": True, "embeddings.position_embedding.weight": True,
    "prompt_encoder.shared_embedding.positional_embedding": True,
    "model.embed_tokens.weight": False, "layers.0.self_attn.q_proj.weight": False,
    "lm_head.weight": False, "positive.weight": False, "frequency_head.weight": False,
    "visual.proj": False, "composer.weight": False,
}  # fmt: skip


@pytest.mark.parametrize("name", POSITIONS)
def test_tables_of_positions_are_known_by_their_names(name: str) -> None:
    assert is_position(name) is POSITIONS[name]
