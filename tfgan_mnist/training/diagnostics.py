"""Rules that find out what goes wrong in a run, from its log and its evaluations.

The thresholds leave a run alone that learns, however slowly. tests/watched/ has the tables of the
three default recipes, which none of the rules matches, and of runs made to fail.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfgan_mnist.runs import Row

# D's accuracy on real and on generated images, while samples are far from real images.
TOO_STRONG = 0.9
TOO_STRONG_UNEVALUATED = 0.98  # where no evaluation shows what the samples are like
TOO_WEAK = 0.55
VANISHED = 1e-3  # G's gradient norm, relative to the first epoch's; healthy: 0.1 to 10
MISSING = 0.1  # a class is missing below this part of its share of the real images
COLLAPSED = 0.3  # share of the real images in missing classes; healthy: 0
LOW_RECALL, HIGH_PRECISION = 0.005, 0.5
SWING = 0.4  # total variation distance between the class histograms of two evaluations
WORSE = 3.0  # times the best FID so far
# In the first updates of G samples may still be noise, which no rule about samples is for: none is
# like a real image, or their FID is far beyond that of samples which all equal one real image.
NOISE_PRECISION, NOISE_FID, NOISE_STEPS = 0.01, 4.0, 1_000
MAX_NAMED = 5  # classes in a message


class Diagnosis(NamedTuple):
    """A problem: its name, what was observed, and what to try."""

    kind: str
    observed: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.observed}. Try {self.advice}."


def diagnose(
    log: list[Row],
    evaluations: list[Row],
    real: np.ndarray,
    spread: float,
    class_names: Sequence[str] = (),
) -> Diagnosis | None:
    """The first problem that the newest rows show, None without one.

    Args:
      log: rows of log.csv, the newest last, at least one.
      evaluations: rows of evaluations.csv, if there are any. Rules about samples apply in epochs
        with an evaluation. In the others the newest one shows whether samples are far from real.
      real: (K,) the real images' class histogram.
      class_names: by label; empty where they are the numbers.
      spread: the FID of samples that all equal the average real image: the trace of the real
        features' covariance. Samples beyond it are far from real images.
    """
    newest = log[-1]
    for key, value in newest.items():
        if not math.isfinite(value):
            return non_finite(f"{key} became {value}")
    last = evaluations[-1] if evaluations else None
    if last is None:
        return _too_strong(newest, log[0], TOO_STRONG_UNEVALUATED)
    far = last["fid"] >= spread
    too_strong = _too_strong(newest, log[0], TOO_STRONG) if far else None
    if last["epoch"] != newest["epoch"]:
        return too_strong
    if not math.isfinite(last["fid"] + last["jsd_bound"]):
        return non_finite("a sample or its logit became NaN or infinite")
    noise = last["precision"] < NOISE_PRECISION or last["fid"] > NOISE_FID * spread
    if noise and last["step"] < NOISE_STEPS:
        return too_strong
    return (
        too_strong
        or _collapse(last, real, class_names)
        or (_too_weak(newest) if far else None)
        or _low_diversity(last)
        or _oscillation(evaluations)
    )


def non_finite(observed: str) -> Diagnosis:
    """The diagnosis of values that are NaN or infinite."""
    return Diagnosis(
        "non-finite values",
        observed,
        "lower learning rates, another --loss, or --precision=float32",
    )


def _too_strong(row: Row, first: Row, threshold: float) -> Diagnosis | None:
    real, fake = row["d_real_accuracy"], row["d_fake_accuracy"]
    before, now = first["g_gradient_norm"], row["g_gradient_norm"]
    if min(real, fake) >= threshold:
        observed = f"it is right about {real:.1%} of real and {fake:.1%} of generated images"
    elif now < VANISHED * before:
        observed = f"the generator's gradient norm fell from {before:.2g} to {now:.2g}"
    else:
        return None
    return Diagnosis(
        "the discriminator is too strong",
        observed,
        "lower learning rates (the discriminator's first), fewer --discriminator_steps, "
        "--loss=non_saturating or --label_smoothing=0.1",
    )


def _too_weak(row: Row) -> Diagnosis | None:
    accuracy = (row["d_real_accuracy"] + row["d_fake_accuracy"]) / 2
    if accuracy > TOO_WEAK:
        return None
    return Diagnosis(
        "the discriminator is too weak",
        f"it is right about {accuracy:.1%} of the images, while the samples are far from real ones",
        "a higher --d_learning_rate, a larger discriminator, or more --discriminator_steps",
    )


def _collapse(evaluation: Row, real: np.ndarray, class_names: Sequence[str]) -> Diagnosis | None:
    shares, real = _class_shares(evaluation), real / real.sum()
    missing = shares < MISSING * real
    if real[missing].sum() < COLLAPSED:
        return None
    kept, lost = np.flatnonzero(~missing), np.flatnonzero(missing)
    kind, observed = "collapse onto some classes", f"{len(lost)} of {len(real)} classes are missing"
    if len(kept) <= MAX_NAMED:
        kind = f"collapse onto {_names(kept, class_names)}"
        share = shares[kept].sum()
        observed = f"{share:.0%} of the samples are of {_names(kept, class_names)}"
    elif len(lost) <= MAX_NAMED:
        observed = f"{_names(lost, class_names)} are missing from the samples"
    return Diagnosis(kind, observed, _DIVERSITY_ADVICE)


def _low_diversity(evaluation: Row) -> Diagnosis | None:
    precision, recall = evaluation["precision"], evaluation["recall"]
    if recall >= LOW_RECALL or precision <= HIGH_PRECISION:
        return None
    return Diagnosis(
        "collapse within classes",
        f"high precision ({precision:.2f}), low recall ({recall:.3f}): the samples lack diversity",
        _DIVERSITY_ADVICE,
    )


def _oscillation(evaluations: list[Row]) -> Diagnosis | None:
    best, newest = min(evaluations, key=lambda row: row["fid"]), evaluations[-1]
    shares = [_class_shares(row) for row in evaluations[-3:]]
    swings = [np.abs(a - b).sum() / 2 for a, b in itertools.pairwise(shares)]
    if newest["fid"] > WORSE * best["fid"]:
        observed = (
            f"the FID was {best['fid']:.3g} after epoch {best['epoch']:.0f} and is "
            f"{newest['fid']:.3g} now"
        )
    elif len(swings) == 2 and min(swings) > SWING:
        observed = "the classes of the samples change from one evaluation to the next"
    else:
        return None
    advice = "lower learning rates, a larger --batch_size, or a higher --ema"
    return Diagnosis("oscillation", observed, advice)


_DIVERSITY_ADVICE = "lower learning rates, a larger --batch_size, or another --loss (relativistic)"


def _class_shares(evaluation: Row) -> np.ndarray:
    """(K,) shares of the samples by class."""
    counts = np.array([value for key, value in evaluation.items() if key.startswith("class_")])
    return counts / counts.sum()


def _names(classes: np.ndarray, class_names: Sequence[str]) -> str:
    names = [class_names[label] if class_names else str(label) for label in classes]
    return f"class{'es' if len(classes) > 1 else ''} {', '.join(names)}"
