"""Sources of pictures, and what happens to them on the way to a network."""

from keras_resattn.data.arrays import TrainingBatches, channel_statistics, check_pictures, load_npz, network_input
from keras_resattn.data.cluttered_mnist import cluttered_mnist, mnist_splits

__all__ = [
    "TrainingBatches",
    "channel_statistics",
    "check_pictures",
    "cluttered_mnist",
    "load_npz",
    "mnist_splits",
    "network_input",
]
