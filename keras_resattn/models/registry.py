"""All networks by their ids, which published weights and the command line go by, with what they cost."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras_resattn
from keras_resattn.models.variants import TOPOLOGIES, VARIANTS
from keras_resattn.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        function: Name of the function that builds it, as `keras_resattn` has it.
        arguments: What makes it this network: the builder's keyword arguments beside the first eight.
        parameters: Trainable parameters, at the default number of classes.
        macs: Multiply-adds of convolutions and dense layers, at the default size.
        size: Height and width of the input where none is given, in pixels.
        classes: Default number of classes.
    """

    function: str
    arguments: dict[str, Any]
    parameters: int
    macs: int
    size: int = 32
    classes: int = 10

    @property
    def builder(self) -> Callable[..., keras.Model]:
        """The function that builds it. Looking it up imports Keras."""
        return getattr(keras_resattn, self.function)


#: Builders that take a depth and a width: `"WideResNet-28-10"` is `WideResNet(depth=28, width=10)`.
FAMILIES = ("WideResNet", "WideResNetAtt2", "WARN")


def _parse(network: object) -> tuple[str, dict[str, int]] | None:
    """The name of the builder and the arguments of an id of a family, or `None`."""
    parts = re.fullmatch(rf"({'|'.join(FAMILIES)})-(\d+)-(\d+)", str(network))
    return (parts[1], {"depth": int(parts[2]), "width": int(parts[3])}) if parts else None


def _variant(row):
    topology = TOPOLOGIES[row.topology]
    size = row.default_size or topology.default_size
    return Network(row.name, {}, row.parameters, row.macs, size, topology.classes)


NETWORKS = {
    **{name: _variant(row) for name, row in VARIANTS.items()},
    "WideResNet-16-8": Network("WideResNet", {"depth": 16, "width": 8}, 10_961_370, 1_548_145_664),
    "WideResNet-28-4": Network("WideResNet", {"depth": 28, "width": 4}, 5_849_050, 845_597_184),
    "WideResNet-28-10": Network("WideResNet", {"depth": 28, "width": 10}, 36_479_194, 5_243_328_768),
    "WideResNet-40-4": Network("WideResNet", {"depth": 40, "width": 4}, 8_949_210, 1_298_582_016),
    "WideResNet-40-10": Network("WideResNet", {"depth": 40, "width": 10}, 55_841_754, 8_074_483_968),
    "WideResNet50x2": Network("WideResNet50x2", {}, 68_883_240, 11_398_021_120, 224, 1000),
    "ResNet164": Network("ResNet164", {}, 1_703_258, 247_646_720),
    "ResNet1001": Network("ResNet1001", {}, 10_327_706, 1_490_995_712),
    "WideResNetAtt2-40-10": Network("WideResNetAtt2", {"depth": 40, "width": 10}, 63_634_714, 8_547_083_648),
    "WARN-16-8": Network("WARN", {"depth": 16, "width": 8}, 11_350_530, 1_647_238_144),
    "WARN-28-10": Network("WARN", {"depth": 28, "width": 10}, 36_965_634, 5_367_194_368),
    "WARN-40-10": Network("WARN", {"depth": 40, "width": 10}, 56_328_194, 8_198_349_568),
    "WARN50x2": Network("WARN50x2", {}, 133_532_464, 62_076_592_128, 224, 1000),
}


def identify(model_name: str) -> str:
    """Returns the id of the network whose default model name is `model_name`: `"WARN-16-8"` for `"warn_16_8"`.

    Raises:
        ValueError: if there is none.
    """

    def letters(name):
        return re.sub("[^a-z0-9]", "", name.lower())

    for network in NETWORKS:
        if letters(network) == letters(model_name):
            return network
    raise ValueError(f"Expected the default name of one of {', '.join(NETWORKS)}; received: {model_name!r}.")


def is_network(name: str) -> bool:
    """Whether `name` is the id of a network."""
    return name in NETWORKS or _parse(name) is not None


def check_id(network: object) -> None:
    """Raise a `ValueError` if there is no such network; the message names the closest ones. Needs no Keras.

    Args:
        network: A key of `NETWORKS`, or the id of any other depth and width of one of the `FAMILIES`.
    """
    if isinstance(network, str) and is_network(network):
        return
    names = ", ".join([*map(repr, NETWORKS), *(f"{name}-DEPTH-WIDTH" for name in FAMILIES)])
    raise ValueError(
        f"Expected network to be one of {names}; received: network={network!r}.{did_you_mean(network, NETWORKS)}"
    )


def find(network: str) -> tuple[Callable[..., keras.Model], dict[str, Any]]:
    """Returns the builder of a network, and the arguments that make it this one, by its id.

    Args:
        network: As in `check_id`.

    Raises:
        ValueError: if there is no such network; the message names the closest ones.
    """
    check_id(network)
    function, arguments = _parse(network) or (NETWORKS[network].function, NETWORKS[network].arguments)
    return getattr(keras_resattn, function), arguments


def build(network: str, **kwargs: Any) -> keras.Model:
    """Builds a network by its id.

    Args:
        network: A key of `NETWORKS`, or the id of any other depth and width of one of the `FAMILIES`.
        **kwargs: The arguments that all builders share: `include_top`, `weights` and so on.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: if there is no such network, or an argument does not fit.
    """
    builder, arguments = find(network)
    accepted = inspect.signature(builder).parameters
    unknown = [name for name in kwargs if name not in accepted]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        raise ValueError(f"Expected arguments that {network} has; received: {', '.join(unknown)}.")
    return builder(**{**arguments, **kwargs})
