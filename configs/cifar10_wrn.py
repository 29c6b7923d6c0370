"""Wide ResNet 28-10 on CIFAR-10 (Zagoruyko and Komodakis 2016, arXiv:1605.07146): 4.00 % error there; not run here.

    python train.py --config configs/cifar10_wrn.py

With dropout inside the blocks the paper has 3.89 %: --config.model_args.dropout=0.3
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
    config.model = "wrn28_10"
    config.augment.crop_padding_mode = "reflect"
    config.batch_size = 128
    config.num_epochs = 200
    config.learning_rate = 0.1
    config.momentum = 0.9
    config.nesterov = True
    config.weight_decay = 5e-4
    config.schedule = "step"
    config.decay_epochs = (60, 120, 160)
    config.decay_factor = 0.2
    config.test_every_epochs = 10  # all 50,000 images train; the test set selects nothing
    return config
