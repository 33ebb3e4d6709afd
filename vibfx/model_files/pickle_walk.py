"""Follows a pickle without running it, to learn what it would name and call.

A pickle is a small program for a stack machine. Two of its instructions reach outside: one names a
class or function, one calls what was named. Both take what lies on the stack, so the whole stack is
followed. So are the storages that it asks for, and the tensors that it lays over them: torch
believes what it says of their sizes.
"""

import pickletools
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, ClassVar

from vibfx.errors import ModelFileError
from vibfx.model_files.layouts import check_layout
from vibfx.model_files.refusals import damaged, unreadable_pickle

# This function calls its first argument. It and the other rebuilders of tensors may also set
# attributes on what they return.
_REBUILD_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_TENSOR_REBUILDERS = ("torch._tensor.", "torch._utils.")

# What lays a tensor over a storage: the storage, an offset, a shape and strides come first.
_FROM_STORAGE = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")

# Bytes of one element, by the class that stands for the type of a storage.
_WIDTHS = {
    **dict.fromkeys(("Bool", "Byte", "Char"), 1),
    **dict.fromkeys(("BFloat16", "Half", "Short"), 2),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("ComplexFloat", "Double", "Long"), 8),
    "ComplexDouble": 16,
}
ITEM_SIZES = {f"torch.{name}Storage": width for name, width in _WIDTHS.items()}
ITEM_SIZES["torch.storage.UntypedStorage"] = 1


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names.

    Args:
        module: The module it is looked up in.
        name: Its name there.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return self._full_name

    @cached_property
    def _full_name(self) -> str:
        # Asked for at every call that the pickle makes.
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Storage:
    """A run of numbers of one type that a pickle asks for; they lie elsewhere in the file.

    Args:
        key: What the file calls it.
        length: How many numbers it holds.
        item_size: The bytes of each.
    """

    key: str
    length: int
    item_size: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.length * self.item_size


@dataclass(eq=False)
class _Created:
    """An object that the pickle creates, and whether it can still be handed its attributes."""

    is_fresh: bool


class PickleWalk:
    """Follows a pickle's stack without running it.

    A stack entry is a `Global`, a `Storage`, a `_Created` object, a tuple of entries, a number or a
    string, or ``None`` for any other value. The instructions are those that torch's restricted
    unpickler knows.

    Args:
        pickled: The pickle; a file is read up to the pickle's end.

    Attributes:
        named: Everything the pickle names.
        called: What it calls among them.
        created: What it makes instances of without a call.
        storages: The storages it asks for, by their keys.

    Raises:
        ModelFileError: The pickle is not one that ``torch.save`` writes for a module.
    """

    VALUES = frozenset(
        {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
        | {"BINUNICODE", "SHORT_BINSTRING", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}
    )
    TUPLES: ClassVar = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

    def __init__(self, pickled: bytes | IO[bytes]) -> None:
        self.named: set[Global] = set()
        self.called: set[Global] = set()
        self.created: set[Global] = set()
        self.storages: dict[str, Storage] = {}
        self._stack: list[object] = []
        self._outer_stacks: list[list[object]] = []
        self._memo: dict[int, object] = {}
        try:
            for opcode, argument, _ in pickletools.genops(pickled):
                self._follow(opcode.name, argument)
        except (ValueError, LookupError, MemoryError, OverflowError) as error:
            # Of a file, a string is read that is as long as it says, however long that is.
            raise damaged(f"its pickle is malformed ({error})") from error

    def _follow(self, instruction: str, argument: Any) -> None:
        # The most frequent come first: some files have hundreds of thousands of them.
        match instruction:
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "REDUCE":
                self._call()
            case _ if instruction in self.VALUES:
                self._stack.append(argument)
            case _ if instruction in self.TUPLES:
                self._stack.append(self._pop(self.TUPLES[instruction]))
            case "MARK":
                self._outer_stacks.append(self._stack)
                self._stack = []
            case "TUPLE":
                items = self._pop_to_mark()
                self._stack.append(items)
            case "APPENDS" | "SETITEMS":
                self._pop_to_mark()
            case "APPEND":
                self._pop(1)
            case "SETITEM":
                self._pop(2)
            case "BINPERSID":
                self._ask_for_storage(*self._pop(1))
            case "NEWOBJ":
                self._create()
            case "BUILD":
                self._restore()
            case "GLOBAL":
                self._name(argument)
            case "PROTO":
                self._check_protocol(argument)
            case "STOP":
                pass
            case _:
                raise damaged(f"its pickle holds the instruction {instruction}")

    def _pop(self, count: int) -> tuple[object, ...]:
        if count > len(self._stack):
            raise IndexError("the stack is too short")
        start = len(self._stack) - count
        popped = tuple(self._stack[start:])
        del self._stack[start:]
        return popped

    def _pop_to_mark(self) -> tuple[object, ...]:
        popped = tuple(self._stack)
        self._stack = self._outer_stacks.pop()
        return popped

    def _check_protocol(self, protocol: int) -> None:
        if protocol != 2:
            raise ModelFileError(
                f"The file was saved with pickle protocol {protocol}, which cannot be read safely.",
                hint="Save it with torch.save(model, path), which uses protocol 2.",
            )

    def _name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        # Protocol 2 spells the module of Python's built-ins the way Python 2 did.
        found = Global("builtins" if module == "__builtin__" else module, name)
        self.named.add(found)
        self._stack.append(found)

    def _create(self) -> None:
        kind, arguments = self._pop(2)
        # Without arguments this is object.__new__ and runs nothing; with them it is a call.
        if arguments != ():
            self._count_call(kind)
        if isinstance(kind, Global):
            self.created.add(kind)
        self._stack.append(_Created(is_fresh=True))

    def _call(self) -> None:
        function, arguments = self._pop(2)
        self._count_call(function)
        if str(function) == _REBUILD_FROM_TYPE:
            self._count_inner_call(arguments)
        else:
            self._check_tensor(function, arguments)
        self._stack.append(_Created(is_fresh=not str(function).startswith(_TENSOR_REBUILDERS)))

    def _count_call(self, function: object) -> None:
        if not isinstance(function, Global):
            raise damaged("its pickle calls something that is not a function")
        self.called.add(function)

    def _count_inner_call(self, arguments: object) -> None:
        function, _, inner = arguments[:3] if isinstance(arguments, tuple) else ()
        # Nested in itself, it would hide what it calls one level further down.
        if str(function) == _REBUILD_FROM_TYPE:
            raise damaged("its pickle rebuilds a tensor in a way that torch.save does not write")
        self._count_call(function)
        self._check_tensor(function, inner)

    def _ask_for_storage(self, asked: object) -> None:
        # In files from before torch 1.6 a sixth entry says what part of another storage it is.
        match asked:
            case ("storage", Global() as kind, str(key), _, int(length), *views) if str(
                kind
            ) in ITEM_SIZES and views in ([], [None]):
                storage = Storage(key, length, ITEM_SIZES[str(kind)])
            case ("storage", Global() as kind, *_):
                raise damaged(f"its pickle asks for a {kind} that it does not describe")
            case ("module", *_):  # before torch 1.6: a class with its source
                raise unreadable_pickle()
            case _:
                raise damaged("its pickle asks for something other than numbers")
        # torch takes the first to be true of all that have this key.
        if length < 0 or self.storages.setdefault(key, storage) != storage:
            raise damaged(f"its pickle contradicts itself on the storage {key[:40]}")
        self._stack.append(storage)

    def _check_tensor(self, function: object, arguments: object) -> None:
        if str(function) not in _FROM_STORAGE:
            return
        match arguments:
            case (Storage() as storage, offset, tuple(shape), tuple(strides), *_):
                check_layout(offset, shape, strides, storage.length)
            case _:
                raise damaged(
                    "its pickle rebuilds a tensor in a way that torch.save does not write"
                )

    def _restore(self) -> None:
        self._pop(1)
        target = self._stack[-1]
        # torch calls methods of the target here, and only a fresh object is sure to have no
        # attribute that stands in for one.
        if not isinstance(target, _Created) or not target.is_fresh:
            raise damaged("its pickle changes an object that it did not just create")
        target.is_fresh = False
