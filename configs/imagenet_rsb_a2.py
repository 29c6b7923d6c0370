"""ResNet-50 on ImageNet by procedure A2 of "ResNet strikes back" (arXiv:2110.00476): 79.8 % top-1 there; not run here.

    python train.py --config configs/imagenet_rsb_a2.py --config.data_dir=DIR

This is A1 (configs/imagenet_rsb_a1.py) with half the epochs, twice the weight decay, less mixup, no label smoothing.
"""

from ml_collections import ConfigDict

from resnet_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("imagenet_rsb_a1")
    config.num_epochs = 300
    config.weight_decay = 0.02
    config.augment.mixup = 0.1
    config.label_smoothing = 0.0
    return config
