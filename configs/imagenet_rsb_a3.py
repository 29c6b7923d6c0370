"""ResNet-50 on ImageNet by procedure A3 of "ResNet strikes back" (arXiv:2110.00476): 78.1 % top-1 there; not run here.

    python train.py --config configs/imagenet_rsb_a3.py --config.data_dir=DIR

This is the short procedure: it trains at 160 pixels and evaluates at 224, with neither stochastic depth nor repeated
augmentation (the paper's Table 2). configs/imagenet_rsb_a1.py holds the fields that it shares with A1.
"""

from ml_collections import ConfigDict

from resnet_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("imagenet_rsb_a1")
    config.model_args.stochastic_depth = 0.0
    config.augment.crop_size = 160
    config.augment.policy_magnitude = 6.0
    config.augment.mixup = 0.1
    config.repeated_augmentation = 1
    config.num_epochs = 100
    config.learning_rate = 8e-3
    config.weight_decay = 0.02
    config.label_smoothing = 0.0
    return config
