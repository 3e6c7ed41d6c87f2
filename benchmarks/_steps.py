"""The steps that the benchmark times: one function per library, which builds a network and returns a step.

A step takes a NumPy batch and returns NumPy probabilities, or makes one training step and returns the loss. Heavy
libraries are imported inside the functions, so that a process loads only what it measures.
"""

import numpy as np
from _harness import threads


def build_step(path, task, exported=None):
    """Return the step of a path: a function without arguments.

    Args:
        path: A `_suites.Path`.
        task: Its `Suite.task()`.
        exported: File of the exported network, for a runtime.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(task["batch_size"], task["size"], task["size"], 3)).astype("float32")
    y = rng.integers(0, task["classes"], task["batch_size"])
    if path.engine in RUNTIMES:
        return RUNTIMES[path.engine](exported, path, x)
    if path.engine == "torch":
        import torch

        torch.set_num_threads(threads())
    if path.library == "pytorchcv":
        return _pytorchcv(path, task, x, y)
    return _keras(path, task, x, y)


def build_network(path, task):
    """Build a Keras network, with random weights, for the images of a task."""
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16" if path.dtype == "bfloat16" else "float32")
    first = "channels_first" in path.options
    keras.config.set_image_data_format("channels_first" if first else "channels_last")
    side = task["size"]
    shape = (3, side, side) if first else (side, side, 3)
    options = {"weights": None, "classes": task["classes"], "input_shape": shape}
    if path.library == "keras.applications":
        return getattr(keras.applications, path.network)(**options)
    import keras_resattn

    network = keras_resattn.create_model(path.network, **options)
    if "keras_bn" in path.options:
        for layer in keras_resattn.iter_layers(network):
            if isinstance(layer, keras_resattn.layers.BatchNormalization):
                layer._fused = lambda *_: None
    return network


def _keras(path, task, x, y):
    import keras

    network = build_network(path, task)
    if "optimized" in path.options:
        import keras_resattn

        network = keras_resattn.optimize_for_inference(network)
    if "channels_first" in path.options:
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    compiled = "compiled" in path.options
    if task["mode"] == "training":
        optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
        network.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=compiled or path.engine == "jax")
        return lambda: float(network.train_on_batch(x, y))
    if compiled and path.engine == "torch":
        return _compiled_torch(network, x)
    network.compile(jit_compile=compiled or path.engine == "jax")
    return lambda: network.predict_on_batch(x)


def _compiled_torch(network, x):
    """Compile the graph that `torch.export` traces: Keras' own calls of layers would be recompiled and guarded."""
    import torch

    with torch.no_grad():
        program = torch.export.export(network.eval(), (torch.from_numpy(x),))
        compiled = torch.compile(program.module())

    def step():
        with torch.no_grad():
            return compiled(torch.from_numpy(x)).float().numpy()

    return step


def build_peer(network, size, classes):
    """Build a network of pytorchcv. Its package imports all of its models; this module alone needs only PyTorch."""
    import torch
    from pytorchcv.models import resattnet

    network = getattr(resattnet, network)(in_size=(size, size), num_classes=classes)
    if size != 224:  # a fixed window of 7 x 7 otherwise
        network.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    return network


def _pytorchcv(path, task, x, y):
    import torch

    network = build_peer(path.network, task["size"], task["classes"])
    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    layout = torch.channels_last if "channels_last" in path.options else torch.contiguous_format
    network, images = network.to(memory_format=layout), images.contiguous(memory_format=layout)
    half = path.dtype == "bfloat16"
    if task["mode"] == "training":
        return _training_of(network, images, torch.from_numpy(y), half, "compiled" in path.options)
    network = network.eval().to(torch.bfloat16 if half else torch.float32)
    if "compiled" in path.options:
        network = torch.compile(network)

    def step():
        with torch.inference_mode():
            return network(images.to(torch.bfloat16 if half else torch.float32)).float().softmax(1).numpy()

    return step


def _training_of(network, images, labels, half, compiled):
    """Return a training step in plain PyTorch; bfloat16 is automatic mixed precision, as in Keras' policy."""
    import torch

    optimizer = torch.optim.SGD(network.train().parameters(), 1e-3, momentum=0.9)
    call = torch.compile(network) if compiled else network

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = call(images)
        loss = torch.nn.functional.cross_entropy(outputs.float(), labels)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def _openvino(file, path, x):
    import openvino

    core = openvino.Core()
    network = core.read_model(file)
    network.reshape(list(x.shape))
    # Without the hint, OpenVINO chooses bfloat16 by itself where the processor has instructions for it.
    precision = "bf16" if path.dtype == "bfloat16" else "f32"
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads(),
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = core.compile_model(network, "CPU", settings)
    return lambda: compiled([x])[0]


def _onnxruntime(file, path, x):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})[0]


RUNTIMES = {"openvino": _openvino, "onnxruntime": _onnxruntime}
