"""Trace of the operations of a training step: FLOPs, memory traffic, host synchronizations and peak memory.

The tensors are fake (`FakeTensorMode`): they have a shape, a dtype and a device but no values. So a step of full size
is traced in seconds, for a GPU that the machine does not have.
"""

import contextlib
import math
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

MATRIX_PRODUCTS, ATTENTION, ELEMENT_WISE = "matrix products", "attention", "element-wise"
PROJECT = Path(__file__).parents[1] / "platform"
aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm}
SELECTING = {
    aten.embedding,
    aten.index_select,
    aten.index,
    aten.gather,
}  # read only some elements of the first argument
SCATTERING = {aten.index_put_, aten.index_add_, aten.scatter_}  # write only some elements of it
OVERWRITING = {aten.copy_, aten.fill_, aten.zero_, *SCATTERING}  # do not read it
ALLOCATING = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
ALIASING = {aten._unsafe_view, aten.lift_fresh, aten.detach, aten.view, aten.alias}
COPIES = {aten._to_copy, aten.copy_}
FLOPS = {**flop_registry, aten.addmm_: flop_registry[aten.addmm]}
Sizes = dict[int, int]  # bytes by the number of a storage


@dataclass(frozen=True)
class Operation:
    """Work of one operation; `reads` and `writes` map the numbers of storages to bytes."""

    component: str
    kind: str
    name: str
    flops: int
    reads: Sizes
    writes: Sizes

    @property
    def bytes(self) -> int:
        return sum(self.reads.values()) + sum(self.writes.values())


@dataclass(frozen=True)
class Location:
    """Occurrence of something with its file and line in this project."""

    what: str
    where: str


@dataclass(eq=False)
class OperationTrace(TorchDispatchMode):
    """Records the operations on tensors of an enclosing `FakeTensorMode`.

    Reads of values, which fake tensors do not have, return 1. `nonzero` and boolean indices select every element.

    Attributes:
        device: type of the device that should run all operations.
        component: part of the step that the next operations belong to; set by the caller.
        synchronizations: points at which the host waits for the device.
        host_operations: operations that compute on the host.
        live_bytes, peak_bytes: bytes of all storages on the device, now and at most.
    """

    device: str
    component: str = ""
    operations: list[Operation] = field(default_factory=list)
    synchronizations: list[Location] = field(default_factory=list)
    host_operations: list[Location] = field(default_factory=list)
    live_bytes: int = 0
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self._numbers: dict[int, int] = {}  # of live storages, by address
        self._storages: dict[int, weakref.ref[Any]] = {}
        self._created = 0
        self._is_fused = False
        self._context = contextlib.ExitStack()

    def __enter__(self) -> "OperationTrace":
        self._context.enter_context(mock.patch.object(FakeTensor, "tolist", read_list))
        self._context.enter_context(CudaAttention())
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._context.close()

    def clear(self) -> None:
        """Forget all operations; the memory of live tensors still counts."""
        self.operations.clear()
        self.synchronizations.clear()
        self.host_operations.clear()
        self.peak_bytes = self.live_bytes

    @property
    def live_storages(self) -> set[int]:
        return set(self._storages)

    def number(self, tensor: Tensor) -> int:
        """Return the number of the storage of a tensor, and count its memory if it is new."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._numbers:
            self._created += 1
            self._numbers[address] = number = self._created
            size = storage.nbytes() if tensor.device.type == self.device else 0
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)

            def release(_: object) -> None:
                del self._numbers[address], self._storages[number]
                self.live_bytes -= size

            self._storages[number] = weakref.ref(storage, release)
        return self._numbers[address]

    def run_fused(self, function: Callable[..., Any], args: Any, *, inputs: Iterable[Tensor], passes: int) -> Any:
        """Run a function as one kernel that reads its inputs `passes` times and stores no intermediate results."""
        reads = {number: passes * size for number, size in self._sizes(inputs).items()}
        self._is_fused = True
        result = function(*args)
        self._is_fused = False
        writes = self._sizes(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        self.operations.append(Operation(self.component, ELEMENT_WISE, "fused", 0, reads, writes))
        return result

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.namespace != "aten" or self._is_fused:
            return function(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(tensor.device.type == self.device for tensor in inputs)
        answer = ANSWERS.get(function.overloadpacket, lambda *_: None)(*args) if on_device else None
        if answer is not None:
            self._synchronize(str(function))
        result = function(*args, **kwargs) if answer is None else answer
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._check_devices(function, inputs, outputs, kwargs)
        if not (function.is_view or function.overloadpacket in ALIASING | ALLOCATING):
            self._record(function, args, kwargs, inputs, outputs)
        self._sizes(outputs)
        return result

    def _synchronize(self, what: str) -> None:
        self.synchronizations.append(Location(what, location()))

    def _check_devices(self, function: Any, inputs: list[Tensor], outputs: list[Tensor], kwargs: Any) -> None:
        is_copy, is_view = function.overloadpacket in COPIES, function.is_view or function.overloadpacket in ALIASING
        to_host = any(tensor.device.type != self.device for tensor in outputs)
        if to_host and not is_copy and not is_view:
            self.host_operations.append(Location(str(function), location()))
        devices = {tensor.device.type for tensor in (*inputs[:2], *outputs)}
        if is_copy and len(devices) > 1 and not kwargs.get("non_blocking"):
            self._synchronize("copy to the host" if to_host else "blocking copy from the host")

    def _record(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        packet = function.overloadpacket
        written = written_arguments(function, args, kwargs)
        known = {tensor.untyped_storage()._cdata for tensor in inputs}
        new = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in known]
        is_overwritten = packet in OVERWRITING or function._overloadname == "out"
        read = [tensor for tensor in inputs if not (is_overwritten and any(tensor is each for each in written))]
        if packet in SELECTING:
            read = inputs[1:]
        elif packet.__name__.endswith("_like") or packet.__name__.startswith("new_"):
            read = []
        reads, writes = self._sizes(read), self._sizes([*new, *written])
        if packet in SELECTING and written + new:
            reads[self.number(inputs[0])] = stored_bytes((written + new)[0])
        if packet in SCATTERING:
            writes = {self.number(inputs[0]): stored_bytes(inputs[-1])}
        kind = MATRIX_PRODUCTS if packet in PRODUCTS else ATTENTION if "attention" in str(packet) else ELEMENT_WISE
        formula, result = FLOPS.get(packet), outputs[0] if len(outputs) == 1 else outputs
        flops = formula(*args, **kwargs, out_val=result) if formula else 0
        self.operations.append(Operation(self.component, kind, str(packet).removeprefix("aten."), flops, reads, writes))

    def _sizes(self, tensors: Iterable[Tensor]) -> Sizes:
        sizes: Sizes = {}
        for tensor in tensors:
            number = self.number(tensor)
            if tensor.device.type == self.device:
                sizes[number] = max(sizes.get(number, 0), stored_bytes(tensor))
        return sizes


class CudaAttention(TorchFunctionMode):
    """Runs the memory-efficient attention kernel, which torch chooses on a GPU for a batch with padding."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = efficient_attention if function is F.scaled_dot_product_attention else function
        return run(*args, **(kwargs or {}))


def efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    bias = attn_mask
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), -math.inf)
    if bias is not None:
        bias = bias.expand(*query.shape[:3], key.shape[2])
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    run = aten._scaled_dot_product_efficient_attention
    return run(query, key, value, bias, needs_gradient, dropout_p, is_causal, scale=scale)[0]


def read_item(tensor: Tensor) -> bool | int | float:
    return np.ones((), str(tensor.dtype).removeprefix("torch.").replace("bfloat16", "float32")).item()


def read_list(tensor: Tensor) -> list[Any]:
    """Stand-in for `tolist`, which copies all values at once."""
    tensor.cpu()
    dtype = str(tensor.dtype).removeprefix("torch.").replace("bfloat16", "float32")
    return np.ones(tuple(tensor.shape), dtype).tolist()


def all_positions(tensor: Tensor) -> Tensor:
    return tensor.new_empty((tensor.numel(), tensor.dim()), dtype=torch.int64)


def all_elements(tensor: Tensor, indices: Any) -> Tensor | None:
    """Return the result of a boolean index; None for another index."""
    if indices[0] is None or indices[0].dtype not in (torch.bool, torch.uint8):
        return None
    return tensor.flatten(0, indices[0].dim() - 1).clone()


ANSWERS: Mapping[Any, Callable[..., Any]] = {
    aten._local_scalar_dense: read_item,
    aten.nonzero: all_positions,
    aten.index: all_elements,
}


def written_arguments(function: Any, args: Any, kwargs: Any) -> list[Tensor]:
    written: list[Tensor] = []
    for index, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            written += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return written


def stored_bytes(tensor: Tensor) -> int:
    """Return the bytes of the elements in memory; expanded dimensions are stored once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride) * tensor.element_size()


def location() -> str:
    """Return the innermost line of the product."""
    for frame in reversed(traceback.extract_stack()):
        if Path(frame.filename).is_relative_to(PROJECT):
            return f"{Path(frame.filename).relative_to(PROJECT)}:{frame.lineno}"
    return "unknown"


def fuse(operations: Iterable[Operation], live: set[int], components: set[str]) -> Iterator[Operation]:
    """Merge element-wise operations of some components between two matrix products into one kernel.

    The kernel reads each input once. It writes the results that a later operation reads or that are `live` after the
    trace.
    """
    operations = list(operations)
    last_read = {number: index for index, operation in enumerate(operations) for number in operation.reads}
    group: list[Operation] = []

    def merged(end: int) -> Iterator[Operation]:
        reads: Sizes = {}
        written: Sizes = {}
        for operation in group:
            reads |= {number: size for number, size in operation.reads.items() if number not in written}
            written |= operation.writes
        writes = {
            number: size for number, size in written.items() if number in live or last_read.get(number, -1) >= end
        }
        if group:
            yield Operation(group[0].component, ELEMENT_WISE, "fused", 0, reads, writes)
        group.clear()

    for index, operation in enumerate(operations):
        is_fusible = operation.kind == ELEMENT_WISE and operation.component in components
        if group and (not is_fusible or operation.component != group[0].component):
            yield from merged(index)
        if is_fusible:
            group.append(operation)
        else:
            yield operation
    yield from merged(len(operations))
