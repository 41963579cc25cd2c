"""GAN, DCGAN and conditional DCGAN on MNIST and its relatives, in TensorFlow and Keras 3.

from tfgan_mnist import DCGAN
"""

import importlib
from typing import TYPE_CHECKING

from tfgan_mnist.models import registration

if TYPE_CHECKING:
    from tfgan_mnist.models.cdcgan import CDCGAN
    from tfgan_mnist.models.dcgan import DCGAN
    from tfgan_mnist.models.gan import GAN
    from tfgan_mnist.notebook import (
        Evaluation,
        ExportSavedModel,
        SampleGrid,
        load_model,
        load_run,
        score,
        show,
    )

__version__ = "0.1.0"
__all__ = [
    "CDCGAN",
    "DCGAN",
    "GAN",
    "Evaluation",
    "ExportSavedModel",
    "SampleGrid",
    "__version__",
    "load_model",
    "load_run",
    "score",
    "show",
]


def __getattr__(name: str):  # PEP 562: importing the package does not import TensorFlow
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    source = "models" if name in registration.MODELS else "notebook"
    return getattr(importlib.import_module(f"{__name__}.{source}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


registration.register()
