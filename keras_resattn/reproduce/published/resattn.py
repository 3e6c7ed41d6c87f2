"""The tables of "Residual Attention Network for Image Classification": test errors as printed, in per cent."""

from typing import Any

from keras_resattn.reproduce.rows import Row, Table, counts

_RESATTN: dict[str, Any] = {"recipe": "resattn_cifar", "data": "cifar10"}
_RATES = (10, 30, 50, 70)

#: Parameters and multiply-adds at 100 classes.
_AT_100 = {
    "ResNet164": (1_726_388, 247_669_760),
    "ResNet1001": (10_350_836, 1_491_018_752),
    "WideResNet-16-8": (11_007_540, 1_548_191_744),
    "WideResNet-28-10": (36_536_884, 5_243_386_368),
    "CifarResidualAttention92": (1_864_372, 211_936_256),
    "CifarResidualAttention236": (5_107_892, 568_288_256),
    "CifarResidualAttention452": (8_535_092, 958_088_192),
}


def _attention(depth, published, learning="residual", **arguments):
    arguments |= {"learning": "naive"} if learning == "naive" else {}
    return Row(
        f"attention{depth}_{learning}",
        f"CifarResidualAttention{depth}",
        published=published,
        arguments=arguments,
        **_RESATTN,
    )


_MIXED: dict[str, Any] = {
    "network": "CifarResidualAttention56",
    "published": 5.52,
    "arguments": {"mask_activation": "mixed"},
    "same_as": "table1/mixed",
    **_RESATTN,
}
_CITED = "as cited there; the recipe is that of the paper's own networks"
_CITED_WIDE = "as cited there; the recipe is that of the WARN paper's baselines"


def _activation(activation, published):
    arguments = {"mask_activation": activation}
    return Row(activation, "CifarResidualAttention56", published=published, arguments=arguments, **_RESATTN)


def _local(units, name, parameters, macs, note):
    arguments = {"mask": "local", "local_units": units}
    counts = {"parameters": parameters, "macs": macs}
    network = "CifarResidualAttention56"
    return Row(name, network, published=6.48, arguments=arguments, note=note, **counts, **_RESATTN)


def _noisy(name, network, errors):
    for rate, error in zip(_RATES, errors, strict=True):
        changes = {"label_noise": rate / 100}
        yield Row(f"{name}_{rate}", network, published=error, changes=changes, **_RESATTN)


def _on_both(name, network, errors, recipe="resattn_cifar", same_as=None, note=""):
    for data, error in zip(("cifar10", "cifar100"), errors, strict=True):
        shared = same_as if data == "cifar10" else None
        more = {"same_as": shared, "note": note, **counts(network, data, _AT_100)}
        yield Row(f"{name}_{data}", network, recipe, data, error, **more)


def _imagenet(name, network, top1, top5, **more):
    return Row(name, network, "resattn_imagenet", "imagenet", top1, top5=top5, **more)


TABLES = (
    Table(
        "resattn/table1",
        "Activation of the soft mask, Attention-56 on CIFAR-10",
        (_activation("mixed", 5.52), _activation("channel", 6.24), _activation("spatial", 6.33)),
    ),
    Table(
        "resattn/table3",
        "Naive attention learning against attention residual learning, CIFAR-10",
        (
            _attention(56, 5.89, "naive"),
            Row("attention56_residual", **_MIXED),
            _attention(92, 5.35, "naive"),
            _attention(92, 4.99),
            _attention(128, 5.57, "naive"),
            _attention(128, 4.44),
            _attention(164, 7.18, "naive"),
            _attention(164, 4.31),
        ),
    ),
    Table(
        "resattn/table4",
        "Structure of the soft mask, Attention-56 on CIFAR-10",
        (
            _local(3, "local", 1_042_458, 152_488_448, "three units, as the text says: 24 % more multiply-adds"),
            _local(1, "local_one_unit", 856_986, 125_749_760, "one unit: the same multiply-adds, as the text says too"),
            Row("encoder_decoder", **_MIXED),
        ),
    ),
    Table(
        "resattn/table5",
        "Wrong training labels, CIFAR-10",
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
            *_on_both("attention92", "CifarResidualAttention92", (4.99, 21.71), same_as="table3/attention92_residual"),
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
        (
            Row(
                "naive",
                "CifarResidualAttention164",
                published=7.18,
                arguments={"learning": "naive"},
                same_as="table3/attention164_naive",
                **_RESATTN,
            ),
            Row(
                "residual",
                "CifarResidualAttention164",
                published=4.31,
                same_as="table3/attention164_residual",
                **_RESATTN,
            ),
        ),
        figure=True,
    ),
)
