"""Packaging of tfgan_mnist; the tools' settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
LITERT = ["ai-edge-litert>=2.3"]
ONNX = ["onnx", "onnxruntime", "tf2onnx>=1.17"]  # tf2onnx 1.17 works with NumPy 2
SERVE = [
    *("grpcio>=1.85", "orjson>=3.13", "tensorflow-serving-api>=2.21"),
    *("h11", "uvicorn>=0.30"),
]


def version() -> str:
    """The version as `tfgan_mnist/__init__.py` states it, read without importing the package."""
    source = (ROOT / "tfgan_mnist" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if match is None:
        raise ValueError('tfgan_mnist/__init__.py has no line `__version__ = "..."`')
    return match[1]


setup(
    name="tfgan-mnist",
    version=version(),
    description="GAN, DCGAN and conditional DCGAN on MNIST, in TensorFlow and Keras 3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=["tfgan_mnist", "tfgan_mnist.*"]),
    package_data={"tfgan_mnist": ["assets/**"]},
    # 3.11 has tomllib, which reads the configurations; Keras 3.15 asks for it as well.
    python_requires=">=3.11",
    # Lower bounds are the versions that this code was written and measured with. There are no upper
    # bounds, as no release is known to break it.
    install_requires=[
        "absl-py",
        # Not imported here: TensorFlow Datasets 4.9.10 imports it and declares it only for
        # Python < 3.9, so that the first builder fails in an environment without it.
        "importlib_resources",
        "keras>=3.15",
        "matplotlib",
        "numpy",
        "pillow>=10.1",  # Image.has_transparency_data
        "tensorflow>=2.21",
        "tensorflow-datasets>=4.9.10",
    ],
    extras_require={
        # One of the peers that benchmarks/ measures ours against.
        "benchmarks": ["torch"],
        # The other formats of `python -m tfgan_mnist.export`.
        "litert": LITERT,
        # keras.utils.plot_model; it also needs the program Graphviz.
        "plot": ["pydot"],
        "onnx": ONNX,
        # tensorflow-serving-api has the messages of both interfaces and of the configuration.
        "serve": SERVE,
        # TensorFlow 2.21 no longer brings it, and its tf.summary writes nothing without it.
        "tensorboard": ["tensorboard"],
        "test": [
            *("hypothesis", "mypy", "pytest>=8", "pytest-xdist", "pyyaml", "ruff", "scipy"),
            *("ipykernel", "nbmake"),  # run learn/
            "tensorboard",
            *(LITERT + ONNX + SERVE),
        ],
    },
)
