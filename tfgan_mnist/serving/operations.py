"""What a SavedModel from anybody may do when it is loaded and run: compute, and nothing else.

A SavedModel is a program. TensorFlow has operations that read and write files, open connections,
call Python functions of the same process or end it, and runs whatever the graph holds; its security
page asks to treat models as code. Here the graph is read first, and one that holds such operations
is not loaded.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# By name, as TensorFlow's registry calls some of them stateless, ReadFile for one.
NOT_PURE = re.compile(
    "File|Reader|Dataset|Iterator|PyFunc|Proto|Vocab|Checkpoint|Save|Restore|Debug|Abort"
    "|Snapshot|TPU|Tpu|Infeed|Outfeed|Xla|Remote|Rpc|Send|Recv|_"
)
# Of what it calls stateful: variables, tables, control flow, randomness.
STATEFUL = re.compile(
    "Variable(V2)?|VarHandleOp|VarIsInitializedOp|(Read|Assign|AssignAdd|AssignSub)VariableOp"
    "|DestroyResourceOp|DisableCopyOnRead|Resource(Apply|Gather|Scatter)[A-Za-z]*"
    "|StatefulPartitionedCall|If|While|Case|Assert|CheckNumerics(V2)?"
    "|(Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?|LookupTable[A-Za-z]*V2"
    "|InitializeTableV2|TensorArray[A-Za-z]*V[23]|Stack[A-Za-z]*V2"
    "|(Random|Stateful[SUTR])[A-Za-z]*|TruncatedNormal|ParameterizedTruncatedNormal|Multinomial"
    "|Rng(ReadAnd)?Skip"
)
# What puts the model's own variables back when it is loaded.
RESTORING = {"RestoreV2"}


def expect_harmless(folder: Path) -> None:
    """Raises ValueError when the SavedModel in a folder has operations that do more than compute.

    Looked at are all that signatures, initialisation and the restoring of variables can reach, and
    all functions but the one that would save a checkpoint, which nobody calls.

    Raises:
      OSError: there is none, or it cannot be read.
    """
    from tensorflow.python.saved_model import loader_impl  # what TensorFlow's own loaders call

    found: set[str] = set()
    for graph in loader_impl.parse_saved_model(str(folder)).meta_graphs:
        found |= set(_operations(graph))
    refused = sorted(operation for operation in found if not is_harmless(operation))
    if refused:
        names = ", ".join(refused[:8]) + (", ..." if len(refused) > 8 else "")
        raise ValueError(
            "expected a model that only computes; it has operations that can read or write files, "
            f"reach other processes or end this one: {names}"
        )


def is_harmless(operation: str) -> bool:
    """Whether an operation of this name only computes; False for those TensorFlow does not know."""
    from tensorflow.python.framework import op_def_registry

    known = op_def_registry.get(operation)
    if known is None or NOT_PURE.search(operation):
        return False
    return not known.is_stateful or bool(STATEFUL.fullmatch(operation))


def _operations(graph: Any) -> Iterator[str]:
    """Names of the operations of a MetaGraphDef that can come to run."""
    nodes = {node.name: node for node in graph.graph_def.node}
    functions = {each.signature.name: each.node_def for each in graph.graph_def.library.function}

    def with_functions(some: Iterable) -> tuple[list, set[str]]:
        """Nodes and those of the functions that they call, and these functions' names."""
        all_nodes = list(some)
        names: set[str] = set()
        for node in all_nodes:  # which grows meanwhile
            for name in _called(node, functions) - names:
                names.add(name)
                all_nodes += functions[name]
        return all_nodes, names

    saver = graph.saver_def
    _, of_saver = with_functions(_reached(nodes, [saver.save_tensor_name, saver.restore_op_name]))
    roots = [
        name
        for signature in graph.signature_def.values()
        for info in [*signature.inputs.values(), *signature.outputs.values()]
        for name in _tensor_names(info)
    ]
    for collection in graph.collection_def.values():
        roots += collection.node_list.value
    # The saver's too, when something else may call them.
    callable_ones = (functions.keys() - of_saver) | (functions.keys() & _named(graph))
    running = _reached(nodes, roots)
    for name in callable_ones:
        running += functions[name]
    restoring = _reached(nodes, [saver.restore_op_name])
    for node in with_functions(running)[0]:
        if node.op not in functions:
            yield node.op
    for node in with_functions(restoring)[0]:
        if node.op not in functions and node.op not in RESTORING:
            yield node.op


def _named(graph: Any) -> set[str]:
    """Functions that objects, whom `tf.saved_model.load` calls them for, or gradients refer to."""
    objects = graph.object_graph_def
    names = set(objects.concrete_functions)
    for node in objects.nodes:
        names.add(node.bare_concrete_function.concrete_function_name)
        names.update(node.function.concrete_functions)
    names.update(each.gradient_func for each in graph.graph_def.library.gradient)
    registered = graph.graph_def.library.registered_gradients
    return names | {each.gradient_func for each in registered}


def _tensor_names(info: Any) -> list[str]:
    """The tensors that a TensorInfo stands for."""
    kind = info.WhichOneof("encoding")
    if kind == "coo_sparse":
        sparse = info.coo_sparse
        return [
            sparse.values_tensor_name,
            sparse.indices_tensor_name,
            sparse.dense_shape_tensor_name,
        ]
    if kind == "composite_tensor":
        return [name for part in info.composite_tensor.components for name in _tensor_names(part)]
    return [info.name]


def _reached(nodes: Mapping[str, Any], tensors: Iterable[str]) -> list:
    """The nodes that have to run for some tensors or operations: "name", "name:0", "^name"."""
    found: dict[str, Any] = {}
    left = list(tensors)
    while left:
        name = left.pop().removeprefix("^").partition(":")[0]
        if name in nodes and name not in found:
            found[name] = nodes[name]
            left += nodes[name].input
    return list(found.values())


def _called(node: Any, functions: Mapping[str, Any]) -> set[str]:
    """Those of the functions that a node names."""
    names = {node.op}
    for value in node.attr.values():
        names |= {value.func.name, *(each.name for each in value.list.func)}
    return names & functions.keys()
