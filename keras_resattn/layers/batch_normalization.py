"""Batch normalisation with the fused kernels of TensorFlow and PyTorch."""

import keras
from keras import ops

from keras_resattn.typing import Tensor

FUSED_DTYPES = ("float32", "bfloat16", "float16")


@keras.saving.register_keras_serializable(package="keras_resattn")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, computed by a fused kernel on TensorFlow and PyTorch.

    Keras computes moments and normalisation in separate element-wise operations, after casting half precision to
    float32. The fused kernels do the same in one operation and accumulate in float32. Arguments, variables, variable
    names and results equal those of Keras' layer. In particular, the moving variance averages the biased variance of
    the batches, although both kernels return the unbiased one.

    The fused kernels are used for 4-D inputs in float32, bfloat16 or float16: on TensorFlow with channels last, on
    PyTorch in both data formats. Keras' own computation is used on JAX, whose compiler fuses operations itself; for
    other ranks, axes and dtypes; for calls with a `mask`; with `synchronized=True` or `renorm=True`; and, on PyTorch,
    for training on a single value per channel.

    Args:
        **kwargs: The arguments of `keras.layers.BatchNormalization`.

    Input and output shape: any, unchanged.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        training = bool(training) and self.trainable
        fused = self._fused(inputs, training) if mask is None else None
        if fused is None:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = fused(inputs, training)
        if training:
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                kept = ops.cast(moving, batch.dtype) * self.momentum
                moving.assign(kept + batch * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)

    def _fused(self, inputs, training):
        """Return the fused computation for `inputs`, or `None` if there is none."""
        if len(inputs.shape) != 4 or self.synchronized or self.renorm:
            return None
        if keras.backend.standardize_dtype(inputs.dtype) not in FUSED_DTYPES:
            return None
        backend, channels_last = keras.backend.backend(), self.axis in (-1, 3)
        if backend == "tensorflow" and channels_last:
            return self._tensorflow
        if backend == "torch" and (channels_last or self.axis in (1, -3)):
            one_value = training and inputs.numel() == inputs.shape[self.axis]
            return None if one_value else self._torch
        return None

    def _tensorflow(self, x, training):
        import tensorflow as tf

        channels = x.shape[-1]
        moving = () if training else (self.moving_mean, self.moving_variance)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self._parameter(self.gamma, tf.ones, channels),
            offset=self._parameter(self.beta, tf.zeros, channels),
            mean=ops.cast(moving[0], "float32") if moving else tf.zeros([0]),
            variance=ops.cast(moving[1], "float32") if moving else tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:  # the kernel returns the unbiased variance
            values = tf.cast(tf.size(x), "float32") / channels
            variance = variance * (tf.maximum(values - 1, 1) / values)
        return outputs, mean, variance

    def _torch(self, x, training):
        import torch

        last = self.axis in (-1, 3)
        x = x.permute(0, 3, 1, 2) if last else x  # a view: PyTorch's channels-last memory format
        channels = x.shape[1]
        if training:  # with momentum 1, the kernel writes the moments of the batch into these
            mean, variance = (torch.zeros(channels, dtype=torch.float32, device=x.device) for _ in range(2))
        else:
            mean, variance = (ops.cast(moving, "float32") for moving in (self.moving_mean, self.moving_variance))
        outputs = torch.nn.functional.batch_norm(
            x,
            mean,
            variance,
            self._parameter(self.gamma, torch.ones, channels, device=x.device),
            self._parameter(self.beta, torch.zeros, channels, device=x.device),
            training=training,
            momentum=1.0,
            eps=self.epsilon,
        )
        if training:  # the kernel returns the unbiased variance
            values = x.numel() // channels
            variance = variance * ((values - 1) / values)
        return outputs.permute(0, 2, 3, 1) if last else outputs, mean, variance

    @staticmethod
    def _parameter(variable, default, channels, **options):
        return default([channels], **options) if variable is None else ops.cast(variable, "float32")
