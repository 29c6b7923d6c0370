"""The tutorials' CIFAR-10 network: ResNet-18 with a 3x3 stem and no max-pool, ten epochs at a constant rate.

    python train.py --config configs/cifar10_resnet18.py

On JPEG copies of CIFAR-10 it gets 75.48 % of the test images right (with --config.dtype=bfloat16). After its first
epoch it gets 37.64 %, and 37.98 % with --config.batch_norm=local on four simulated devices. The long form reaches about
95 %: --config.num_epochs=200 --config.schedule=cosine
"""

from ml_collections import ConfigDict

from resnet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = "cifar_resnet18"
    config.dataset = "cifar10"
    config.mean = (0.4914, 0.4822, 0.4465)
    config.std = (0.2023, 0.1994, 0.2010)
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.batch_size = 128
    config.num_epochs = 10
    config.learning_rate = 0.1
    config.momentum = 0.9
    config.weight_decay = 5e-4
    config.schedule = "constant"
    config.test_every_epochs = 1  # all 50,000 images train; the test set selects nothing
    return config
