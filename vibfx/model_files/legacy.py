"""The format of ``torch.save`` before version 1.6, which many published state dicts still have.

Five pickles stand one behind the other: a magic number, a version, facts about the machine, the
object, and the keys of its storages. Then come the storages in that order, each as its length and
its numbers. There are **no checksums**: a flipped bit of a weight cannot be told from a right one.

Only weights are read from it, and only by torch's restricted unpickler. A whole module in this
format brings its source along; it is refused.
"""

import os
import pickletools
import re
import struct
from typing import IO

import torch

from vibfx.model_files.pickle_screen import check_calls, names_data_only
from vibfx.model_files.pickle_walk import PickleWalk, Storage
from vibfx.model_files.refusals import damaged, described, unreadable_pickle
from vibfx.model_files.trust import Trust

# The first two pickles are always these bytes: of 0x1950A86A20F9469CFC6C and of 1001.
_HEADS = tuple(
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02" + version + b"."
    for version in (b"M\xe9\x03", b"\x8a\x02\xe9\x03")
)

# A list of strings, as a pickler writes it: a letter an instruction.
_LETTERS = {
    "PROTO": "P",
    "EMPTY_LIST": "L",
    "MARK": "M",
    "BINUNICODE": "s",
    "SHORT_BINSTRING": "s",
    "APPEND": "a",
    "APPENDS": "A",
    "BINPUT": "",
    "LONG_BINPUT": "",
    "STOP": ".",
}
_STRINGS = re.compile(r"PL(Ms+A|sa)*\.")

_LENGTH = struct.Struct("<q")


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins so is in this format.

    Args:
        head: The first 21 bytes, or more.
    """
    return head.startswith(_HEADS)


def read_legacy(file: IO[bytes]) -> object:
    """Reads weights, and what data there is beside them.

    Args:
        file: The file.

    Returns:
        The object that was saved.

    Raises:
        ModelFileError: The file is damaged, or holds something else.
    """
    _check(file)
    file.seek(0)
    try:
        loaded: object = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make any step of the rebuilding fail
        raise damaged(described(error)) from error
    return loaded


def _check(file: IO[bytes]) -> None:
    file.seek(0)
    head = file.read(len(_HEADS[0]) + 1)
    file.seek(next(len(known) for known in _HEADS if head.startswith(known)))
    _check_inert(PickleWalk(file))
    walk = PickleWalk(file)
    if not names_data_only(walk):
        raise unreadable_pickle()
    check_calls(walk, Trust())
    _check_storages(file, walk.storages, _strings(file))


def _check_inert(walk: PickleWalk) -> None:
    if walk.named or walk.storages:
        raise damaged("its description of the machine names something")


def _strings(file: IO[bytes]) -> list[str]:
    letters: list[str] = []
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(file):
            letters.append(_LETTERS[opcode.name])
            if letters[-1] == "s":
                strings.append(str(argument))
    except (ValueError, LookupError, MemoryError, OverflowError) as error:
        raise damaged("its list of storages is malformed") from error
    if not _STRINGS.fullmatch("".join(letters)):
        raise damaged("its list of storages is malformed")
    return strings


def _check_storages(file: IO[bytes], storages: dict[str, Storage], keys: list[str]) -> None:
    # What is not listed would keep whatever lay in memory.
    if len(set(keys)) != len(keys) or set(keys) != storages.keys():
        raise damaged("its list of storages is not that of its pickle")
    position, end = file.tell(), file.seek(0, os.SEEK_END)
    for key in keys:
        file.seek(position)
        length = file.read(_LENGTH.size)
        if length != _LENGTH.pack(storages[key].length):
            raise damaged("a storage in it has another length than its pickle says")
        position += _LENGTH.size + storages[key].size
        if position > end:
            raise damaged("it ends before its last storage does")
    if position != end:
        raise damaged("it goes on behind its last storage")
