"""Random initial values of kernels."""

import math
from typing import Any

import keras
import numpy as np

from keras_resattn.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_resattn")
class HeGaussian(keras.initializers.VarianceScaling):
    """Initialiser of He et al. (2015): a Gaussian of variance 2 / fan-in.

    The values of a seed are the same on every backend, because NumPy draws them. Keras' `he_normal` cuts the tails off,
    and drawing its values is slow: JAX compiles a function for each shape, and PyTorch draws several values for each
    one. That was most of the time to build a deep network.

    Args:
        seed: An integer, or `None` for a random one.

    Source: He et al., "Delving Deep into Rectifiers" (2015), Eq. 10.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(scale=2.0, mode="fan_in", distribution="untruncated_normal", seed=seed)

    def __call__(self, shape: Any, dtype: Any = None) -> Tensor:
        """Return random values of a shape whose last axis counts the outputs: `(..., inputs, outputs)`."""
        values = np.random.default_rng(self.seed).standard_normal(shape, "float32")
        return keras.ops.convert_to_tensor(values * math.sqrt(2 / math.prod(shape[:-1])), dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that restore the initialiser."""
        return {"seed": super().get_config()["seed"]}
