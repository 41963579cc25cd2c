"""Which trouble a run is in, from its log and evaluations: pure rules, one diagnosis at a time.

The thresholds are crude on purpose: a run that learns, however slowly, is left alone. The three
default recipes stay clear of all of them, and runs made to fail do not; `tests/watched/` holds the
tables of both.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from tfgan_mnist.runs import Row

# D's accuracy on real and on generated images, while samples are useless. Healthy recipes: up to
# 0.91, with good samples; those that failed: from 0.94 on.
TOO_STRONG = 0.9
TOO_STRONG_UNSEEN = 0.98  # when nothing was ever said of the samples
TOO_WEAK = 0.55
# G's gradient beside its first epoch's. Healthy recipes: within a factor of 10.
VANISHED = 1e-3
# A class is missing at less than this part of its share of the real images.
MISSING = 0.1
# Share of the real images in missing classes. Healthy recipes: 0 from the first evaluation on.
COLLAPSED = 0.3
# Real images that are like any sample, though samples are like real images. A healthy gan
# had a recall of 0.09 after 3 of 12 epochs, and of 0.009 after 3 epochs if these were all it got.
FEW_ALIKE, MANY_ALIKE = 0.005, 0.5
# Of the class histograms of two evaluations: half the sum of the shares' differences.
SWING = 0.4
WORSE = 3.0  # times the best FID so far
MAX_NAMED = 5


class Diagnosis(NamedTuple):
    """A trouble in one line: what is seen, and what to try."""

    kind: str
    seen: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.seen}. Try {self.advice}."


def diagnose(
    log: list[Row], evaluations: list[Row], real: np.ndarray, spread: float
) -> Diagnosis | None:
    """The first trouble that the newest rows show, None when they show none.

    Args:
      log: rows of log.csv, the newest last, at least one.
      evaluations: rows of evaluations.csv, if there are any. What they tell is looked at in epochs
        that have one; in others the newest says whether the samples are of use.
      real: (K,) the real images' class histogram.
      spread: the FID of samples that are all the average real image: the trace of the real
        features' covariance. Samples beyond it are of no use.
    """
    newest = log[-1]
    broken = [key for key, value in newest.items() if not math.isfinite(value)]
    if broken:
        return non_finite(broken[0], newest[broken[0]])
    last = evaluations[-1] if evaluations else None
    current = last if last and last["epoch"] == newest["epoch"] else None
    if current and not math.isfinite(current["fid"] + current["jsd_bound"]):
        return non_finite("a sample, or a logit of one,", math.nan)
    useless = last is not None and last["fid"] >= spread
    diagnoses = (
        _too_strong(newest, log[0], TOO_STRONG) if useless else None,
        _too_strong(newest, log[0], TOO_STRONG_UNSEEN) if last is None else None,
        _collapsed(current, real) if current else None,
        _too_weak(newest) if current and useless else None,
        _alike(current) if current else None,
        _oscillates(evaluations) if current else None,
    )
    return next((diagnosis for diagnosis in diagnoses if diagnosis), None)


def non_finite(key: str, value: float) -> Diagnosis:
    """The diagnosis of a value of the log that is NaN or infinite."""
    return Diagnosis(
        "non-finite values",
        f"{key} became {value}",
        "lower learning rates, another --loss, or --precision=float32",
    )


def skipped(steps: int) -> Diagnosis:
    """The diagnosis of a step, or several in a row, that had an update left out."""
    diagnosis = non_finite("a gradient", math.nan)
    times = f" in {steps} steps in a row" if steps > 1 else ""
    return diagnosis._replace(seen=f"a gradient was NaN or infinite{times}; its update was skipped")


def _too_strong(row: Row, first: Row, accuracy: float) -> Diagnosis | None:
    real, fake = row["d_real_accuracy"], row["d_fake_accuracy"]
    advice = (
        "lower learning rates (D's first), fewer --discriminator_steps, "
        "--loss=non_saturating or --label_smoothing=0.1"
    )
    kind = "the discriminator is too strong"
    if min(real, fake) >= accuracy:
        seen = f"it is right about {real:.1%} of real and {fake:.1%} of generated images"
        return Diagnosis(kind, seen, advice)
    before, now = first["g_gradient_norm"], row["g_gradient_norm"]
    # Of an epoch whose updates were all left out there is no mean, and the log has 0.
    if 0 < now < VANISHED * before:
        seen = f"the generator's gradient has shrunk from {before:.2g} to {now:.2g}"
        return Diagnosis(kind, seen, advice)
    return None


def _too_weak(row: Row) -> Diagnosis | None:
    accuracy = (row["d_real_accuracy"] + row["d_fake_accuracy"]) / 2
    if accuracy > TOO_WEAK:
        return None
    return Diagnosis(
        "the discriminator is too weak",
        f"it is right about {accuracy:.1%} of the images, while the samples are far from real ones",
        "a higher --d_learning_rate, a larger discriminator, or more --discriminator_steps",
    )


def _collapsed(evaluation: Row, real: np.ndarray) -> Diagnosis | None:
    counts = np.array([evaluation[f"class_{k}"] for k in range(len(real))])
    shares, real = counts / counts.sum(), real / real.sum()
    missing = shares < MISSING * real
    if real[missing].sum() < COLLAPSED:
        return None
    kept, lost = np.flatnonzero(~missing), np.flatnonzero(missing)
    if len(kept) <= MAX_NAMED:
        seen = f"{shares[kept].sum():.0%} of the samples are of {_classes(kept)}"
    elif len(lost) <= MAX_NAMED:
        seen = f"{_classes(lost)} are missing from the samples"
    else:
        seen = f"{len(lost)} of {len(real)} classes are missing from the samples"
    kind = f"collapse onto {_classes(kept) if len(kept) <= MAX_NAMED else 'some classes'}"
    advice = "lower learning rates, a larger --batch_size, or another --loss (relativistic)"
    return Diagnosis(kind, seen, advice)


def _alike(evaluation: Row) -> Diagnosis | None:
    if not (evaluation["recall"] < FEW_ALIKE and evaluation["precision"] > MANY_ALIKE):
        return None
    return Diagnosis(
        "collapse within classes",
        f"samples are like real images (precision {evaluation['precision']:.2f}), but real images "
        f"are not like samples (recall {evaluation['recall']:.3f}): they are much alike",
        "lower learning rates, a larger --batch_size, or another --loss (relativistic)",
    )


def _oscillates(evaluations: list[Row]) -> Diagnosis | None:
    advice = "lower learning rates, a larger --batch_size, or a higher --ema"
    best = min(evaluations, key=lambda row: row["fid"])
    newest = evaluations[-1]
    if newest["fid"] > WORSE * best["fid"]:
        seen = (
            f"the FID was {best['fid']:.3g} after epoch {best['epoch']:.0f} and is "
            f"{newest['fid']:.3g} now"
        )
        return Diagnosis("oscillation", seen, advice)
    shares = [
        np.array([value for key, value in row.items() if key.startswith("class_")])
        for row in evaluations[-3:]
    ]
    shares = [each / each.sum() for each in shares]
    swings = [np.abs(a - b).sum() / 2 for a, b in itertools.pairwise(shares)]
    if len(swings) == 2 and min(swings) > SWING:
        seen = "the samples' classes change places from one evaluation to the next"
        return Diagnosis("oscillation", seen, advice)
    return None


def _classes(classes: np.ndarray) -> str:
    names = [str(k) for k in classes]
    return f"class{'es' if len(names) > 1 else ''} {', '.join(names)}"
