"""Network ids, such as `"ResNet164"` or `"WARN-16-8"`, and the builder calls that they stand for."""

import re

#: Builders with a depth and a width: the id `"WideResNet-28-10"` stands for `WideResNet(depth=28, width=10)`.
FAMILIES = ("WideResNet", "WideResNetAtt2", "WARN")


def builder_call(network: str) -> tuple[str, dict[str, int]]:
    """Return the name of the builder behind an id, and the keyword arguments that the id stands for.

    `"WARN-16-8"` gives `("WARN", {"depth": 16, "width": 8})`. Ids outside the `FAMILIES` are names of builders:
    `"ResNet164"` gives `("ResNet164", {})`.
    """
    family = re.fullmatch(rf"({'|'.join(FAMILIES)})-(\d+)-(\d+)", network)
    if family is None:
        return network, {}
    return family[1], {"depth": int(family[2]), "width": int(family[3])}


def python_call(network: str, arguments: str) -> str:
    """Return the Python expression that builds a network, for messages and model cards.

    Args:
        network: Id of the network.
        arguments: Further arguments as Python code, such as `"weights=None"`.
    """
    builder, own = builder_call(network)
    return f"{builder}({', '.join([*(f'{name}={value}' for name, value in own.items()), arguments])})"
