"""Which features score the samples of a data set."""

from pathlib import Path

from tfgan_mnist import data, files
from tfgan_mnist.data import ImageData
from tfgan_mnist.evaluation import classifier, classifier_training
from tfgan_mnist.evaluation.classifier import ChannelwiseClassifier, Classifier
from tfgan_mnist.evaluation.extractor import Extractor
from tfgan_mnist.evaluation.random_features import RandomFeatures

MIN_LABELLED = 1000  # training images for a classifier


def find(data_set: ImageData, data_dir: str = "") -> Extractor:
    """The classifier of a data set, or `RandomFeatures` without labels or with few images.

    A classifier is made where there is none, or where pictures have other classes now: minutes,
    once. Raises UserError if it is damaged, or `data_dir` cannot be written.
    """
    if data_set.key == data.STACKED_MNIST:
        size, _, channels = data_set.image_shape
        gray = find(data.load("mnist", data_dir or None, image_size=size), data_dir)
        return ChannelwiseClassifier(gray, channels)
    folder = classifier.folder_of(data_set.key, data_set.image_shape, data_dir)
    found = _read(folder, data_set)
    if found:
        return found
    if data_set.num_classes < 2 or len(data_set.train.images) < MIN_LABELLED:
        return RandomFeatures(data_set)
    with files.alone(folder.parent):
        found = _read(folder, data_set)  # another command may have made it meanwhile
        if found:
            return found
        if folder.is_dir():
            files.remove(folder)
        return classifier_training.make(data_set, folder)


def second(extractor: Extractor, data_set: ImageData) -> RandomFeatures | None:
    """The features whose scores stand beside those of a classifier."""
    return RandomFeatures(data_set) if extractor.num_classes else None


def _read(folder: Path, data_set: ImageData) -> Classifier | None:
    """The classifier in a folder; None if there is none, or its classes are not the data's."""
    found = classifier.read(folder) if folder.is_dir() else None
    return found if found and found.fits(data_set) else None
