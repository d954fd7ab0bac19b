"""Opens text files of data: packed or not, UTF-8 or UTF-16, split into lines where file formats split them.

Only LF, CR LF and CR end a line. ``str.splitlines`` would also cut texts at U+2028, U+0085 and the form feed, and
``str.split`` without a separator would cut words at no-break spaces.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# Characters that formats put around values. Other blanks are part of the text.
SPACES = " \t\r\n"
# Endings of packed files, with the name of the format for pyarrow.
PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_ARCHIVES = {".zip": "unzip", ".7z": "7z x", ".xz": "xz -dk", ".tar": "tar -xf", ".tgz": "tar -xf", ".rar": "unrar x"}
# A packed file of a few megabytes can unpack to terabytes.
_UNPACKED_BYTES = 8 * 2**30
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32LE"),
    (codecs.BOM_UTF32_BE, "UTF-32BE"),
    (codecs.BOM_UTF16_LE, "UTF-16LE"),
    (codecs.BOM_UTF16_BE, "UTF-16BE"),
)
_LINE_END = re.compile("\r\n|\n|\r")


def split_lines(text: str) -> list[str]:
    """Returns the lines of a text without their ends: LF, CR LF or CR."""
    lines = _LINE_END.split(text)
    return lines[:-1] if lines[-1] == "" else lines


def split_words(text: str) -> list[str]:
    """Returns the words of a text, between ASCII spaces, tabs and line ends."""
    return [word for word in re.split(r"[ \t\r\n]+", text) if word]


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's message: the rest is advice for its own users."""
    line = str(error).strip(SPACES).split("\n", 1)[0]
    return line[:300] if line else type(error).__name__


def data_suffix(path: Path) -> str:
    """Returns the ending that tells a file's format, in lower case: ``.csv`` of ``train.csv`` and ``train.csv.gz``.

    Raises:
        DataError: the file is an archive; the message has the command that unpacks it.
    """
    suffix = path.suffix.lower()
    if suffix in _ARCHIVES:
        raise DataError(f"data file '{path}' is an archive; unpack it first: `{_ARCHIVES[suffix]} {path.name}`")
    if suffix in PACKED:
        inner = Path(path.stem).suffix.lower()
        if inner == ".tar":
            raise DataError(f"data file '{path}' is an archive; unpack it first: `tar -xf {path.name}`")
        return inner
    return suffix


def data_stem(path: Path) -> str:
    """Returns the name of a file without its endings: ``train`` of ``train.csv`` and ``train.csv.gz``."""
    return Path(path.stem).stem if path.suffix.lower() in PACKED else path.stem


@dataclass(frozen=True)
class TextFile:
    """One text file of data.

    Attributes:
        path: the file.
    """

    path: Path

    @cached_property
    def _converted(self) -> bytes | None:
        """The file's content as UTF-8; None where the file itself is unpacked UTF-8."""
        packed = PACKED.get(self.path.suffix.lower())
        content = _unpack(self.path, packed) if packed else None
        start = content[:4096] if content is not None else _start(self.path)
        encoding = next((name for mark, name in _MARKS if start.startswith(mark)), None)
        if encoding is None:
            if _looks_like_utf16(start):
                raise DataError(
                    f"data file '{self.path}' is not UTF-8 text: every second byte is 0, as in UTF-16 without a byte "
                    f"order mark; convert it: `iconv -f UTF-16LE -t UTF-8 {self.path.name}`"
                )
            return content
        content = self.path.read_bytes() if content is None else content
        try:
            return content.decode(encoding).removeprefix("\ufeff").encode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"data file '{self.path}' begins with the byte order mark of {encoding}, but byte {error.start} and "
                f"those after it are not {encoding}; save it as UTF-8"
            ) from None

    def stream(self) -> io.TextIOBase:
        """Opens the text; line ends stay as they are in the file."""
        if self._converted is not None:
            return io.TextIOWrapper(io.BytesIO(self._converted), encoding="utf-8-sig", newline="")
        return self.path.open(encoding="utf-8-sig", newline="")

    def text(self) -> str:
        """Returns the whole text.

        Raises:
            DataError: it is not UTF-8; the message names the byte and its line.
        """
        with self.stream() as stream:
            try:
                return stream.read()
            except UnicodeDecodeError:
                raise self.not_utf8() from None

    def for_arrow(self) -> pa.BufferReader | str:
        """Returns the content as pyarrow reads it: the file's name, or a buffer of the converted content."""
        import pyarrow as pa

        return str(self.path) if self._converted is None else pa.BufferReader(self._converted)

    def not_utf8(self) -> DataError:
        """Returns the error for a file that is not UTF-8: it names the first wrong byte and its line."""
        content = self.path.read_bytes() if self._converted is None else self._converted
        where = "an invalid byte"
        try:
            content.decode()
        except UnicodeDecodeError as error:
            before = content[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            where = f"byte 0x{content[error.start]:02x} in line {before.count(10) + 1}"
        return DataError(
            f"data file '{self.path}' is not UTF-8 text ({where}); convert it, for instance with "
            f"`iconv -f WINDOWS-1252 -t UTF-8`"
        )


@dataclass(frozen=True)
class FileRows:
    """The rows of one file.

    Attributes:
        table: the rows.
        line: the line of the file in which a row (from 0) begins, from 1; None where lines say nothing.
        notes: decisions of the reader as sentences to print.
    """

    table: pa.Table
    line: Callable[[int], int | None] | None = None
    notes: tuple[str, ...] = ()


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(4096)


def _looks_like_utf16(start: bytes) -> bool:
    half = len(start) // 2
    return half > 1 and max(start[0::2].count(0), start[1::2].count(0)) > 0.4 * half


def _unpack(path: Path, packed: str) -> bytes:
    import pyarrow as pa

    parts: list[Any] = []
    size = 0
    try:
        with pa.OSFile(str(path)) as file, pa.CompressedInputStream(file, packed) as stream:
            while part := stream.read(2**24):
                parts.append(part)
                size += len(part)
                if size > _UNPACKED_BYTES:
                    raise DataError(
                        f"data file '{path}' unpacks to more than {_UNPACKED_BYTES // 2**30} GiB; unpack it, and give "
                        "a part of it"
                    )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot unpack data file '{path}': {first_line(error)}; it may be cut short") from None
    if not size:
        raise DataError(f"data file '{path}' is empty; it needs a header and rows")
    return b"".join(parts)
