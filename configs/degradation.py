"""Plain against residual networks on CIFAR-10, as figure 6 of He et al. 2015 (arXiv:1512.03385), in three epochs each.

    python examples/degradation.py --depths 20,56

The paper trains for --config.num_steps=64000, with --depths 20,32,44,56.
"""

from ml_collections import ConfigDict

from resnet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = "resnet20"  # examples/degradation.py trains one network after the other
    config.model_args.kernel_init = "fan_in"
    config.dataset = "cifar10"
    config.normalize = "pixel"
    config.std = (1.0, 1.0, 1.0)
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.batch_size = 128
    config.num_epochs = 3
    config.learning_rate = 0.1
    config.momentum = 0.9
    config.weight_decay = 1e-4
    config.schedule = "step"
    config.decay_steps = (32_000, 48_000)
    config.log_every_steps = 78  # five a CIFAR-10 epoch
    config.test_every_epochs = 1
    return config
