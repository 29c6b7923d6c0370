"""ResNet-20 on CIFAR-10 in ten epochs: Nesterov, one epoch of warm-up, cosine.

python train.py --config configs/cifar10_quick.py
"""

from ml_collections import ConfigDict

from resnet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = "resnet20"
    config.model_args.kernel_init = "fan_in"
    config.dataset = "cifar10"
    config.mean = (0.4914, 0.4822, 0.4465)
    config.std = (0.2470, 0.2435, 0.2616)
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.batch_size = 128
    config.num_epochs = 10
    config.learning_rate = 0.2
    config.momentum = 0.9
    config.nesterov = True
    config.weight_decay = 5e-4
    config.schedule = "cosine"
    config.warmup_epochs = 1.0
    config.test_every_epochs = 1  # all 50,000 images train; the test set selects nothing
    return config
