"""detectron2's model zoo: arrays of NumPy in a plain pickle, by its names or Caffe2's; nothing in it runs."""

import logging
import pickle

import numpy as np
import pytest
from state_dicts import assert_equal, network, random_variables, small, state_dict
from torch_files import Built, Call, Name, Raw, opcodes, pickled

from resnet_jax import load_weights
from resnet_jax.errors import UserError
from resnet_jax.weights import import_weights
from resnet_jax.weights.formats.caffe2_names import blob_name
from resnet_jax.weights.formats.pickle_file import open_pickle
from resnet_jax.weights.torch.pickle_stream import MAX_BYTES

# Names that detectron2's convert_c2_detectron_names gives to Caffe2's blobs, run once on these.
DETECTRON2 = {
    "conv1_w": "stem.conv1.weight",
    "conv1_b": "stem.conv1.bias",
    "res_conv1_bn_s": "stem.conv1.norm.weight",
    "res_conv1_bn_b": "stem.conv1.norm.bias",
    "conv1_gn_s": "stem.conv1.norm.weight",
    "res2_0_branch2a_w": "res2.0.conv1.weight",
    "res2_0_branch2a_bn_s": "res2.0.conv1.norm.weight",
    "res3_1_branch2b_bn_b": "res3.1.conv2.norm.bias",
    "res3_1_branch2b_bn_rm": "res3.1.conv2.norm.running_mean",
    "res3_1_branch2b_bn_riv": "res3.1.conv2.norm.running_var",
    "res4_22_branch2c_w": "res4.22.conv3.weight",
    "res5_0_branch1_w": "res5.0.shortcut.weight",
    "res5_0_branch1_gn_b": "res5.0.shortcut.norm.bias",
    "pred_w": "linear.weight",
}
HERE = {
    "stem.conv1.norm": "bn1", "stem.conv1": "conv1", "linear": "fc", "shortcut.norm": "downsample.1",
    "shortcut": "downsample.0", "conv1.norm": "bn1", "conv2.norm": "bn2", "conv3.norm": "bn3",
    "res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4",
}  # fmt: skip


def in_detectron2s_names(arrays, prefix=""):
    """torchvision's state_dict with detectron2's names."""
    renamed = {}
    for name, array in arrays.items():
        *modules, leaf = name.split(".")
        match modules:
            case ["fc"]:
                module = "linear"
            case [("conv1" | "bn1") as part]:
                module = "stem.conv1" + (".norm" if part == "bn1" else "")
            case [stage, block, "downsample", k]:
                module = f"res{int(stage[-1]) + 1}.{block}.shortcut" + (".norm" if k == "1" else "")
            case [stage, block, part]:
                module = f"res{int(stage[-1]) + 1}.{block}.conv{part[-1]}" + (".norm" if part.startswith("bn") else "")
        renamed[f"{prefix}{module}.{leaf}"] = array
    return renamed


def in_caffe2s_names(arrays):
    """The same with Caffe2's, norms without their statistics."""
    leaves = {"weight": "w", "bias": "b"}
    blobs = {}
    for name, array in in_detectron2s_names(arrays).items():
        *modules, leaf = name.split(".")
        if leaf.startswith("running_"):
            continue
        if modules[-1] == "norm":
            modules, leaf = modules[:-1], {"weight": "bn_s", "bias": "bn_b"}[leaf]
        match modules:
            case ["linear"]:
                module = "pred"
            case ["stem", "conv1"]:
                module = "res_conv1" if leaf.startswith("bn") else "conv1"
            case [stage, block, part]:
                branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[part]
                module = f"{stage}_{block}_branch{branch}"
        blobs[f"{module}_{leaves.get(leaf, leaf)}"] = array
    return blobs


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("there", DETECTRON2)
def test_blobs_have_the_names_that_detectron2_gives_them(there):
    here = DETECTRON2[there]
    for old, new in HERE.items():
        here = here.replace(f"{old}.", f"{new}.", 1)
    assert blob_name(there) == here


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up."])
def test_arrays_of_every_protocol_are_read(tmp_path, protocol, prefix):
    model = small("resnet50")
    arrays = in_detectron2s_names(state_dict(model), prefix)
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True, "iteration": np.int64(3)}
    path = write(tmp_path / "R-50.pkl", content, protocol)
    assert_equal(load_weights(path, model), random_variables(model))


def test_norms_of_caffe2_are_the_affine_maps_that_they_are_there(tmp_path, caplog):
    model, variables, arrays = network("resnet50", stride_in="1x1")
    blobs = in_caffe2s_names(arrays)
    extra = {"res2_0_branch2a_w_momentum": np.zeros(3), "fpn_inner_res5_2_sum_w": np.zeros((4, 4, 1, 1)), "lr": 0.1}
    path = write(tmp_path / "R-50.pkl", {"model": blobs | extra, "__author__": "Caffe2"})
    with caplog.at_level(logging.WARNING):
        loaded, report = import_weights(path, model)
    assert "bgr=True" in caplog.text
    assert "stride_in='1x1'" in caplog.text
    assert (report.layout, report.left) == ("caffe2", ["fpn_inner_res5_2_sum_w"])
    assert_equal(loaded["params"], variables["params"])
    images = np.random.default_rng(0).standard_normal((2, 40, 40, 3)).astype(np.float32)
    # The same with scale and bias alone: no mean, and a variance with which the norm divides by one.
    statistics = {"mean": np.zeros_like, "var": lambda leaf: np.full_like(leaf, 1 - model.norm_epsilon)}
    for layer in ("bn1", "layer1", "layer4"):
        part = loaded["batch_stats"][layer]
        part = part if layer == "bn1" else part["0"]["bn1"]
        for name, make in statistics.items():
            np.testing.assert_array_equal(part[name], make(np.asarray(part[name])))
    bgr = load_weights(path, model, bgr=True)
    answers = [model.apply(one, x, train=False) for one, x in ((loaded, images[..., ::-1]), (bgr, images))]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4)


def test_biases_of_caffe2s_stem_make_it_a_network_with_biases(tmp_path):
    blobs = in_caffe2s_names(state_dict(small("resnet50"))) | {"conv1_b": np.zeros(8, np.float32)}
    path = write(tmp_path / "R-50.pkl", blobs)
    _, report = import_weights(path, small("resnet50", conv_bias=True))
    assert "layer1.0.conv1.bias" in report.zeroed


def test_arrays_of_python_2_and_of_other_orders_are_read(tmp_path):
    model = small()
    arrays = in_detectron2s_names(state_dict(model))
    fortran = {name: np.asfortranarray(array.astype(">f4")) for name, array in arrays.items()}
    assert_equal(load_weights(write(tmp_path / "w", fortran), model), random_variables(model))

    def of_python_2(array):
        """Return the array as cPickle wrote it: its bytes as a string, and NumPy's old module."""
        data = np.ascontiguousarray(array).tobytes()
        text = Raw(b"T" + len(data).to_bytes(4, "little") + data)
        made = opcodes(Name("numpy.core.multiarray._reconstruct")) + opcodes((Name("numpy.ndarray"), (0,), "b")) + b"R"
        dtype = opcodes(Name("numpy.dtype")) + opcodes(("f4", 0, 1)) + b"R"
        dtype += opcodes((3, "<", None, None, None, -1, -1, 0)) + b"b"
        return Raw(made + opcodes((1, array.shape, Raw(dtype), False, text)) + b"b")

    (tmp_path / "w").write_bytes(pickled({"model": {name: of_python_2(array) for name, array in arrays.items()}}))
    assert_equal(load_weights(tmp_path / "w", model), random_variables(model))


def test_arrays_of_objects_and_their_payloads_stay_data(tmp_path):
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self):
            return open, (str(marker), "w")

    arrays = in_detectron2s_names(state_dict(small()))
    arrays["linear.bias"] = np.array([Payload()] * 5, object)
    with pytest.raises(UserError, match=r"linear\.bias is a NumPy array of dtype O8"):
        load_weights(write(tmp_path / "w", arrays), small())
    hostile = Call(
        Name("numpy.core.multiarray._reconstruct"), (Call(Name("os.system"), (f"touch {marker}",)), (0,), b"b")
    )
    set_state = Built(Name("numpy.ndarray"), {"__setstate__": Name("os.system")})
    (tmp_path / "w").write_bytes(pickled({"a": hostile, "b": set_state}))
    with pytest.raises(UserError):
        load_weights(tmp_path / "w", small())
    assert not marker.exists()


@pytest.mark.parametrize(
    "state",
    [
        (1, (2, 3), Call(Name("numpy.dtype"), ("f4",)), False, bytes(23)),
        (1, (-2, -3), Call(Name("numpy.dtype"), ("f4",)), False, bytes(24)),
        (1, (2**62,), Call(Name("numpy.dtype"), ("f4",)), False, bytes(24)),
        (1, [6], Call(Name("numpy.dtype"), ("f4",)), False, bytes(24)),
        (1, (6,), Call(Name("numpy.dtype"), ("f4",)), False, None),
        ("x",),
        None,
    ],
)
def test_an_array_of_an_impossible_state_is_refused(tmp_path, state):
    made = opcodes(Name("numpy._core.multiarray._reconstruct")) + opcodes((Name("numpy.ndarray"), (0,), b"b")) + b"R"
    (tmp_path / "w").write_bytes(pickled({"a": Raw(made + opcodes(state) + b"b")}))
    with pytest.raises(UserError, match="damaged") as error:
        load_weights(tmp_path / "w", small())
    assert "\n" not in str(error.value)


def test_a_pickle_may_be_larger_than_torchs(tmp_path):
    """A model zoo's have their numbers within, torch's beside."""
    path = write(tmp_path / "w", {"conv1_w": np.zeros((17 * 2**20,), np.float32)}, 4)
    assert path.stat().st_size > MAX_BYTES
    assert open_pickle(path)["conv1_w"].shape == (17 * 2**20,)
