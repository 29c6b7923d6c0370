"""Pickles read as data: containers and numbers are built, a call happens only if its name is in the caller's table."""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resnet_jax.weights.lazy_tensor import PickledObject, Unreadable
from resnet_jax.weights.torch.pickle_stream import MalformedPickleError, Stream

MAX_OPCODES = 2_000_000
# A checkpoint names a few dozen classes; each distinct one is remembered.
MAX_NAMES = 10_000
MAX_NAME_LENGTH = 200
MAX_MEMO_INDEX = 2**32
MAX_KEY_LENGTH = 4096  # comparing long keys again and again would take forever
OPCODES_PER_OBJECT = 8  # what standing for an object costs, in opcodes
# What the state of a torch module holds of tensors.
MODULE_STATE = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
MAX_CHARACTERS = 64 * 2**20  # of text that is copied, besides once what the file has: arrays are pickled as text

Functions = Mapping[str, Callable[..., Any]]


class Buildable(Unreadable):
    """An object that the caller's functions make, and that takes its state as data."""

    def set_state(self, state: Any) -> None:
        """Takes the state that the pickle gives the object; a ValueError if it is none."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Name(Unreadable):
    """A class or function that a pickle names, as "module.name".

    Only its text exists: nothing is imported.
    """

    name: str
    instance: Unreadable  # stands for every object of that class


def load_pickle(
    stream: Stream, functions: Functions | None = None, persistent_load: Callable[[Any], Any] | None = None
) -> Any:
    """Returns the object of the pickle at which `stream` stands, which then stands just after it.

    What a name in `functions` is called with goes to that function; every other object is an `Unreadable`. Objects may
    be shared and may contain themselves, as in any pickle; dict keys and set members that are not strings, bytes,
    numbers or None are dropped.

    Raises:
      MalformedPickleError: .
    """
    try:
        return _Machine({**PLAIN_FUNCTIONS, **(functions or {})}, persistent_load).run(stream)
    except (MalformedPickleError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, IndexError):
            raise MalformedPickleError("its pickle takes an object from an empty stack") from error
        raise MalformedPickleError(f"its pickle is malformed: {error}") from error


def _is_key(value: Any) -> bool:
    """Returns whether `value` may be a dict's key: cheap to hash and compare, whatever its content."""
    if isinstance(value, str | bytes):
        return len(value) <= MAX_KEY_LENGTH
    if isinstance(value, int):
        return value.bit_length() <= 64  # larger ones can all be given the same hash
    return value is None or isinstance(value, float)


def _dict(items: list[Any]) -> dict[Any, Any]:
    return {key: value for key, value in zip(items[::2], items[1::2], strict=True) if _is_key(key)}


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    return {key: value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs) if _is_key(key)}


def _set(items: Any = ()) -> set[Any]:
    return {item for item in items if _is_key(item)}


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes are pickled as latin1 text only")
    return text.encode("latin1")


# What pickles of every kind call to make plain containers and bytes, by the names of Python 2 and 3.
PLAIN_FUNCTIONS: Functions = {
    "collections.OrderedDict": _ordered_dict,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "builtins.frozenset": _set,
    "__builtin__.frozenset": _set,
    "_codecs.encode": _encode,
}
RESULT_OF_UNNAMED_CALL = Unreadable("the result of calling an object")
EXTENSION = Unreadable("an object of a copyreg extension")


class _Machine:
    """One run over one pickle: a stack of objects, the stacks below its marks, and the memo."""

    def __init__(self, functions: Functions, persistent_load: Callable[[Any], Any] | None) -> None:
        self.functions = functions
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}  # not a list: one opcode can name an index of 4 billion
        self.names: dict[str, Name] = {}
        self.num_opcodes = 0
        self.max_characters = MAX_CHARACTERS

    def run(self, stream: Stream) -> Any:
        self.max_characters += stream.num_bytes
        for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]  # duck-typed, like its own
            self.spend(1)
            OPCODES[opcode.name](self, argument)
        return self.stack.pop()

    def spend(self, num_opcodes: int) -> None:
        self.num_opcodes += num_opcodes
        if self.num_opcodes > MAX_OPCODES:
            raise MalformedPickleError(f"its pickle has more than {MAX_OPCODES} opcodes")

    def spend_text(self, parts: tuple[Any, ...]) -> None:
        self.max_characters -= sum(len(part) for part in parts if isinstance(part, str | bytes))
        if self.max_characters < 0:
            raise MalformedPickleError("its pickle copies the same text again and again")

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below_marks.pop()
        return items

    def push(self, item: Any) -> None:
        self.stack.append(item)

    def mark(self, _: None) -> None:
        self.below_marks.append(self.stack)
        self.stack = []

    def pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def put(self, index: int) -> None:
        if not 0 <= index < MAX_MEMO_INDEX:
            raise MalformedPickleError("its pickle has a memo index that is too large")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if not 0 <= index < MAX_MEMO_INDEX or index not in self.memo:
            raise MalformedPickleError("its pickle takes an object from the memo that is not there")
        self.stack.append(self.memo[index])

    def pop_last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif isinstance(self.stack[-1], set):
            self.stack[-1].update(item for item in items if _is_key(item))
        elif not isinstance(self.stack[-1], Unreadable):
            raise MalformedPickleError("its pickle appends to what is no list")

    def set_items(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(_dict(items))
        elif not isinstance(self.stack[-1], Unreadable):
            raise MalformedPickleError("its pickle sets items of what is no dict")

    def push_name(self, name: str) -> None:
        name = "".join(character if character.isprintable() else "?" for character in name[:MAX_NAME_LENGTH])
        if name not in self.names:
            if len(self.names) == MAX_NAMES:
                raise MalformedPickleError(f"its pickle names more than {MAX_NAMES} classes")
            self.names[name] = Name(f"the name {name}", name, Unreadable(f"an object of class {name}"))
        self.stack.append(self.names[name])

    def push_stack_name(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise MalformedPickleError("its pickle names a class by what is no text")
        self.push_name(f"{module[:MAX_NAME_LENGTH]}.{name[:MAX_NAME_LENGTH]}")

    def call(self, arguments: Any) -> None:
        """Replaces the function on the stack by its result."""
        callee = self.stack.pop()
        if not isinstance(arguments, tuple):
            raise MalformedPickleError("its pickle calls with arguments that are no tuple")
        if not isinstance(callee, Name):
            self.stack.append(RESULT_OF_UNNAMED_CALL)
        elif function := self.functions.get(callee.name):
            # A function may copy its arguments, and the memo can hand it the same ones a million times.
            self.spend_text(arguments)
            self.spend(sum(len(argument) for argument in arguments if isinstance(argument, list | tuple | dict | set)))
            self.stack.append(function(*arguments))
        else:
            self.push_object(callee)

    def push_object(self, callee: Any) -> None:
        """Pushes a stand-in for an object of the class: each its own, as one may get a state."""
        self.spend(OPCODES_PER_OBJECT)
        self.stack.append(PickledObject(callee.instance.what) if isinstance(callee, Name) else RESULT_OF_UNNAMED_CALL)

    def push_instance(self, _: None) -> None:
        callee, _arguments, _keywords = self.pop_last(3)
        self.push_object(callee)

    def build(self, _: None) -> None:
        """Keeps a torch module's part of an object's state: its parameters, buffers and modules."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Buildable):
            self.spend(OPCODES_PER_OBJECT)
            self.spend_text(state if isinstance(state, tuple) else ())
            target.set_state(state)
        elif isinstance(target, PickledObject) and isinstance(state, dict) and not target.state:
            target.state.update({key: state[key] for key in MODULE_STATE if key in state})

    def call_instance(self, name: str) -> None:
        arguments = tuple(self.pop_to_mark())
        self.push_name(name.replace(" ", ".", 1))
        self.call(arguments)

    def call_object(self, _: None) -> None:
        callee, *arguments = self.pop_to_mark()
        self.stack.append(callee)
        self.call(tuple(arguments))

    def persistent(self, persistent_id: Any) -> None:
        if self.persistent_load is None:
            raise MalformedPickleError("its pickle refers to objects outside of it")
        self.stack.append(self.persistent_load(persistent_id))


# An opcode that is not here (out-of-band buffers) makes the pickle malformed.
OPCODES: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _Machine.push
    ),
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _Machine.push
    ),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda machine, _: machine.push(EXTENSION)),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call(machine.stack.pop())),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine.extend(machine.pop_to_mark())),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BYTEARRAY8": lambda machine, data: machine.push(bytes(data)),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop_last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop_last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop_last(3))),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "FROZENSET": lambda machine, _: machine.push(_set(machine.pop_to_mark())),
    "DICT": lambda machine, _: machine.push(_dict(machine.pop_to_mark())),
    "APPEND": lambda machine, _: machine.extend(machine.pop_last(1)),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_last(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GLOBAL": lambda machine, name: machine.push_name(name.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine.push_stack_name,
    "NEWOBJ_EX": _Machine.push_instance,
    "INST": _Machine.call_instance,
    "OBJ": _Machine.call_object,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent,
    "BINPERSID": lambda machine, _: machine.persistent(machine.stack.pop()),
}
