"""Reads checkpoints apart from the code that writes them."""

import numpy as np


def values(run) -> dict[str, np.ndarray]:
    """Every tensor of the newest checkpoint of a run, and the checkpoint's name under "newest"."""
    import tensorflow as tf

    newest = max((run / "checkpoints").glob("step_*"))
    reader = tf.train.load_checkpoint(str(newest / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    assert names
    return {"newest": np.array(newest.name)} | {name: reader.get_tensor(name) for name in names}


def assert_same(run, other) -> None:
    """Two runs' newest checkpoints hold the same tensors, bit for bit."""
    one, two = values(run), values(other)
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
