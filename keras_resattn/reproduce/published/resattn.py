"""Tables of "Residual Attention Network for Image Classification": test errors as printed, in percent."""

from typing import Any

from keras_resattn.reproduce.rows import Row, Table, counts

_NOISE_RATES = (10, 30, 50, 70)

#: Trainable parameters and multiply-adds with 100 classes.
_AT_100 = {
    "ResNet164": (1_726_388, 247_669_760),
    "ResNet1001": (10_350_836, 1_491_018_752),
    "WideResNet-16-8": (11_007_540, 1_548_191_744),
    "WideResNet-28-10": (36_536_884, 5_243_386_368),
    "CifarResidualAttention92": (1_864_372, 211_936_256),
    "CifarResidualAttention236": (5_107_892, 568_288_256),
    "CifarResidualAttention452": (8_535_092, 958_088_192),
}

_CITED = "cited by the paper; trained here with the recipe of the paper's own networks"
_CITED_WIDE = "cited by the paper; trained here with the recipe of the WARN paper's baselines"


def _cifar10(name, network, published, **more):
    return Row(name, network, "resattn_cifar", "cifar10", published, **more)


def _activation(activation, published):
    return _cifar10(activation, "CifarResidualAttention56", published, arguments={"mask_activation": activation})


_MIXED = _activation("mixed", 5.52)


def _learning(depth, naive, residual):
    """Yield two rows: naive attention learning and attention residual learning."""
    network = f"CifarResidualAttention{depth}"
    yield _cifar10(f"attention{depth}_naive", network, naive, arguments={"learning": "naive"})
    if depth == 56:
        yield _MIXED.shared("table1", f"attention{depth}_residual")
    else:
        yield _cifar10(f"attention{depth}_residual", network, residual)


_LEARNING = {
    row.name: row
    for depth, naive, residual in ((56, 5.89, 5.52), (92, 5.35, 4.99), (128, 5.57, 4.44), (164, 7.18, 4.31))
    for row in _learning(depth, naive, residual)
}


def _local(units, name, parameters, macs, note):
    more: dict[str, Any] = {"parameters": parameters, "macs": macs, "note": note}
    arguments = {"mask": "local", "local_units": units}
    return _cifar10(name, "CifarResidualAttention56", 6.48, arguments=arguments, **more)


def _noisy(name, network, errors):
    for rate, error in zip(_NOISE_RATES, errors, strict=True):
        yield _cifar10(f"{name}_{rate}", network, error, changes={"label_noise": rate / 100})


def _on(data, name, network, error, recipe="resattn_cifar", note=""):
    return Row(f"{name}_{data}", network, recipe, data, error, note=note, **counts(network, data, _AT_100))


def _on_both(name, network, errors, *more, **named):
    for data, error in zip(("cifar10", "cifar100"), errors, strict=True):
        yield _on(data, name, network, error, *more, **named)


def _imagenet(name, network, top1, top5, **more):
    return Row(name, network, "resattn_imagenet", "imagenet", top1, top5=top5, **more)


TABLES = (
    Table(
        "resattn/table1",
        "Activation of the soft mask, Attention-56 on CIFAR-10",
        (_MIXED, _activation("channel", 6.24), _activation("spatial", 6.33)),
    ),
    Table(
        "resattn/table3",
        "Naive attention learning against attention residual learning, CIFAR-10",
        tuple(_LEARNING.values()),
    ),
    Table(
        "resattn/table4",
        "Structure of the soft mask, Attention-56 on CIFAR-10",
        (
            _local(3, "local", 1_042_458, 152_488_448, "three units, as in the text: 24 % more multiply-adds"),
            _local(1, "local_one_unit", 856_986, 125_749_760, "one unit: the same multiply-adds, also in the text"),
            _MIXED.shared("table1", "encoder_decoder"),
        ),
    ),
    Table(
        "resattn/table5",
        "Noisy training labels, CIFAR-10",
        (
            *_noisy("resnet164", "ResNet164", (5.93, 6.61, 8.35, 17.21)),
            *_noisy("attention92", "CifarResidualAttention92", (5.15, 5.79, 7.27, 15.75)),
        ),
    ),
    Table(
        "resattn/table6",
        "The state of the art on CIFAR-10 and CIFAR-100",
        (
            *_on_both("resnet164", "ResNet164", (5.46, 24.33), note=_CITED),
            *_on_both("resnet1001", "ResNet1001", (4.64, 22.71), note=_CITED),
            *_on_both("wrn_16_8", "WideResNet-16-8", (4.81, 22.07), "warn_cifar", note=_CITED_WIDE),
            *_on_both("wrn_28_10", "WideResNet-28-10", (4.17, 20.50), "warn_cifar", note=_CITED_WIDE),
            _LEARNING["attention92_residual"].shared("table3", "attention92_cifar10"),
            _on("cifar100", "attention92", "CifarResidualAttention92", 21.71),
            *_on_both("attention236", "CifarResidualAttention236", (4.14, 21.16)),
            *_on_both("attention452", "CifarResidualAttention452", (3.90, 20.45)),
        ),
    ),
    Table(
        "resattn/table7",
        "ImageNet, one network and one crop",
        (
            _imagenet("attention56", "ResidualAttention56", 21.76, 5.9),
            _imagenet("attentionnext56", "AttentionNeXt56", 21.2, 5.6),
            _imagenet(
                "attentioninception56",
                "AttentionInception56",
                20.36,
                5.29,
                test_size=299,
                macs=6_307_979_520,
                note="unit and widths are this package's; tested at 299",
            ),
            _imagenet("attention92", "ResidualAttention92", 19.5, 4.8, test_size=320, note="tested at 320"),
        ),
    ),
    Table(
        "resattn/fig4",
        "Mean absolute response of each stage, Attention-164 on CIFAR-10",
        tuple(_LEARNING[f"attention164_{name}"].shared("table3", name) for name in ("naive", "residual")),
        draws_responses=True,
    ),
)
