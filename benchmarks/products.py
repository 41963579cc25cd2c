"""The matrix products and convolutions of a training step: counted, and timed one by one."""

import statistics
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

KINDS = ("MatMul", "Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")
ATTRIBUTES = {
    "MatMul": ("transpose_a", "transpose_b"),
    **dict.fromkeys(KINDS[1:], ("strides", "padding", "explicit_paddings", "data_format")),
}
REPEATS = 15


class Product(NamedTuple):
    """One operation, without its place in the graph."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]  # of its inputs that are not sizes, then of its output
    attributes: tuple[tuple[str, Any], ...]
    dtype: str

    @property
    def flops(self) -> int:
        """Two for each multiplication and addition; those with zeros of the padding are counted."""
        if self.kind == "MatMul":
            rows, columns = self.shapes[0]
            inner = rows if dict(self.attributes)["transpose_a"] else columns
            return 2 * inner * int(np.prod(self.shapes[-1]))
        _, small, kernel = self.convolution()
        return 2 * int(np.prod(small[:3])) * int(np.prod(kernel))

    def convolution(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The shapes of the forward convolution that this one is or differentiates.

        Returns:
          Its input (B, H, W, C), its output (B, h, w, c) and its kernel (k, k, C, c).
        """
        if self.kind == "Conv2D":
            large, kernel, small = self.shapes
        elif self.kind == "Conv2DBackpropInput":
            kernel, small, large = self.shapes
        else:
            large, small, kernel = self.shapes
        return large, small, kernel

    def as_matrix_product(self) -> "Product":
        """The matrix product that a convolution is, with the pixels under its kernel as rows.

        Computed by such products it has that to do, and to lay out the rows or to add them up.
        """
        if self.kind == "MatMul":
            return self
        _, small, kernel = self.convolution()
        positions, under, channels = int(np.prod(small[:3])), int(np.prod(kernel[:3])), kernel[3]
        rows, weights, results = (positions, under), (under, channels), (positions, channels)
        shapes, transposed = {
            "Conv2D": ((rows, weights, results), ""),
            "Conv2DBackpropInput": ((results, weights, rows), "b"),
            "Conv2DBackpropFilter": ((rows, results, weights), "a"),
        }[self.kind]
        attributes = tuple((f"transpose_{side}", side == transposed) for side in "ab")
        return Product("MatMul", shapes, attributes, self.dtype)

    def __str__(self) -> str:
        if self.kind == "MatMul":
            return " x ".join("x".join(map(str, shape)) for shape in self.shapes[:2])
        large, small, kernel = self.convolution()
        sides = [f"{shape[1]}x{shape[2]}x{shape[3]}" for shape in (large, small)]
        return f"{sides[0]} ~ {sides[1]}, {kernel[0]}x{kernel[1]}"


def found_in(graph: tf.Graph) -> list[tuple[str, Product]]:
    """Names and products of a traced function, those of functions that it calls included.

    Raises:
      ValueError: a product of unknown shape; trace with a batch of known size.
    """
    graphs = [graph, *(function.graph for function in graph._functions.values())]
    found = []
    for operation in [operation for each in graphs for operation in executed(each)]:
        if operation.type not in KINDS:
            continue
        # Sizes of the result come as an input, the first for an input's gradient.
        sizes = {"Conv2DBackpropInput": 0, "Conv2DBackpropFilter": 1}.get(operation.type)
        tensors = [t for i, t in enumerate(operation.inputs) if i != sizes]
        tensors += operation.outputs
        if not all(tensor.shape.is_fully_defined() for tensor in tensors):
            raise ValueError(f"{operation.name}: its shapes are not known: {tensors}")
        attributes = tuple(
            (key, _plain(operation.get_attr(key))) for key in ATTRIBUTES[operation.type]
        )
        shapes = tuple(tuple(tensor.shape.as_list()) for tensor in tensors)
        dtype = operation.inputs[1 if sizes == 0 else 0].dtype.name
        found.append((operation.name, Product(operation.type, shapes, attributes, dtype)))
    return found


def executed(graph: tf.Graph) -> list[tf.Operation]:
    """The operations of a traced function that its results or effects depend on.

    Gradients are traced for all inputs of an operation, and TensorFlow drops what nobody asks for.
    """
    left = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    needed = set(left)
    while left:
        operation = left.pop()
        for before in [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]:
            if before not in needed:
                needed.add(before)
                left.append(before)
    return [operation for operation in graph.get_operations() if operation in needed]


def seconds(product: Product) -> float:
    """Of one execution alone on the machine, the median of some."""
    random = np.random.default_rng(0)
    tensors = [
        tf.cast(random.standard_normal(shape, np.float32), product.dtype)
        for shape in product.shapes[:-1]
    ]
    attributes = {
        key: list(value) if isinstance(value, tuple) else value for key, value in product.attributes
    }
    result = list(product.shapes[-1])

    @tf.function(autograph=False)  # AutoGraph knows no `match`, and would say so each time
    def run(first, second):
        match product.kind:
            case "MatMul":
                return tf.raw_ops.MatMul(a=first, b=second, **attributes)
            case "Conv2D":
                return tf.raw_ops.Conv2D(input=first, filter=second, **attributes)
            case "Conv2DBackpropInput":
                return tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=result, filter=first, out_backprop=second, **attributes
                )
            case _:
                return tf.raw_ops.Conv2DBackpropFilter(
                    input=first, filter_sizes=result, out_backprop=second, **attributes
                )

    for _ in range(3):
        run(*tensors)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run(*tensors)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ceilings(dtype: str = "float32") -> dict[str, float]:
    """GFLOP/s of the best of some shapes that suit the machine: `matmul` and `convolution`."""
    attributes = (("transpose_a", False), ("transpose_b", False))
    square = [
        Product("MatMul", ((side, side),) * 3, attributes, dtype) for side in (1024, 1536, 2048)
    ]
    plain = (
        ("strides", (1, 1, 1, 1)),
        ("padding", "SAME"),
        ("explicit_paddings", ()),
        ("data_format", "NHWC"),
    )
    convolutions = [
        Product(
            "Conv2D",
            ((*image, inputs), (size, size, inputs, outputs), (*image, outputs)),
            plain,
            dtype,
        )
        for image, size, inputs, outputs in (
            ((64, 7, 7), 5, 128, 256),
            ((64, 14, 14), 3, 128, 128),
            ((64, 14, 14), 5, 64, 128),
            ((64, 28, 28), 3, 64, 64),
        )
    ]
    return {
        name: max(product.flops / seconds(product) for product in products) / 1e9
        for name, products in (("matmul", square), ("convolution", convolutions))
    }


def _plain(value):
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, list) else value
