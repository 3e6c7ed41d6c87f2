"""Registry of all networks by id: listing them, building them, and their sizes. Does not import Keras itself."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras_resattn
from keras_resattn.models.variants import TOPOLOGIES, VARIANTS
from keras_resattn.pretrained.records import Checkpoint, find, tags
from keras_resattn.utils.network_ids import FAMILIES, builder_call
from keras_resattn.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Network:
    """A network of the registry.

    Attributes:
        id: Its id, such as `"ResNet164"` or `"WARN-16-8"`.
        parameters: Trainable parameters, at the default number of classes.
        macs: Multiply-adds of convolutions and dense layers, at the default input size.
        size: Default height and width of the input, in pixels.
        classes: Default number of classes.
    """

    id: str
    parameters: int
    macs: int
    size: int = 32
    classes: int = 10

    @property
    def builder(self) -> Callable[..., keras.Model]:
        """The public function that builds the network. Accessing this property imports Keras."""
        return getattr(keras_resattn, builder_call(self.id)[0])

    @property
    def arguments(self) -> dict[str, int]:
        """The builder's keyword arguments that the id stands for: `depth` and `width`, or none."""
        return builder_call(self.id)[1]


def _variant(row):
    topology = TOPOLOGIES[row.topology]
    return Network(row.name, row.parameters, row.macs, row.default_size or topology.default_size, topology.classes)


#: Networks with recorded sizes, by id.
NETWORKS = {
    network.id: network
    for network in (
        *map(_variant, VARIANTS.values()),
        Network("WideResNet-16-8", 10_961_370, 1_548_145_664),
        Network("WideResNet-28-4", 5_849_050, 845_597_184),
        Network("WideResNet-28-10", 36_479_194, 5_243_328_768),
        Network("WideResNet-40-4", 8_949_210, 1_298_582_016),
        Network("WideResNet-40-10", 55_841_754, 8_074_483_968),
        Network("WideResNet50x2", 68_883_240, 11_398_021_120, 224, 1000),
        Network("ResNet164", 1_703_258, 247_646_720),
        Network("ResNet1001", 10_327_706, 1_490_995_712),
        Network("WideResNetAtt2-40-10", 63_634_714, 8_547_083_648),
        Network("WARN-16-4", 2_943_490, 442_158_592),
        Network("WARN-16-8", 11_350_530, 1_647_238_144),
        Network("WARN-28-10", 36_965_634, 5_367_194_368),
        Network("WARN-40-10", 56_328_194, 8_198_349_568),
        Network("WARN50x2", 133_532_464, 62_076_592_128, 224, 1000),
    )
}


def list_models(pretrained: bool | None = None) -> list[str]:
    """List the ids of all networks, for `create_model`.

    Wide ResNets and WARNs of other depths and widths can be built too, by ids such as `"WARN-22-4"`.

        list_models(pretrained=True)  # networks with a released checkpoint

    Args:
        pretrained: `True` for networks with a released checkpoint, `False` for those without, `None` for all.

    Returns:
        The ids, in the order of `keras_resattn.models.registry.NETWORKS`.

    Raises:
        ValueError: if `pretrained` is none of these.
    """
    if pretrained is not None and not isinstance(pretrained, bool):
        raise ValueError(f"Expected pretrained to be True, False or None; received: pretrained={pretrained!r}.")
    released = {checkpoint.network for checkpoint in tags()}
    ids = [*NETWORKS, *sorted(id for id in released if id not in NETWORKS and is_network(id))]
    return [id for id in ids if pretrained is None or (id in released) == pretrained]


def create_model(id: str, **kwargs: Any) -> keras.Model:
    """Build a network by its id.

        model = create_model("WARN-16-8", weights=None, classes=100)  # WARN(depth=16, width=8, weights=None, ...)

    Args:
        id: An id that `list_models` returns, or `"WideResNet-DEPTH-WIDTH"`, `"WideResNetAtt2-DEPTH-WIDTH"` or
            `"WARN-DEPTH-WIDTH"` with a depth of 6n + 4.
        **kwargs: Arguments of the builder: `include_top`, `weights` and so on. As with the builder itself, `weights`
            defaults to `"default"`, the best released checkpoint.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: if no network has this id (the message suggests similar ids), or an argument is unknown or invalid.
    """
    check_id(id)
    name, arguments = builder_call(id)
    builder = getattr(keras_resattn, name)
    accepted = inspect.signature(builder).parameters
    unknown = [argument for argument in kwargs if argument not in accepted]
    if unknown:
        raise ValueError(f"Expected arguments of {name}, {', '.join(accepted)}; received: {', '.join(unknown)}.")
    return builder(**{**arguments, **kwargs})


def find_checkpoint(name: object, expected: str = "released weights", known: Iterable[str] = ()) -> Checkpoint:
    """Return the released checkpoint with a given name; for a network, its default checkpoint.

    Args:
        name: A network, a tag, an alias, or `network/tag`.
        expected: Expected value, for messages.
        known: Additional names that messages may suggest.

    Raises:
        ValueError: if there is none, or several networks have a tag with that name.
    """
    found = find(name) if isinstance(name, str) else []
    if len(found) == 1:
        return found[0]
    released = tags()
    own = [tag.id for tag in released if tag.network == name]
    if found:
        hint = f" Several networks have this tag; pass one of {', '.join(tag.id for tag in found)}."
    elif own:
        hint = f" It has no default weights; pass one of {', '.join(own)}."
    elif isinstance(name, str) and is_network(name):
        hint = " None are released for it."
    else:
        counts = Counter(each for tag in released for each in (tag.tag, *tag.aliases))
        unique = {each for each, count in counts.items() if count == 1}
        hint = did_you_mean(name, {*unique, *(each for tag in released for each in (tag.id, tag.network)), *known})
    ids = ", ".join(tag.id for tag in released) or "none yet"
    raise ValueError(f"Expected {expected} ({ids}); received: {name}.{hint}")


def is_network(id: str) -> bool:
    """Return whether `create_model` accepts an id."""
    return id in NETWORKS or bool(builder_call(id)[1])


def check_id(id: object) -> None:
    """Check that a network has this id. Does not import Keras.

    Raises:
        ValueError: if there is none; the message suggests similar ids.
    """
    if isinstance(id, str) and is_network(id):
        return
    network, _, tag = id.partition("/") if isinstance(id, str) else ("", "", "")
    hint = f" Pass weights={tag!r} beside the id {network!r}." if is_network(network) else did_you_mean(id, NETWORKS)
    families = ", ".join(f"'{family}-DEPTH-WIDTH'" for family in FAMILIES)
    raise ValueError(
        f"Expected network to be an id that keras_resattn.list_models() returns, or one of {families}; "
        f"received: network={id!r}.{hint}"
    )


def id_of_model_name(model_name: str) -> str:
    """Return the id of the network with this default model name: `"WARN-16-8"` for `"warn_16_8"`.

    Raises:
        ValueError: if no network has this default name.
    """

    def letters(name):
        return re.sub("[^a-z0-9]", "", name.lower())

    if sized := re.fullmatch(r"(.+)_(\d+)_(\d+)", model_name):
        for family in FAMILIES:
            if letters(family) == letters(sized[1]):
                return f"{family}-{sized[2]}-{sized[3]}"
    for id in NETWORKS:
        if letters(id) == letters(model_name):
            return id
    raise ValueError(
        f"Expected a network that create_model builds, under its default model name; received: {model_name!r}. "
        "Other networks cannot be released."
    )
