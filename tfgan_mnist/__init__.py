"""GAN, DCGAN and conditional DCGAN on MNIST and its relatives, in TensorFlow and Keras 3.

from tfgan_mnist import DCGAN
"""

from typing import TYPE_CHECKING

from tfgan_mnist import models
from tfgan_mnist.models import registration

if TYPE_CHECKING:
    from tfgan_mnist.models.cdcgan import CDCGAN
    from tfgan_mnist.models.dcgan import DCGAN
    from tfgan_mnist.models.gan import GAN

__version__ = "0.1.0"
__all__ = ["CDCGAN", "DCGAN", "GAN", "__version__"]


def __getattr__(name: str):  # PEP 562
    if name not in models.MODELS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(models, name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


registration.register()
