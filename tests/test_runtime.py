"""What `--precision=auto` and others come to on machines that this one is not."""

import pytest
import tensorflow as tf

from tfgan_mnist.training import runtime


@pytest.fixture
def machine(monkeypatch):
    """Pretends that the machine has GPUs of the given compute capabilities."""

    def pretend(*capabilities):
        gpus = list(range(len(capabilities)))
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda gpu: {"compute_capability": capabilities[gpu]},
        )

    return pretend


@pytest.mark.parametrize(
    ("capabilities", "precision", "xla", "steps_per_execution"),
    [
        ([], "float32", "no", 1),
        ([(7, 0)], "mixed_float16", "yes", 16),
        ([(9, 0), (8, 0)], "mixed_float16", "yes", 1),
        ([(9, 0), (6, 1)], "float32", "yes", 1),
    ],
)
def test_the_devices_decide(machine, capabilities, precision, xla, steps_per_execution):
    machine(*capabilities)
    assert runtime.resolve_precision("auto") == precision
    assert runtime.resolve_xla("auto") == xla
    # Several devices make one step at a time.
    assert runtime.steps_per_execution(max(len(capabilities), 1)) == steps_per_execution


def test_what_is_named_is_kept(machine):
    machine((9, 0))
    assert runtime.resolve_precision("mixed_bfloat16") == "mixed_bfloat16"
    assert runtime.resolve_xla("no") == "no"
