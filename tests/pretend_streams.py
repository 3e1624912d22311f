"""Streams of a pretend device, which note accesses to a tensor that nothing orders.

The CPU computes everything at once; on an accelerator, work on one stream may run long before or after work on
another. Each stream therefore has a clock, as in a detector of data races: an event holds the clock at which it was
recorded, and a stream that waits for it knows of all that happened until then. Two accesses, one of them a write, of
which neither stream knows the other's, are a race.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Event:
    """The clock of a stream when the event was recorded."""

    clock: Mapping[str, int]


@dataclass
class History:
    """The last write of a tensor's memory, and the reads since, each as a stream's name and time."""

    write: tuple[str, int]
    reads: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Stream:
    """A stream that takes the place of torch's."""

    name: str
    world: "Streams"
    clock: dict[str, int] = field(default_factory=dict)

    def record_event(self) -> Event:
        return Event(dict(self.clock))

    def wait_event(self, event: Event) -> None:
        for name, time in event.clock.items():
            self.clock[name] = max(self.clock.get(name, 0), time)

    def knows(self, access: tuple[str, int]) -> bool:
        name, time = access
        return self.clock.get(name, 0) >= time

    def __enter__(self) -> None:
        self.world.entered.append(self)

    def __exit__(self, *raised: object) -> None:
        self.world.entered.pop()


class Streams(TorchDispatchMode):
    """A mode that notes what runs on which stream (`log`: stream, operation, elements written) and the `races`."""

    def __init__(self):
        super().__init__()
        self.computing, self.copying = (Stream(name, self) for name in ("computing", "copying"))
        self.entered = [self.computing]
        self.log: list[tuple[str, str, int]] = []
        self.races: list[str] = []
        self._memory: dict[int, History] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.note(func, args, kwargs or {}, out)
        return out

    def note(self, func, args: Sequence, kwargs: Mapping, out: object) -> None:
        """Note an operation on the current stream, after it has run."""
        stream = self.entered[-1]
        stream.clock[stream.name] = time = stream.clock.get(stream.name, 0) + 1
        values = [*args, *(kwargs.get(argument.name) for argument in func._schema.arguments[len(args):])]
        written, read = set(), set()
        for argument, value in zip(func._schema.arguments, values, strict=False):
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            (written if is_written else read).update(_places(value))
        new = _places(out) - written - read
        now = stream.name, time
        for place in read & self._memory.keys():
            self._check(stream, func, "reads", [self._memory[place].write])
            self._memory[place].reads.append(now)
        for place in written & self._memory.keys():
            self._check(stream, func, "writes", [self._memory[place].write, *self._memory[place].reads])
        self._memory.update({place: History(now) for place in written | new})
        self.log.append((stream.name, func._schema.name.removeprefix("aten::"),
                         sum(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))))

    def _check(self, stream: Stream, func, does: str, accesses: Iterable[tuple[str, int]]) -> None:
        for access in accesses:
            if not stream.knows(access):
                self.races.append(f"{func} on {stream.name} {does} what {access[0]} uses")


def _places(tree: object) -> set[int]:
    """Return where the memory of the tensors of a tree lies."""
    return {x.untyped_storage().data_ptr() for x in tree_leaves(tree) if isinstance(x, Tensor)} - {0}
