"""Datasets of labelled images, and the pipeline that feeds them to a network: decoding, augmentation, batches."""

from keras_resattn.data.array_dataset import ArrayDataset
from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.cluttered_mnist import cluttered_mnist, mnist_splits
from keras_resattn.data.dataset import Dataset
from keras_resattn.data.evaluation_batches import EvaluationBatches
from keras_resattn.data.image_folder import ImageFolder
from keras_resattn.data.images import read_image
from keras_resattn.data.label_noise import confusion_matrix, noisy_labels, with_label_noise
from keras_resattn.data.normalization import channel_statistics, network_input
from keras_resattn.data.npz_files import load_npz
from keras_resattn.data.open_dataset import open_dataset
from keras_resattn.data.record_dataset import RecordDataset
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
