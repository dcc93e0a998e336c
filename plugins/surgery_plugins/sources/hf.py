"""The source ``hf``: a folder or hub id that transformers reads, or a bare configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from surgery.checkpoint.index import open_checkpoint
from surgery.errors import PatientError, did_you_mean
from surgery.operate.patient import Patient
from surgery.operate.source import Source
from surgery.operate.trust import demand_trust
from surgery_plugins.sources import transformers as hf

if TYPE_CHECKING:
    from torch import nn


class HfSource(Source):
    """Read a model of transformers: from a folder, from a hub, or from a configuration alone."""

    name: ClassVar[str] = "hf"

    path: str | None = Field(default=None, description="A local folder, or the id of a hub.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub id.")
    from_config: str | dict[str, Any] | None = Field(
        default=None,
        description="A config.json, its folder, or the configuration itself, for random weights.",
    )
    architecture: str | None = Field(
        default=None, description="Class to build; by default the one that the config names."
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="Dtype of the weights in memory; by default the checkpoint's."
    )
    seed: int = Field(default=0, ge=0, description="Seed of random weights.")
    may_differ: list[str] = Field(
        default_factory=list,
        description="Tensors that may be missing from the weights or unknown to the model.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run the model's own code; also needs --trust-remote-code on the command line.",
    )

    @model_validator(mode="after")
    def _one_base(self) -> HfSource:
        if (self.path is None) == (self.from_config is None):
            raise ValueError("expected one of path and from_config")
        return self

    def build(self) -> Patient:
        """Build the structure on meta; the tokenizer for real."""
        import torch

        config, cls = self._config()
        with hf.quietly(self._where), torch.device("meta"):
            model = cls._from_config(config, **self._dtype()).eval()
        return self._patient(model, config)

    def load(self) -> Patient:
        """Read the weights, after their files were checked; every one must land."""
        config, cls = self._config()
        if self.path is None:
            return self._patient(self._drawn(config, cls), config)
        folder = self._folder()
        open_checkpoint(folder)
        with hf.quietly(self._where):
            model, info = cls.from_pretrained(
                folder,
                config=config,
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=self.trust_remote_code,
                **self._dtype(),
            )
        hf.raise_complaints(
            hf.complaints(info, _harmless(model) | frozenset(self.may_differ)), self._where
        )
        return self._patient(model.eval(), config)

    def weights(self) -> Mapping[str, Path]:
        """Give the checked safetensors files; none for random weights."""
        return open_checkpoint(self._folder()) if self.path is not None else {}

    def companions(self) -> Mapping[str, Path]:
        """Give config, tokenizer and processor files."""
        if self.path is None:
            return {}
        folder = self._folder()
        return {name: folder / name for name in hf.COMPANIONS if (folder / name).is_file()}

    def save(self, patient: Patient, folder: Path) -> None:
        """Write all weights of the base's own tensors with transformers."""
        from surgery.anatomy.extended import EXTENSIONS, own_tensors

        added = {
            f"{path}.{name}"
            for path, module in patient.model.named_modules()
            if EXTENSIONS in module.__dict__
            for name in own_tensors(module)
        }
        state = {n: t for n, t in patient.model.state_dict().items() if n not in added}
        model: Any = patient.model
        with hf.quietly(self._where):
            model.save_pretrained(folder, state_dict=state)

    def _config(self) -> tuple[Any, Any]:
        transformers = hf.library("patient.source: hf")
        given = self.from_config
        if isinstance(given, dict):
            config = self._read(transformers, dict(given), "patient.from_config")
        else:
            folder = self._folder() if given is None else Path(given).expanduser()
            folder = folder.parent if folder.name == "config.json" else folder
            if self.trust_remote_code:
                demand_trust(self._where)
                with hf.quietly(self._where):
                    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
            else:
                config = self._read(transformers, hf.read_config(folder), str(folder))
        return config, hf.class_of(config, self.architecture, self._where)

    def _read(self, transformers: Any, data: dict[str, Any], where: str) -> Any:
        kind = data.pop("model_type", None)
        if kind not in transformers.CONFIG_MAPPING:
            raise PatientError(
                f"{where}: model_type",
                "a model type of transformers",
                repr(kind),
                did_you_mean(str(kind), transformers.CONFIG_MAPPING),
            )
        with hf.quietly(where):
            return transformers.CONFIG_MAPPING[kind].from_dict(data)

    def _folder(self) -> Path:
        """Give the local folder; a hub id is fetched or found in the cache."""
        assert self.path is not None
        folder = Path(self.path).expanduser()
        if folder.exists() or self.path.startswith((".", "/", "~")) or self.path.count("/") != 1:
            return folder
        from huggingface_hub import snapshot_download

        with hf.quietly(self._where):
            return Path(
                snapshot_download(
                    self.path,
                    revision=self.revision,
                    allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
                )
            )

    def _drawn(self, config: Any, cls: Any) -> nn.Module:
        import torch

        with hf.quietly(self._where), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model: nn.Module = cls._from_config(config, **self._dtype()).eval()
        return model

    def _patient(self, model: nn.Module, config: Any) -> Patient:
        tokenizer = None if self.path is None else hf.tokenizer_of(self._folder(), self._where)
        return Patient(model, config=model.config, tokenizer=tokenizer)

    def _dtype(self) -> dict[str, Any]:
        if self.dtype is None:
            return {}
        from surgery.operate.dtypes import dtype_of

        return {"dtype": dtype_of(self.dtype)}

    @property
    def _where(self) -> str:
        return f"patient {self.path or 'from_config'}"


def _harmless(model: Any) -> frozenset[str]:
    """Give names of buffers that are in no checkpoint now and were in older ones."""
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    )
