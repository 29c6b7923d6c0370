"""Makes keras-VERSION.tar.xz: small ResNets of keras.applications as Keras saves them, and their logits.

    python tests/golden/make_keras.py      # needs Keras 3 with any backend

For each of version 1 and 2: NAME.keras, NAME.weights.h5, NAME.h5 (the whole model, as before Keras 3) and, where this
Keras has it, NAME-legacy.h5 (weights as before Keras 3). The weights are those of weights.py by layer and variable,
rounded to float32; the images its two of 64 pixels, rounded likewise; the logits, in logits.npz, are of float64.
"""

import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path

os.environ["JAX_ENABLE_X64"] = "1"

import h5py
import keras
import numpy as np
from keras.src.applications import resnet

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

import weights  # noqa: E402

# The kinds of variables, by Keras' names.
KINDS = {"moving_mean": "running_mean", "moving_variance": "running_var", "gamma": "weight", "beta": "bias"}
# The functions that stack blocks, by their names of now and of Keras 3.0.
STACK_V1 = getattr(resnet, "stack_residual_blocks_v1", None) or resnet.stack1
STACK_V2 = getattr(resnet, "stack_residual_blocks_v2", None) or resnet.stack2


def blocks_v1(x):
    x = STACK_V1(x, 4, 2, stride1=1, name="conv2")
    return STACK_V1(x, 8, 2, name="conv3")


def blocks_v2(x):
    x = STACK_V2(x, 4, 3, name="conv2")
    return STACK_V2(x, 8, 2, stride1=1, name="conv3")


def network(blocks, preact):
    """The network with its weights, in the precision that is set."""
    model = resnet.ResNet(
        blocks, preact, True, weights=None, input_shape=(64, 64, 3), classes=7, classifier_activation=None
    )
    for layer in model.layers:
        arrays = []
        for variable in layer.weights:
            kind = KINDS.get(variable.name, variable.name)
            shape = tuple(variable.shape)
            in_torchs_order = tuple(shape[axis] for axis in {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), (0,)))
            array = weights.tensor(f"{layer.name}.{kind}", in_torchs_order).astype(np.float32)
            arrays.append(array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(len(shape), (0,))))
        layer.set_weights(arrays)
    return model


def save(model, folder, name):
    model.save(folder / f"{name}.keras")
    model.save_weights(folder / f"{name}.weights.h5")
    model.save(folder / f"{name}.h5")
    try:
        from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
    except ImportError:
        return
    with h5py.File(folder / f"{name}-legacy.h5", "w") as file:
        save_weights_to_hdf5_group(file, model)


if __name__ == "__main__":
    images = weights.images(2, 64).transpose(0, 2, 3, 1).astype(np.float32)  # as which Keras takes them
    logits = {}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for name, blocks, preact in (("v1", blocks_v1, False), ("v2", blocks_v2, True)):
            save(network(blocks, preact), folder, name)
            keras.mixed_precision.set_dtype_policy("float64")
            logits[name] = keras.ops.convert_to_numpy(network(blocks, preact)(images))
            keras.mixed_precision.set_dtype_policy("float32")
            assert logits[name].dtype == np.float64
        np.savez(folder / "logits.npz", **logits)
        with tarfile.open(HERE / f"keras-{keras.__version__}.tar.xz", "w:xz") as archive:
            for path in sorted(folder.iterdir()):
                info = tarfile.TarInfo(path.name)
                info.size = path.stat().st_size
                archive.addfile(info, io.BytesIO(path.read_bytes()))
