"""Sources of images, and what happens to them on the way to a network."""

from keras_resattn.data.arrays import channel_statistics, check_images, load_npz, network_input
from keras_resattn.data.cluttered_mnist import cluttered_mnist, mnist_splits
from keras_resattn.data.evaluation_batches import EvaluationBatches
from keras_resattn.data.images import read_image
from keras_resattn.data.label_noise import confusion_matrix, noisy_labels, with_label_noise
from keras_resattn.data.open_dataset import ArrayDataset, BatchStream, Dataset, ImageFolder, RecordDataset, open_dataset
from keras_resattn.data.training_batches import TrainingBatches

__all__ = [
    "ArrayDataset",
    "BatchStream",
    "Dataset",
    "EvaluationBatches",
    "ImageFolder",
    "RecordDataset",
    "TrainingBatches",
    "channel_statistics",
    "check_images",
    "cluttered_mnist",
    "confusion_matrix",
    "load_npz",
    "mnist_splits",
    "network_input",
    "noisy_labels",
    "open_dataset",
    "read_image",
    "with_label_noise",
]
