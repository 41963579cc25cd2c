"""The training step, the three models, and the parts that they are made of.

`GAN`, `DCGAN` and `CDCGAN` are imported at first use, as in `tfgan_mnist`.
"""

import tfgan_mnist


def __getattr__(name: str):  # PEP 562
    if name in ("GAN", "DCGAN", "CDCGAN"):
        return getattr(tfgan_mnist, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
