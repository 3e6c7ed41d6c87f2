"""Attention of a network, as arrays and as overlays on images."""

from keras_resattn.visualize.attention import attention_gates, attention_maps
from keras_resattn.visualize.plotting import plot_attention

__all__ = ["attention_gates", "attention_maps", "plot_attention"]
