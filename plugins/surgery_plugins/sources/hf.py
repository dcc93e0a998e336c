"""The source ``hf``: a folder or hub id that transformers reads, or a bare configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import Field, PrivateAttr, model_validator

from surgery.checkpoint.base import look_at, weights_at
from surgery.checkpoint.index import file_inside
from surgery.checkpoint.urls import folder_at, is_url, local_path
from surgery.errors import PatientError
from surgery.operate.chance import seeded
from surgery.operate.patient import Patient
from surgery.operate.source import Naming, Source
from surgery.operate.trust import demand_trust
from surgery_plugins.sources.behind_urls import LOOKED_FOR, fetch_beside, fetch_whole, is_id
from surgery_plugins.sources.configuration import (
    class_of,
    config_of,
    dtype_for,
    flat_numbers,
    keep_in_float32,
    read_config,
    refuse_slips,
    with_numbers,
)
from surgery_plugins.sources.naming import naming_of, store_as
from surgery_plugins.sources.strict import check_folder
from surgery_plugins.sources.transformers import (
    COMPANIONS,
    complaints,
    library,
    processor_of,
    quietly,
    raise_complaints,
    read_generation,
    tokenizer_of,
)
from surgery_plugins.sources.weights import is_pickled, weight_files

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.checkpoint.fetch import Snapshot
    from surgery.checkpoint.reading import File

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]

_FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


class HfSource(Source):
    """Read a model of transformers: from a folder, from a hub, or from a configuration alone."""

    name: ClassVar[str] = "hf"

    path: str | None = Field(
        default=None, description="A local folder, the URL of a folder, or the id of a hub."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub id.")
    from_config: str | dict[str, Any] | None = Field(
        default=None,
        description="A config.json, its folder, or the configuration itself, for random weights.",
    )
    architecture: str | None = Field(
        default=None, description="Class to build; by default the one that the config names."
    )
    dtype: Dtype | None = Field(
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

    _seen: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _one_base(self) -> HfSource:
        if (self.path is None) == (self.from_config is None):
            raise ValueError("expected one of path and from_config")
        return self

    def build(self) -> Patient:
        """Build the structure on meta; tokenizer and processor for real."""
        from surgery.anatomy.on_device import on_device

        config, cls, dtype = self._config()
        with quietly(self._where), on_device("meta"):
            model = cls._from_config(config, **_dtype(dtype)).eval()
        keep_in_float32(model, dtype)
        if self.path is not None:
            read_generation(model, self._folder(), self._where)
        return self._patient(model)

    def load(self) -> Patient:
        """Read the weights, after their files were checked; every one must land."""
        config, cls, dtype = self._config()
        with quietly(self._where), seeded(self.seed):
            if self.path is None:
                model = cls._from_config(config, **_dtype(dtype)).eval()
                keep_in_float32(model, dtype)
            else:
                model = self._read(cls, config, dtype)
        return self._patient(model)

    def weights(self) -> Mapping[str, File]:
        """Give the checked weight files; none for random weights."""
        if remote := self._remote():
            return weights_at(remote)
        return weight_files(self._folder()) if self.path is not None else {}

    def companions(self) -> Mapping[str, Path]:
        """Give config, tokenizer and processor files."""
        if self.path is None:
            return {}
        folder = self._folder()
        found = (name for name in COMPANIONS if (folder / name).is_file())
        return {name: file_inside(folder, name, "config.json") for name in found}

    def naming(self, model: nn.Module, stored: Iterable[str]) -> Naming:
        """Say how the files name the model's tensors, by transformers' own mapping."""
        return naming_of(model, stored)

    def store_as(
        self, model: nn.Module, naming: Naming, tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Give tensors the names and forms in which transformers stores them."""
        return store_as(model, naming, tensors)

    def card(self) -> Mapping[str, str]:
        """Name the base on the hub, where it was given by its id."""
        named = {"base_model": self.path} if self.path and is_id(self.path) else {}
        return {"library_name": "transformers", **named}

    def numbers(self) -> Mapping[str, tuple[float, bool]]:
        """Give the numbers of the configuration, those of its parts by dotted names."""
        data, where = self._data(), self._where
        with quietly(where):
            whole = config_of(data, where).to_dict()
        stated = flat_numbers(data)
        return {name: (value, name in stated) for name, value in flat_numbers(whole).items()}

    def with_numbers(self, numbers: Mapping[str, float]) -> Source:
        """Give the bare configuration with other numbers."""
        data = with_numbers(self._data(), numbers)
        return self.model_copy(update={"path": None, "revision": None, "from_config": data})

    def moved(self, path: str) -> Source:
        """Give the source of the same model where it lies in a folder of its own.

        The dtype is written down where the configuration, which travels along, does not say it:
        another folder may not show it.
        """
        config, _, kind = self._config()
        dtype = str(kind).removeprefix("torch.")
        travels = self.path is not None and self.dtype is None
        said = travels and getattr(config, "dtype", None) is not None
        known = dtype in get_args(Dtype) and not said
        given = {"path": path, "from_config": None, "revision": None}
        return self.model_copy(update=given | ({"dtype": dtype} if known else {}))

    def _data(self) -> dict[str, Any]:
        """Give the configuration as plain data."""
        if isinstance(self.from_config, dict):
            return self.from_config
        file = Path(str(self.from_config)).expanduser()
        return read_config(file if self.path is None else self._folder())

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
        if folder is not None:
            check_folder(folder, config)
        cls = class_of(config, self.architecture, self._where, own_code)
        remote = self._remote()
        unsaid = getattr(config, "dtype", None) is None
        files = weights_at(remote).values() if remote and unsaid else ()
        return config, cls, dtype_for(config, self.dtype, folder, files)

    def _read(self, cls: Any, config: Any, dtype: Any) -> nn.Module:
        """Read weights with transformers, from files that were checked."""
        remote = self._remote()
        folder = fetch_whole(remote) if remote else self._folder()
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
        """Give the local folder; what is no weight of a URL, or a hub id, is fetched."""
        assert self.path is not None
        if remote := self._remote():
            beside = f"{self.path} beside its weights"
            if beside not in self._seen:
                self._seen[beside] = fetch_beside(remote, own_code=self.trust_remote_code)
            fetched: Path = self._seen[beside]
            return fetched
        folder = folder_at(self.path) if is_url(self.path) else Path(self.path).expanduser()
        assert isinstance(folder, Path)
        if not is_id(self.path):
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

    def _remote(self) -> Snapshot | None:
        """Give the files behind a URL, as they were when this source first looked at them."""
        if self.path is None or not is_url(self.path) or local_path(self.path):
            return None
        if self.revision is not None:
            given = "a URL, which has none"
            raise PatientError(f"{self._where}: revision", "a hub id", given, "remove it")
        if self.path not in self._seen:
            self._seen[self.path] = look_at(self.path, LOOKED_FOR)
        found: Snapshot = self._seen[self.path]
        return found

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
