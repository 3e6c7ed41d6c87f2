"""Sources of pictures, and what happens to them on the way to a network."""

from keras_resattn.data.arrays import TrainingBatches, channel_statistics, check_pictures, load_npz, network_input

__all__ = ["TrainingBatches", "channel_statistics", "check_pictures", "load_npz", "network_input"]
