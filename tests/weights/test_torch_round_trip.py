"""Real torch networks into ours and back, where torch is installed: the same logits, strict=True."""

import numpy as np
import pytest
from state_dicts import assert_equal

from resnet_jax import create_model, load_weights, save_weights

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch_networks import Network, randomize  # noqa: E402

CASES = {
    "akamaster": (
        {"stage_sizes": (3, 3, 3)},
        ("resnet20", {}),
        "akamaster",
    ),
    "tutorial with biased convolutions": (
        {"stage_sizes": (2, 2, 2, 2), "filters": 64, "option": "B", "head": "fc", "bias": True},
        ("cifar_resnet18", {"conv_bias": True}),
        "tutorial",
    ),
    "kuangliu": (
        {"stage_sizes": (2, 2, 2, 2), "filters": 64, "option": "B", "head": "linear"},
        ("cifar_resnet18", {}),
        "akamaster",
    ),
}
WRAPPERS = {
    "plain": lambda state: state,
    "DataParallel, outer state_dict": lambda state: {
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "best_prec1": torch.tensor(91.7),
        "epoch": 3,
    },
    "compiled, outer model_state_dict": lambda state: {
        "model_state_dict": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
    },
    "parameters, outer model": lambda state: {"model": {n: torch.nn.Parameter(t, False) for n, t in state.items()}},
    "channels last": lambda state: {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in state.items()
    },
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_torchs_and_the_export_loads_strictly(tmp_path, case):
    arguments, (name, overrides), layout = CASES[case]
    network = randomize(Network(**arguments))
    torch.save(network.state_dict(), tmp_path / "network.pth")
    model = create_model(name, **overrides)
    variables = load_weights(tmp_path / "network.pth", model)
    images = np.random.RandomState(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    actual = model.apply(variables, images.transpose(0, 2, 3, 1), train=False)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())

    save_weights(tmp_path / "back.pth", model, variables, layout=layout)
    empty = Network(**arguments)
    empty.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True), strict=True)
    for key, tensor in empty.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[key]), key
    assert_equal(load_weights(tmp_path / "back.pth", model), variables)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_whatever_is_around_the_weights(tmp_path, wrapper, legacy):
    network = randomize(Network((1, 1)))
    model = create_model("resnet20", stage_sizes=(1, 1))
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    wrapped = WRAPPERS[wrapper](network.state_dict())
    torch.save(wrapped, tmp_path / "wrapped.pth", _use_new_zipfile_serialization=not legacy)
    assert_equal(load_weights(tmp_path / "wrapped.pth", model), load_weights(tmp_path / "plain.pth", model))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_module_gives_its_tensors(tmp_path, legacy):
    network = randomize(Network((1, 1)))
    model = create_model("resnet20", stage_sizes=(1, 1))
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    torch.save(network, tmp_path / "module.pth", _use_new_zipfile_serialization=not legacy)
    assert_equal(load_weights(tmp_path / "module.pth", model), load_weights(tmp_path / "plain.pth", model))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda t: t.to_sparse(), "sparse"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantised"),
        (lambda t: t.to(torch.complex64), "complex64"),
    ],
)
def test_tensors_that_are_no_strided_floats_are_refused_by_name(tmp_path, make, what):
    state = Network((1, 1)).state_dict()
    state["layer1.0.conv1.weight"] = make(state["layer1.0.conv1.weight"])
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=rf"layer1\.0\.conv1\.weight is .*{what}"):
        load_weights(tmp_path / "odd.pth", create_model("resnet20", stage_sizes=(1, 1)))
