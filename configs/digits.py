"""ResNet-20 on 1,797 handwritten digits: a first result in a minute or two, with nothing to download.

python train.py --config configs/digits.py
"""

from ml_collections import ConfigDict

from resnet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = "resnet20"
    config.dataset = "digits"
    config.image_size = 16
    config.validation_fraction = 0.1
    config.augment.crop_padding = 2
    config.batch_size = 64
    config.num_epochs = 30
    config.learning_rate = 0.1
    config.nesterov = True
    config.weight_decay = 5e-4
    config.schedule = "cosine"
    config.warmup_epochs = 1.0
    config.log_every_steps = 10
    config.checkpoint_every_steps = 100
    return config
