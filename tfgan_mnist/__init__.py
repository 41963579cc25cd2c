"""GAN, DCGAN and conditional DCGAN on MNIST and its relatives, in TensorFlow and Keras 3.

    from tfgan_mnist import DCGAN

The models are imported at first use: importing the package does not import TensorFlow, which takes
seconds, and `python -m tfgan_mnist.train --help` should not.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfgan_mnist.models.cdcgan import CDCGAN
    from tfgan_mnist.models.dcgan import DCGAN
    from tfgan_mnist.models.gan import GAN

__version__ = "0.1.0"
__all__ = ["CDCGAN", "DCGAN", "GAN", "__version__"]

_MODULE_OF = {
    "CDCGAN": "tfgan_mnist.models.cdcgan",
    "DCGAN": "tfgan_mnist.models.dcgan",
    "GAN": "tfgan_mnist.models.gan",
}


def __getattr__(name: str):  # PEP 562
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
