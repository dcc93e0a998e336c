"""The six steps on real classes: who gets a gradient, who moves, and what stops everything."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from surgery.errors import RefusedError, TrainingError
from surgery.operate.patient import Patient
from surgery_plugins.objectives.pseudo_gumbel import run as steps
from surgery_plugins.objectives.pseudo_gumbel.caption import captions, said
from surgery_plugins.objectives.pseudo_gumbel.prompts import allowed_of
from surgery_plugins.objectives.pseudo_gumbel.teacher import MOVED, Teacher
from tests.objectives import kit as others
from tests.pseudo_gumbel import kit

TRAINED = ("q_proj", "v_proj", "multi_modal_projector", "text_hidden_fcs", "upscale")


def learner(**options: Any) -> Patient:
    """Give a patient of which attention, connector, projection and part of the decoder learn."""
    owner = kit.patient(**options)
    for name, parameter in owner.model.named_parameters():
        vision = name.startswith(("vlm.model.vision_tower", "sam.vision", "sam.mask_decoder.tr"))
        parameter.requires_grad_(any(one in name for one in TRAINED) and not vision)
    owner.model.train()
    return owner


def grads(owner: Patient) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in owner.model.named_parameters() if p.grad is not None}


def stepped(owner: Patient, one: Any, seed: int = 0) -> Any:
    batch = kit.batch(owner, one)
    one.teachers(owner.model)
    torch.manual_seed(seed)
    found = one.step(owner.model, batch)
    found.loss.backward()
    return found


def test_everything_trained_gets_a_gradient_and_the_teacher_none() -> None:
    owner, one = learner(), kit.objective()
    (teacher,) = one.teachers(owner.model)
    before = [value.clone() for value in teacher.parameters()]
    batch = kit.batch(owner, one)
    one.step(owner.model, batch).loss.backward()
    for name, parameter in owner.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or bool(parameter.grad.any()), name
    assert all(value.grad is None and not value.requires_grad for value in teacher.parameters())
    assert all(map(torch.equal, before, teacher.parameters()))


def test_cutting_the_caption_changes_what_lies_before_it_and_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, one = learner(), kit.objective()
    stepped(owner, one)
    whole = grads(owner)
    owner.model.zero_grad(set_to_none=True)
    mixed = steps.mixed
    monkeypatch.setattr(steps, "mixed", lambda *given: mixed(*given).detach())
    monkeypatch.setattr(steps, "_watch", lambda soft: None)
    stepped(owner, one)
    cut = grads(owner)
    for name in whole:
        behind = name.startswith(("text_hidden_fcs", "sam"))
        assert torch.equal(whole[name], cut[name]) == behind, name


def test_a_caption_through_which_nothing_is_learned_stops_before_the_step() -> None:
    owner, one = learner(), kit.objective()
    for name, parameter in owner.model.named_parameters():
        parameter.requires_grad_(name.startswith("text_hidden_fcs"))
    with pytest.raises(TrainingError, match=r"gradient from the mask.*no gradient at all"):
        stepped(owner, one)
    why = one.refuse(owner)
    assert why is not None
    assert "nothing of its vision-language model is trained" in why


def test_masks_that_are_saturated_stop_in_the_backward() -> None:
    owner, one = learner(), kit.objective(anchor=0.0, bce=0.0)
    with torch.no_grad():
        owner.model.text_hidden_fcs[-1].weight.zero_()
    with pytest.raises(TrainingError, match="exactly zero"):
        stepped(owner, one)


def test_the_teacher_follows_by_the_decay_and_only_what_is_trained() -> None:
    owner = learner()
    teacher = Teacher(owner.model, 0.9)
    first = {n: v.clone() for n, v in zip(teacher.names, teacher.values, strict=True)}
    assert set(first) == {n for n, p in owner.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in owner.model.parameters():
            parameter.add_(1.0)
    teacher.move(owner.model, 0)
    for name, value in zip(teacher.names, teacher.values, strict=True):
        torch.testing.assert_close(value.data, first[name] + 0.1)
    again = Teacher(owner.model, 0.9)
    again.take(teacher.kept())
    assert all(map(torch.equal, again.values, teacher.values))


def test_a_teacher_of_a_coarser_student_is_kept_in_float32_and_moves() -> None:
    owner = learner()
    owner.model.to(torch.bfloat16)
    teacher = Teacher(owner.model, 0.999)
    old = [value.clone() for value in teacher.values]
    coarse = [value.to(torch.bfloat16) for value in teacher.values]
    with torch.no_grad():
        for parameter in owner.model.parameters():
            parameter.add_(parameter.abs() * 0.02)
    teacher.move(owner.model, 0)
    table = dict(owner.model.named_parameters())
    pairs = [(c, c.lerp(table[n], 0.001)) for n, c in zip(teacher.names, coarse, strict=True)]
    still = sum(int((a == b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)
    moved = sum(int((a != b).sum()) for a, b in zip(old, teacher.values, strict=True))
    assert still > 0.95  # what an average in bfloat16 would have done
    assert moved > 0.9 * sum(a.numel() for a in old)


def test_a_teacher_that_never_moves_stops_the_training() -> None:
    owner, one = learner(), kit.objective(decay=1 - 1e-12)
    one.teachers(owner.model)
    with torch.no_grad():
        for parameter in owner.model.parameters():
            parameter.mul_(1 + 1e-5)
    for number in range(MOVED - 1):
        one.after_step(owner.model, number)
    with pytest.raises(TrainingError, match=r"do not change by one bit.*too near 1"):
        one.after_step(owner.model, MOVED - 1)


def test_the_teacher_speaks_with_its_own_values_and_leaves_the_student_as_it_was() -> None:
    owner, one = learner(), kit.objective()
    (teacher,) = one.teachers(owner.model)
    batch = kit.batch(owner, one)
    before = teacher.ask(owner.model, lambda model: captions(model, batch, 6))
    with torch.no_grad():
        for parameter in owner.model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    state = deepcopy(owner.model.state_dict())
    after = teacher.ask(owner.model, lambda model: captions(model, batch, 6))
    assert all(map(torch.equal, before, after))
    assert all(torch.equal(value, state[n]) for n, value in owner.model.state_dict().items())
    assert owner.model.training
    with torch.no_grad():
        own = captions(owner.model.eval(), batch, 6)
    assert not all(map(torch.equal, own, before))


def test_captions_are_greedy_whatever_stands_beside_them_in_the_batch() -> None:
    owner, one = learner(), kit.objective()
    owner.model.eval()
    batch = kit.batch(owner, one)
    assert len({len(ids) for ids in batch["ask"]}) > 1
    with torch.no_grad():
        together = captions(owner.model, batch, 6)
        for number, caption in enumerate(together):
            alone = {**batch, "ask": batch["ask"][number : number + 1]}
            for name in ("cells", "pixel_values"):
                alone[name] = batch[name][number : number + 1]
            assert torch.equal(captions(owner.model, alone, 6)[0], caption)
            seen = owner.model.see(alone["pixel_values"])
            barred = said(owner.model, alone, seen, [caption])
            allowed = [*batch["allowed"].tolist(), batch["end"]]
            best = torch.tensor(allowed)[barred[:, allowed].argmax(-1)]
            best[0] = caption[0] if best[0] == batch["end"] else best[0]  # one token at least
            assert torch.equal(best, caption)


def test_a_caption_ends_where_the_text_ends_and_has_a_token_at_least() -> None:
    owner, one = learner(), kit.objective()
    end = owner.tokenizer.eos_token_id
    head = owner.model.get_output_embeddings()
    hidden: list[torch.Tensor] = []
    batch = kit.batch(owner, one)
    hook = head.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
    with torch.no_grad():
        captions(owner.model.eval(), batch, 6)
        hook.remove()
        head.weight[end] = hidden[1][0, -1] * 1000
        found = captions(owner.model, batch, 6)
    assert len(found[0]) < 6
    assert all(len(one) >= 1 for one in found)
    assert not any(end in one.tolist() for one in found)


def test_evaluation_draws_nothing() -> None:
    owner, one = learner(), kit.objective()
    batch = kit.batch(owner, one)
    owner.model.eval()
    with torch.no_grad():
        first, second = (float(one.step(owner.model, batch).loss) for _ in range(2))
    assert first == second


def test_the_loss_is_a_mean_over_samples() -> None:
    owner, one = learner(), kit.objective()
    owner.model.eval()
    rows = [one.encode(kit.disc(n), owner, None) for n in range(3)]  # type: ignore[arg-type]
    with torch.no_grad():
        whole = float(one.step(owner.model, one.collate(rows, owner)).loss)
        each = [float(one.step(owner.model, one.collate([row], owner)).loss) for row in rows]
    assert whole == pytest.approx(sum(each) / 3, rel=1e-4)


def test_dice_alone_at_its_ceiling_is_known_as_a_bound() -> None:
    owner, one = learner(), kit.objective(bce=0.0, anchor=0.0)
    found = one.step(owner.model, kit.batch(owner, one))
    assert found.bounds == (0.0, 0.5)


@pytest.mark.parametrize("state", ["token", "before"])
def test_the_state_is_taken_at_the_token_or_before_it(state: str) -> None:
    owner, one = learner(), kit.objective(seg_state=state)
    rows = owner.model.get_input_embeddings().weight
    batch = kit.batch(owner, one)
    owner.model.eval()
    with torch.no_grad():
        before = one.step(owner.model, batch).metrics["dice_of_ceiling"][0]
        rows[batch["seg"]] += 5.0
        after = one.step(owner.model, batch).metrics["dice_of_ceiling"][0]
    assert (float(before) != float(after)) == (state == "token")


def test_a_model_without_a_way_to_masks_is_refused() -> None:
    why = kit.objective().refuse(others.causal())
    assert why is not None
    assert "no way from [SEG] to a mask" in why


def test_spread_tensors_are_refused() -> None:
    class Spread(nn.Parameter):
        device_mesh = "cpu"

    model = nn.Linear(2, 2)
    model.weight = Spread(torch.zeros(2, 2))
    with pytest.raises(RefusedError, match="strategy: ddp"):
        Teacher(model, 0.9)


def test_what_generation_may_not_say_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, one = learner(), kit.objective()
    batch = kit.batch(owner, one)
    made = torch.full((3, 6), batch["seg"])
    monkeypatch.setattr(owner.model.vlm, "generate", lambda **given: made)
    with pytest.raises(TrainingError, match=r"none of them special, got the tokens \[\d+"):
        captions(owner.model, batch, 6)
    assert batch["seg"] not in allowed_of(owner.tokenizer, 1000)
