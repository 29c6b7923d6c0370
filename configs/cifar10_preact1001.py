"""A thousand layers on CIFAR-10: pre-activation (He et al. 2016, arXiv:1603.05027), 4.92 % error there; not run here.

    python train.py --config configs/cifar10_preact1001.py

With --config.batch_size=64 the paper has 4.62 %. To save memory, the backward pass computes each block's activations
again. If you have enough memory, set --config.model_args.remat=False.
"""

from ml_collections import ConfigDict

from resnet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.dataset = "cifar10"
    config.mean = (0.4914, 0.4822, 0.4465)
    config.std = (0.2470, 0.2435, 0.2616)
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.model = "preact_resnet1001"
    config.model_args.remat = True
    config.batch_size = 128
    config.num_steps = 64_000
    config.learning_rate = 0.1
    config.momentum = 0.9
    config.weight_decay = 1e-4
    config.schedule = "step"
    config.decay_steps = (32_000, 48_000)
    config.warmup_steps = 400
    config.warmup_shape = "constant"
    config.warmup_start_factor = 0.1
    config.checkpoint_every_steps = 1000
    config.test_every_epochs = 10  # all 50,000 images train; the test set selects nothing
    return config
