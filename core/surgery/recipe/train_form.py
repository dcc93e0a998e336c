"""The form of ``train:``; options of the objective and of data are checked against plugins."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from surgery.recipe.schema import AtForm, Form

_Share: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0)]
_Count: TypeAlias = Annotated[int, Field(ge=1)]
Level: TypeAlias = Literal["error", "warn", "off"]
"""What a guard does when it finds something."""

Guard: TypeAlias = Literal[
    "doctors", "trainable", "optimizer", "frozen", "held", "gradients", "teachers", "moved",
    "loss", "ranks",
]  # fmt: skip
"""What stops a training that would teach nothing."""


class Use(Form):
    """Name what a plugin offers; the other keys are its options."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    use: str = Field(description="Name of what a plugin offers.")


class OptimizerForm(Form):
    """The optimizer."""

    name: Literal["adamw", "adam", "sgd"] = Field("adamw", description="Algorithm, torch's own.")
    lr: float = Field(1e-4, gt=0, description="Learning rate after the warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="Decay of weights of two axes or more.")
    betas: tuple[_Share, _Share] = Field((0.9, 0.999), description="Averages of Adam.")
    eps: float = Field(1e-8, gt=0, description="Term in Adam's denominator.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of SGD.")


class GroupForm(Form):
    """Parameters with settings of their own."""

    at: AtForm | None = Field(None, description="Sites whose parameters belong to the group.")
    tensors: str | None = Field(None, description="Glob over names of tensors, such as '**_B'.")
    lr: float | None = Field(None, gt=0, description="Learning rate of the group.")
    scale: float | None = Field(None, gt=0, description="Factor on the learning rate (LoRA+).")
    weight_decay: float | None = Field(None, ge=0, description="Weight decay of the group.")

    @model_validator(mode="after")
    def _one(self) -> GroupForm:
        if (self.at is None) == (self.tensors is None):
            raise ValueError("expected one of at and tensors, got " + _both(self.at, self.tensors))
        if self.lr is not None and self.scale is not None:
            raise ValueError("expected one of lr and scale, got both")
        return self


class ScheduleForm(Form):
    """How the learning rate moves."""

    name: Literal["constant", "linear", "cosine"] = Field("cosine", description="Its shape.")
    warmup: int | float = Field(0, ge=0, description="Steps, or a share of all steps below 1.")
    floor: _Share = Field(0.0, description="Share of the learning rate at the end.")


class EvaluateForm(Form):
    """When and by what a model is judged."""

    every: _Count | None = Field(None, description="Steps between two evaluations.")
    metric: str = Field("loss", description="What decides which checkpoint is best.")
    patience: _Count | None = Field(
        None, description="Evaluations without a better metric after which training ends."
    )
    batches: _Count | None = Field(None, description="At most so many batches.")


class SaveForm(Form):
    """When checkpoints are written."""

    every: _Count | None = Field(None, description="Steps between two checkpoints.")
    keep: _Count = Field(2, description="How many of the last ones stay; the best always stays.")
    output: Literal["last", "best"] = Field(
        "last", description="Which state the result holds: the last, or the best by the metric."
    )


class EmaForm(Form):
    """An average of the trained tensors, in float32."""

    decay: float = Field(gt=0, lt=1, description="Share of the old average in each step.")


class LogForm(Form):
    """What is recorded while training."""

    every: _Count = Field(10, description="Steps between two records.")
    trackers: list[str] = Field(
        ["tensorboard"], description="Trackers by name, beside metrics.jsonl."
    )


class TrainForm(Form):
    """How a patient is trained after its surgeries."""

    objective: Use = Field(description="What turns samples into a loss.")
    data: Use | list[Use] = Field(description="Samples to train on; several are mixed by weight.")
    evaluation: Use | None = Field(None, description="Samples to judge by, never trained on.")
    engine: Use | None = Field(
        None, description="What runs the steps; by default the loop that comes with surgery."
    )
    steps: _Count | None = Field(None, description="Optimizer steps; or give epochs.")
    epochs: _Count | None = Field(None, description="Passes over the samples; or give steps.")
    batch: _Count = Field(8, description="Samples of one optimizer step, over all processes.")
    micro: _Count | None = Field(None, description="Samples of one forward; by default batch.")
    group_by_length: bool = Field(
        False,
        description="Batches of texts of about one length, so that little is padded; all samples "
        "are read once to count their tokens.",
    )
    optimizer: OptimizerForm = Field(OptimizerForm(), description="The optimizer.")
    schedule: ScheduleForm = Field(ScheduleForm(), description="How the learning rate moves.")
    groups: list[GroupForm] = Field([], description="Parameters with settings of their own.")
    clip: float | None = Field(1.0, gt=0, description="Largest norm of all gradients.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Autocast of forwards; trained tensors stay float32."
    )
    strategy: Literal["auto", "none", "ddp", "fsdp2"] = Field(
        "auto", description="How processes work together; auto is ddp where there are several."
    )
    offload: bool = Field(
        False, description="With fsdp2 on an accelerator: shards wait in main memory."
    )
    recompute: bool = Field(False, description="Keep layers' inputs and recompute the rest.")
    ema: EmaForm | None = Field(None, description="An average of the trained tensors.")
    evaluate: EvaluateForm = Field(EvaluateForm(), description="When a model is judged.")
    save: SaveForm = Field(SaveForm(), description="When checkpoints are written.")
    log: LogForm = Field(LogForm(), description="What is recorded.")
    workers: int = Field(0, ge=0, description="Processes that read samples.")
    max_failed: _Share = Field(0.0, description="Share of samples that may fail to be read.")
    guards: dict[Guard, Level] = Field({}, description="Guards that warn or are off.")
    seed: int | None = Field(None, ge=0, description="Seed of order, dropout and augmentation.")
    run: str | None = Field(None, description="Folder of the run; by default OUTPUT-run.")

    @model_validator(mode="after")
    def _ends(self) -> TrainForm:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                "expected one of steps and epochs, got " + _both(self.steps, self.epochs)
            )
        if self.offload and self.strategy != "fsdp2":
            raise ValueError(f"expected strategy fsdp2 beside offload, got {self.strategy}")
        if self.save.output == "best" and self.evaluation is None:
            raise ValueError("expected an evaluation beside `save: {output: best}`, got none")
        if self.micro is not None and self.batch % self.micro:
            raise ValueError(f"expected a micro that divides batch {self.batch}, got {self.micro}")
        return self


def _both(one: object, other: object) -> str:
    return "both" if one is not None and other is not None else "none"
