"""The training step, the three models, and the parts that they are made of.

The models are imported at first use: importing the package does not import TensorFlow, which takes
seconds, and `python -m tfgan_mnist.train --help` should not.
"""

import importlib

from tfgan_mnist.models import registration


def __getattr__(name: str):  # PEP 562
    if name not in registration.MODELS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    registration.import_models()
    return getattr(importlib.import_module(f"{__name__}.{name.lower()}"), name)
