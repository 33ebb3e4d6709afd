"""The zip archives of ``torch.save`` and ``torch.export.save``: whether they are whole.

Two readers see each file, Python's and torch's. They could be shown different records, so every
record has to be there for both, under one name, at one size, and uncompressed as torch writes it.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import IO

import torch

from vibfx.errors import ModelFileError
from vibfx.model_files.refusals import damaged, described

_LOCAL_HEADER = struct.Struct("<4s22xHH")
# Read at once: few and large enough that the thread seldom waits for its turn.
_PIECE = 2**22


@dataclass(frozen=True)
class Archive:
    """What an archive says that it holds.

    Attributes:
        file: The file that it lies in.
        sizes: The bytes of each record, by its name inside the archive's one folder; a record
            elsewhere is none that torch sees.
    """

    file: IO[bytes]
    sizes: dict[str, int]
    _records: tuple[zipfile.ZipInfo, ...]

    @classmethod
    def of(cls, file: IO[bytes]) -> "Archive":
        """Reads a file's table of contents.

        Args:
            file: The file.

        Raises:
            ModelFileError: It has none.
        """
        try:
            with zipfile.ZipFile(file) as archive:
                records = tuple(archive.infolist())
        except Exception as error:  # zipfile raises more than its own errors on a damaged file
            raise damaged(f"its zip archive cannot be read ({described(error)})") from error
        sizes = {_inside(record.filename): record.file_size for record in records}
        return cls(file, sizes, records)

    def check(self) -> None:
        """Checks that torch wrote it, and that torch's reader sees what Python's does.

        Raises:
            ModelFileError: It does not.
        """
        try:
            _check_records(self._records, self.file.seek(0, os.SEEK_END))
            self.file.seek(0)
            reader = torch._C.PyTorchFileReader(self.file)
            seen = {name: reader.get_record_size(name) for name in reader.get_all_records()}
        except Exception as error:
            raise damaged(f"its zip archive cannot be read ({described(error)})") from error
        if seen != self.sizes:
            raise damaged("its zip archive has two tables of contents")

    def read(self, name: str) -> bytes:
        """A record's content, as torch reads it.

        Args:
            name: The record.

        Raises:
            ModelFileError: It is not there, or not what was written.
        """
        if name not in self.sizes:
            raise damaged(f"it has no record {name}")
        self.file.seek(0)
        try:
            content: bytes = torch._C.PyTorchFileReader(self.file).get_record(name)
        except RuntimeError as error:
            raise damaged(f"its record {name} cannot be read") from error
        self._compare(name, zlib.crc32(content))
        return content

    @contextmanager
    def checksums(self) -> Iterator[None]:
        """Compares the checksum of every record, while the caller does something else.

        torch itself does not: a flipped bit would pass for a weight. It writes none at all after
        ``torch.serialization.set_crc32_options(False)``.

        Raises:
            ModelFileError: A record is not what was written. An error inside the context is one of
                a damaged file then, and this takes its place.
        """
        with ThreadPoolExecutor(1) as beside:
            checked = beside.submit(self._check_checksums)
            try:
                yield
            finally:
                checked.result()

    def _check_checksums(self) -> None:
        for record in self._records if self._expected else ():
            self._compare(_inside(record.filename), _checksum(self.file.fileno(), record))

    def _compare(self, name: str, checksum: int) -> None:
        if self._expected.get(name, checksum) != checksum:
            raise ModelFileError(
                f"The model file is damaged: its record {name} does not match its checksum.",
                hint="Copy the file again, or save the model again.",
            )

    @cached_property
    def _expected(self) -> dict[str, int]:
        """The checksum of each record; nothing where none was written."""
        found = {_inside(record.filename): record.CRC for record in self._records}
        return found if any(found.values()) else {}


def _inside(name: str) -> str:
    """A record's name without the archive's one folder."""
    return name.partition("/")[2] or name


def _check_records(records: tuple[zipfile.ZipInfo, ...], size: int) -> None:
    # Reading every record of a zip bomb would take forever.
    if sum(record.file_size for record in records) > size:
        raise zipfile.BadZipFile("its records are larger than the file")
    # torch finds a record whatever the case of its letters.
    if len({record.filename.casefold() for record in records}) < len(records):
        raise zipfile.BadZipFile("two records have one name")
    for record in records:
        is_plain = record.compress_type == zipfile.ZIP_STORED and not record.flag_bits & 1
        if not is_plain or record.compress_size != record.file_size:
            raise zipfile.BadZipFile(f"its record {record.filename} is compressed or encrypted")


def _checksum(descriptor: int, record: zipfile.ZipInfo) -> int:
    header = os.pread(descriptor, _LOCAL_HEADER.size, record.header_offset)
    if len(header) < _LOCAL_HEADER.size:
        raise damaged(f"its record {record.filename} lies beyond its end")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    start = record.header_offset + _LOCAL_HEADER.size + name + extra
    checksum, end = 0, start + record.file_size
    buffer = memoryview(bytearray(min(_PIECE, record.file_size)))
    while start < end:
        read = os.preadv(descriptor, [buffer[: end - start]], start)
        if not read:
            raise damaged(f"its record {record.filename} ends too early")
        checksum = zlib.crc32(buffer[:read], checksum)
        start += read
    return checksum
