"""Tables of "Attend and Rectify": test errors in percent; 100 minus the accuracy where the paper prints accuracy."""

from typing import Any

from keras_resattn.reproduce.rows import Row, Table, counts

#: Trainable parameters and multiply-adds with 100 classes.
_AT_100 = {
    "WideResNet-28-10": (36_536_884, 5_243_386_368),
    "WideResNet-40-10": (55_899_444, 8_074_541_568),
    "WideResNetAtt2-40-10": (63_721_204, 8_547_170_048),
    "WARN-28-10": (40_652_124, 6_296_224_768),
    "WARN-40-10": (60_014_684, 9_127_379_968),
}

_PLAIN: dict[str, Any] = {"recipe": "warn_cifar", "changes": {"nesterov": False}}
_WARN100: dict[str, Any] = {"regularization": 0.0}
_LOG_ONLY = "from the authors' logs"


def _wide(name, network, data, published, last_epoch=None, **more):
    options: dict[str, Any] = {
        **({"recipe": "warn_cifar"} if network.startswith("WARN") else _PLAIN),
        **counts(network, data, _AT_100),
        **more,
    }
    return Row(f"{name}_{data}", network, data=data, published=published, last_epoch=last_epoch, **options)


_COMPARED = (
    _wide("wrn_40_10", "WideResNet-40-10", "cifar10", 3.80, 4.04),
    _wide("wrn_40_10", "WideResNet-40-10", "cifar100", 18.30, 19.09),
    _wide("wrn_att2_40_10", "WideResNetAtt2-40-10", "cifar10", 3.90),
    _wide("wrn_att2_40_10", "WideResNetAtt2-40-10", "cifar100", 19.20),
    _wide("warn_28_10", "WARN-28-10", "cifar10", 3.44, 3.68),
    _wide("warn_28_10", "WARN-28-10", "cifar100", 18.26, arguments=_WARN100),
    _wide("warn_40_10", "WARN-40-10", "cifar10", 3.46, 3.66),
    _wide("warn_40_10", "WARN-40-10", "cifar100", 17.82, 18.96, arguments=_WARN100),
)


#: Trainable parameters and multiply-adds of WideResNet50x2 and WARN50x2, by name of the rows.
_FINE_GRAINED = {
    "dogs": ((67_080_120, 11_396_218_880), (71_023_552, 14_481_448_960)),
    "food": ((67_039_140, 11_396_177_920), (70_337_452, 13_975_633_920)),
    "cars": ((67_235_844, 11_396_374_528), (80_017_420, 21_410_709_504)),
    "gender": ((66_838_338, 11_395_977_216), (67_104_586, 11_598_295_040)),
    "age": ((66_850_632, 11_395_989_504), (67_503_952, 11_901_771_776)),
    "birds": ((67_244_040, 11_396_382_720), (73_767_952, 16_504_709_120)),
}


def _fine_grained(data, name, plain, attended, last_epoch=None, note="", **arguments):
    """Yield two rows, the plain network and the network with attention, from accuracies in percent."""
    shared: dict[str, Any] = {"recipe": "warn_finetune", "data": data, "base": "WideResNet50x2", "note": note}
    (parameters, macs), attended_counts = _FINE_GRAINED[name]
    published = round(100 - plain, 2)
    yield Row(f"wrn_{name}", "WideResNet50x2", published=published, parameters=parameters, macs=macs, **shared)
    parameters, macs = attended_counts
    shared |= {"published": round(100 - attended, 2), "last_epoch": last_epoch and round(100 - last_epoch, 2)}
    yield Row(f"warn_{name}", "WARN50x2", parameters=parameters, macs=macs, arguments=arguments, **shared)


_FOLDS = "the paper averages over the five folds of the dataset; this is one fold"


def _clutter(name, parameters, macs, published=None, changes=None, note="", **arguments):
    fields: dict[str, Any] = {"parameters": parameters, "macs": macs, "changes": changes or {}, "note": note}
    recipe = data = "cluttered_mnist"
    return Row(name, "ClutteredMnistCNN", recipe, data, published, arguments=arguments, **fields)


_DEEP: dict[str, Any] = {"attention_depth": 4, "attention_width": 4}

#: The networks of the ablation on Cluttered MNIST.
ABLATION = (
    _clutter("baseline", 916_460, 16_604_160, attention_depth=0),
    _clutter("depth4_width4", 1_111_286, 23_240_960, 2.2, **_DEEP),
    _clutter("stn", 925_190, 17_415_024, attention_depth=0, transformer=True),
    _clutter(
        "stn_slow",
        925_190,
        17_415_024,
        changes={"lr_multipliers": {"transformer_": 0.001}},
        note="not in the paper: a tenth of the transformer's learning rate",
        attention_depth=0,
        transformer=True,
    ),
    _clutter("depth4_width1", 966_134, 18_264_320, attention_depth=4, attention_width=1),
    _clutter("depth2_width1", 944_882, 17_323_776, attention_depth=2, attention_width=1),
    _clutter("depth1_width1", 930_800, 16_825_856, attention_depth=1, attention_width=1),
    _clutter("no_gates", 1_093_868, 22_686_720, **_DEEP, head_gate="mean", gate="mean"),
    _clutter("sigmoid_masks", 1_111_286, 23_240_960, **_DEEP, mask_activation="sigmoid"),
    _clutter("no_regularizer", 1_111_286, 23_240_960, **_DEEP, regularization=0.0),
    _clutter("depth3_width1", 958_964, 17_821_696, attention_depth=3, attention_width=1),
    _clutter("depth4_width2", 1_014_518, 19_923_200, attention_depth=4, attention_width=2),
)

TABLES = (
    Table(
        "warn/table1",
        "CIFAR-10 and CIFAR-100",
        (
            *_COMPARED,
            _wide("wrn_28_10", "WideResNet-28-10", "cifar10", None, 4.07, note=_LOG_ONLY),
            _wide("wrn_28_10", "WideResNet-28-10", "cifar100", None, 19.32, note=_LOG_ONLY),
            _wide(
                "warn_40_10_dropout",
                "WARN-40-10",
                "cifar10",
                3.14,
                3.33,
                recipe="warn_cifar_dropout",
                arguments={"dropout": 0.3},
                note=_LOG_ONLY,
            ),
        ),
    ),
    Table("warn/table2", "Parameters and multiply-adds", tuple(row.shared("table1") for row in _COMPARED)),
    Table(
        "warn/table3",
        "Fine-grained recognition, from ImageNet weights",
        (
            *_fine_grained("stanford_dogs", "dogs", 89.6, 92.9, 92.55, attention_width=2),
            *_fine_grained("uec_food100", "food", 84.3, 85.5, 85.63, attention_width=2),
            *_fine_grained("cars196", "cars", 88.5, 90.0, 89.39, attention_width=4),
            *_fine_grained("adience_gender", "gender", 93.9, 94.6, note=_FOLDS),
            *_fine_grained("adience_age", "age", 57.4, 59.7, note=_FOLDS),
            *_fine_grained("cub200", "birds", 84.3, 85.6, 83.26, attention_width=2, gate="sigmoid"),
        ),
    ),
    Table("warn/fig4", "Ablation on Cluttered MNIST, 8 distractors", ABLATION),
)
