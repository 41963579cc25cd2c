"""The notebooks: the same code in both languages, complete, small, and true to the recorded runs.

`python -m pytest --nbmake learn/*.ipynb` runs the English ones.
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEARN = ROOT / "learn"
ENGLISH = sorted(LEARN.glob("*.ipynb"))
BOTH = [*ENGLISH, *sorted((LEARN / "zh").glob("*.ipynb"))]
RECORDED = {
    "high learning rates": "failing-learning_rate",
    "20 updates of D": "failing-discriminator_steps",
    "minimax loss": "failing-minimax",
}


def cells_of(path, kind):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


def sources_of(path, kind="code"):
    return ["".join(cell["source"]) for cell in cells_of(path, kind)]


def name_of(path):
    return str(path.relative_to(LEARN))


def test_there_are_six_in_each_language():
    assert len(ENGLISH) == 6
    assert [path.name for path in BOTH[6:]] == [path.name for path in ENGLISH]


@pytest.mark.parametrize("path", ENGLISH, ids=name_of)
def test_the_chinese_notebook_has_the_same_code_and_outputs(path):
    ours, theirs = (cells_of(each, "code") for each in (path, LEARN / "zh" / path.name))
    assert [cell["source"] for cell in ours] == [cell["source"] for cell in theirs]
    assert [cell["outputs"] for cell in ours] == [cell["outputs"] for cell in theirs]


@pytest.mark.parametrize("path", BOTH, ids=name_of)
def test_a_notebook_is_complete_and_small(path):
    code = cells_of(path, "code")
    assert len(code) <= 12
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < 200_000
    text = "\n".join(sources_of(path, "markdown"))
    assert text.count("<details>") == text.count("</details>") == 3  # exercises with answers
    assert "arxiv.org" in text or path.name.startswith("6")
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }  # no error


def test_all_install_the_same_package_from_the_same_place():
    places = set()
    for path in BOTH:
        text = path.read_text(encoding="utf-8")
        places |= set(re.findall(r"github(?:\.com)?/([\w.-]+/tfgan-mnist)", text))
        assert f"/blob/main/learn/{name_of(path)}" in text
    assert len(places) == 1, places
    assert len({sources_of(path)[0] for path in BOTH}) == 1


def test_the_failed_runs_are_the_recorded_ones():
    source = next(s for s in sources_of(LEARN / "4-what-goes-wrong.ipynb") if "failing = {" in s)
    namespace = {}
    exec(source, namespace)
    columns = namespace["columns"].split()
    for name, folder in RECORDED.items():
        recorded = [{}, {}, {}]
        for file in ("log.csv", "evaluations.csv"):
            lines = (ROOT / "tests" / "watched" / folder / file).read_text().splitlines()
            keys, *rows = [line.split(",") for line in lines]
            for row, values in zip(recorded, rows, strict=True):
                row |= dict(zip(keys, map(float, values)))
        for row, values in zip(recorded, namespace["failing"][name], strict=True):
            row["eights"] = row["class_8"]
            expected = [row[column] for column in columns]
            assert values == pytest.approx(expected, rel=0.02, abs=5e-6), name
