"""The source ``hf``: a folder or hub id that transformers reads, or a bare configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from surgery.errors import PatientError
from surgery.operate.patient import Patient
from surgery.operate.source import Source
from surgery.operate.trust import demand_trust
from surgery_plugins.sources.configuration import (
    class_of,
    config_of,
    dtype_for,
    keep_in_float32,
    read_config,
    refuse_slips,
)
from surgery_plugins.sources.transformers import (
    COMPANIONS,
    complaints,
    library,
    processor_of,
    quietly,
    raise_complaints,
    tokenizer_of,
)
from surgery_plugins.sources.weights import is_pickled, weight_files

if TYPE_CHECKING:
    from torch import nn

_FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


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
        """Build the structure on meta; tokenizer and processor for real."""
        import torch

        config, cls, dtype = self._config()
        with quietly(self._where), torch.device("meta"):
            model = cls._from_config(config, **_dtype(dtype)).eval()
        keep_in_float32(model, dtype)
        return self._patient(model)

    def load(self) -> Patient:
        """Read the weights, after their files were checked; every one must land."""
        config, cls, dtype = self._config()
        with quietly(self._where), _seeded(self.seed):
            if self.path is None:
                model = cls._from_config(config, **_dtype(dtype)).eval()
                keep_in_float32(model, dtype)
            else:
                model = self._read(cls, config, dtype)
        return self._patient(model)

    def weights(self) -> Mapping[str, Path]:
        """Give the checked weight files; none for random weights."""
        return weight_files(self._folder()) if self.path is not None else {}

    def companions(self) -> Mapping[str, Path]:
        """Give config, tokenizer and processor files."""
        if self.path is None:
            return {}
        folder = self._folder()
        return {name: folder / name for name in COMPANIONS if (folder / name).is_file()}

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
        with quietly(self._where):
            model.save_pretrained(folder, state_dict=state)

    def moved(self, path: str) -> Source:
        """Give the source of the same model where it lies in a folder of its own."""
        return self.model_copy(update={"path": path, "from_config": None, "revision": None})

    def _config(self) -> tuple[Any, Any, Any]:
        """Give the configuration, the model class and the dtype of the weights."""
        transformers = library("patient.source: hf")
        given, own_code = self.from_config, None
        folder = self._folder() if self.path is not None else None
        if self.trust_remote_code:
            demand_trust(self._where)
            own_code = folder or (None if isinstance(given, dict) else Path(str(given)))
        if isinstance(given, dict):
            config = config_of(given, "patient.from_config")
            refuse_slips(given, config, "patient.from_config")
        elif own_code is not None:
            with quietly(self._where):
                config = transformers.AutoConfig.from_pretrained(own_code, trust_remote_code=True)
        else:
            place = folder or Path(str(given)).expanduser()
            config = config_of(read_config(place), str(place))
        cls = class_of(config, self.architecture, self._where, own_code)
        return config, cls, dtype_for(config, self.dtype, folder)

    def _read(self, cls: Any, config: Any, dtype: Any) -> nn.Module:
        """Read weights with transformers, from files that were checked."""
        folder = self._folder()
        weight_files(folder)
        model, info = cls.from_pretrained(
            folder,
            config=config,
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=not is_pickled(folder),
            ignore_mismatched_sizes=True,  # reported below, all of them and by name
            trust_remote_code=self.trust_remote_code,
            **_dtype(dtype),
        )
        raise_complaints(
            complaints(info, _harmless(model), frozenset(self.may_differ)), self._where
        )
        read: nn.Module = model.eval()
        return read

    def _folder(self) -> Path:
        """Give the local folder; a hub id is fetched or found in the cache."""
        assert self.path is not None
        folder = Path(self.path).expanduser()
        if folder.exists() or self.path.startswith((".", "/", "~")) or self.path.count("/") != 1:
            if self.revision is not None:
                found = "a local folder, which has none"
                raise PatientError(f"{self._where}: revision", "a hub id", found, "remove it")
            return folder
        from huggingface_hub import snapshot_download

        with quietly(self._where, "a local folder, or the id of a model of the hub"):
            return Path(
                snapshot_download(
                    self.path,
                    revision=self.revision,
                    allow_patterns=[*_FETCHED, *(["*.py"] if self.trust_remote_code else [])],
                )
            )

    def _patient(self, model: Any) -> Patient:
        if self.path is None:
            return Patient(model, config=model.config)
        folder = self._folder()
        processor, notes = processor_of(folder, self._where, self.trust_remote_code)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None:
            tokenizer = tokenizer_of(folder, self._where, self.trust_remote_code)
        return Patient(model, model.config, tokenizer, processor, notes=notes)

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


def _dtype(dtype: Any) -> dict[str, Any]:
    return {} if dtype is None else {"dtype": dtype}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw what transformers draws from a seed, and leave torch's own generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
