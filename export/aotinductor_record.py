"""Records of packages of AOTInductor: what they were made from, and where their machine code runs.

A package of another release of torch may crash the process, and one of another processor may stop it at an instruction
that is not there. So the record is compared before a package is loaded. Law (``tests/export/test_aotinductor.py``):
``check_record`` takes what ``write_record`` wrote here, and refuses it if an entry differs that decides whether the
code runs.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from compress.core.errors import TargetError
from compress.core.hashing import sha256_of
from compress.core.parsing import Unreadable, read_text
from compress.profile.gpu import matching_gpus

if TYPE_CHECKING:
    from compress.profile.target import Target

FORMAT_VERSION = 1
PACKAGE = Path("engine") / "model.pt2"
# Features of x86 processors for which compilers emit instructions.
_EMITTED = ("amx", "avx", "bmi", "f16c", "fma", "gfni", "movbe", "adx", "sha_ni", "sse", "ssse", "vaes", "vpclmul")


@dataclass(frozen=True, kw_only=True)
class PackageRecord:
    """What a package was made from and for.

    Attributes:
        torch: release that compiled it, and that has to load it.
        machine: kind of processor, such as ``x86_64``.
        features: of the processor that the code may use, as Linux names them.
        compute_capability: of the GPU; None for the processor.
        precision: number format.
        threads: that loops of the code are split over, on the processor.
        inputs, outputs: names, in order; batch size and length are free.
        model_sha256: of the ONNX file of the same weights; empty before it is written.
        package_sha256: of the package.
        format: version of this layout.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    torch: str
    machine: str
    features: tuple[str, ...]
    compute_capability: str | None
    precision: Literal["fp32", "fp16"]
    threads: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model_sha256: str = ""
    package_sha256: str = ""
    format: int = FORMAT_VERSION

    @property
    def said(self) -> str:
        """What the package is, in words."""
        where = self.machine if self.compute_capability is None else f"compute capability {self.compute_capability}"
        return f"AOTInductor of torch {self.torch}, {where}, {self.precision}, any batch size and length"


def record_path(package: Path) -> Path:
    """Path of a package's record, beside it."""
    return package.with_name(f"{package.name}.json")


def record_of(
    target: Target,
    precision: Literal["fp32", "fp16", "int8"],
    threads: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> PackageRecord:
    """The record of a package that is compiled here and now.

    Args:
        target: processor or GPU.
        precision: number format.
        threads: of a call on the processor.
        inputs: names.
        outputs: names.
    """
    from compress.export.lowering import processor_flags

    assert precision != "int8", "offered_precisions has none"
    gpus = matching_gpus(target.compute_capability) if target.on_gpu else []
    return PackageRecord(
        torch=metadata.version("torch"),
        machine=platform.machine(),
        features=tuple(sorted(flag for flag in processor_flags() if flag.startswith(_EMITTED))),
        compute_capability=gpus[0].compute_capability if gpus else None,
        precision=precision,
        threads=threads,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


def write_record(package: Path, record: PackageRecord) -> None:
    """Write a package's record, with the package's digest.

    Args:
        package: the file.
        record: from ``record_of``.
    """
    onnx = package.parent.parent / "model.onnx"
    done = replace(record, package_sha256=sha256_of(package), model_sha256=sha256_of(onnx) if onnx.is_file() else "")
    record_path(package).write_text(json.dumps(asdict(done), sort_keys=True, indent=1) + "\n", encoding="utf-8")


def read_record(package: Path) -> PackageRecord:
    """Read a package's record.

    Raises:
        TargetError: there is none, or it is damaged or of another format.
    """
    file = record_path(package)
    try:
        record = TypeAdapter(PackageRecord).validate_json(read_text(file))
    except (Unreadable, ValidationError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise TargetError(
            f"'{package}' is not loaded: its record '{file.name}' cannot be read ({said}); {_AGAIN}"
        ) from None
    if record.format != FORMAT_VERSION:
        raise TargetError(f"'{file}' has format {record.format}, this version reads format {FORMAT_VERSION}; {_AGAIN}")
    return record


_AGAIN = "remove both files: `compress validate` compiles the package again, on the device"


def check_record(package: Path, target: Target) -> None:
    """Check that a package runs here, before it is loaded.

    Args:
        package: the file.
        target: processor or GPU.

    Raises:
        TargetError: it is damaged, or was compiled by another release of torch or for another device.
    """
    record = read_record(package)
    here = record_of(target, record.precision, record.threads, record.inputs, record.outputs)
    different = [
        f"{word} {mine or 'the processor'}, here {theirs or 'the processor'}"
        for word, mine, theirs in (
            ("torch", record.torch, here.torch),
            ("processor", record.machine, here.machine),
            ("compute capability", record.compute_capability, here.compute_capability),
        )
        if mine != theirs
    ]
    onnx = package.parent.parent / "model.onnx"
    if record.model_sha256 and onnx.is_file() and sha256_of(onnx) != record.model_sha256:
        different.append(f"another {onnx.name} than the one beside it")
    lacking = sorted(set(record.features) - set(here.features))
    if lacking:
        different.append(f"a processor with {', '.join(lacking)}, which this one lacks")
    if different:
        raise TargetError(f"'{package}' was compiled for another case: {'; '.join(different)}. {_AGAIN.capitalize()}")
    if sha256_of(package) != record.package_sha256:
        raise TargetError(f"'{package}' is damaged: its SHA-256 is not its record's; {_AGAIN}")
