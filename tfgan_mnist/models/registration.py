"""Lets Keras know the models without importing Keras.

`import tfgan_mnist` is quick, as commands check their flags before TensorFlow starts. So that
`keras.saving.load_model` knows the classes all the same, they are imported right after Keras.
"""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder

MODELS = ("GAN", "DCGAN", "CDCGAN")
MODULES = tuple(f"tfgan_mnist.models.{name.lower()}" for name in MODELS)


class AfterKeras(MetaPathFinder):
    """Finds Keras as it would be found without it, and imports the models after it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                if not any(name in sys.modules for name in MODULES):  # one of them imports Keras
                    import_models()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def import_models() -> None:
    """Imports the models, which registers their classes."""
    for name in ("keras", *MODULES):
        importlib.import_module(name)


def register() -> None:
    """Registers the models, now or when Keras is imported.

    Raises:
      ImportError: Keras is imported with another backend than TensorFlow.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the step's; Keras reads it when it is imported
    keras = sys.modules.get("keras")
    if not keras:
        sys.meta_path.insert(0, AfterKeras())
    elif keras.config.backend() != "tensorflow":
        raise ImportError(
            "tfgan_mnist: expected Keras on TensorFlow; received another backend. Import "
            "tfgan_mnist before keras, or set KERAS_BACKEND=tensorflow."
        )
    else:
        import_models()
