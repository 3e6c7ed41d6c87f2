"""Sources of pictures, and what happens to them on the way to a network."""

from keras_resattn.data.arrays import channel_statistics, check_pictures, load_npz, network_input
from keras_resattn.data.cluttered_mnist import cluttered_mnist, mnist_splits
from keras_resattn.data.evaluation_batches import OrderedBatches
from keras_resattn.data.images import read_image
from keras_resattn.data.label_noise import confusion_matrix, noisy_labels, with_label_noise
from keras_resattn.data.open_dataset import Arrays, Folder, Records, Source, Stream, open_source
from keras_resattn.data.training_batches import TrainingBatches

__all__ = [
    "Arrays",
    "Folder",
    "OrderedBatches",
    "Records",
    "Source",
    "Stream",
    "TrainingBatches",
    "channel_statistics",
    "check_pictures",
    "cluttered_mnist",
    "confusion_matrix",
    "load_npz",
    "mnist_splits",
    "network_input",
    "noisy_labels",
    "open_source",
    "read_image",
    "with_label_noise",
]
