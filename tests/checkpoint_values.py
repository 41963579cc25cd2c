"""Compares runs by their newest checkpoints, read apart from the code that writes them."""

import numpy as np

from tests.faults.kills import tensors


def values(run) -> dict[str, np.ndarray]:
    """Every tensor of the newest checkpoint of a run, and the checkpoint's name under "newest"."""
    newest = max((run / "checkpoints").glob("step_*"))
    return {"newest": np.array(newest.name)} | tensors(newest / "state")


def assert_same(run, other) -> None:
    """Two runs' newest checkpoints hold the same tensors, bit for bit."""
    one, two = values(run), values(other)
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
