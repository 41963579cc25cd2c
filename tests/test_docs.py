"""The Python of the documents, run as it stands, with fewer images and samples."""

import functools
import re
from pathlib import Path

import pytest

import tfgan_mnist
from tfgan_mnist import data, notebook

ROOT = Path(__file__).parents[1]


def blocks(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_the_python_of_the_documents_runs(document, mnist, tmp_path, monkeypatch):
    few = [data.Split(*(part[:1000] for part in split)) for split in (mnist.train, mnist.test)]
    small = mnist._replace(train=few[0], test=few[1])
    monkeypatch.setattr(data, "load", lambda: small)
    score = functools.partial(notebook.score, num=1000)
    monkeypatch.setattr(tfgan_mnist, "score", score, raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(document):
        exec(block, names)
    written = {path.suffix for path in tmp_path.iterdir()}
    assert ".keras" in written
