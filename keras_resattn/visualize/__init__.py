"""Attention of a network, as arrays and as overlays on images."""

from keras_resattn.visualize.attention import attention_gates, attention_maps
from keras_resattn.visualize.display import upsample_maps
from keras_resattn.visualize.plotting import plot_attention, plot_attention_montage
from keras_resattn.visualize.relevance import attention_relevance

__all__ = [
    "attention_gates",
    "attention_maps",
    "attention_relevance",
    "plot_attention",
    "plot_attention_montage",
    "upsample_maps",
]
