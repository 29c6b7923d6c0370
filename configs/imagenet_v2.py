"""ResNet-50 on ImageNet, as torchvision trained its newer weights (IMAGENET1K_V2): 80.86 % top-1 there; not run here.

    python train.py --config configs/imagenet_v2.py --config.data_dir=DIR

For the images, see configs/imagenet.py. The rate changes by epoch, as in torchvision.
"""

from ml_collections import ConfigDict

from resnet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = "resnet50"
    config.dataset = "imagenet2012"
    config.mean = (0.485, 0.456, 0.406)
    config.std = (0.229, 0.224, 0.225)
    config.augment.random_resized_crop = True
    config.augment.flip = True
    config.checkpoint_every_steps = 1000
    config.image_size = 224
    config.resize = 232
    config.augment.crop_size = 176
    config.augment.policy = "trivialaugment"
    config.augment.random_erasing = 0.1
    config.augment.mixup = 0.2
    config.augment.cutmix = 1.0
    config.repeated_augmentation = 4
    config.batch_size = 1024
    config.num_epochs = 600
    config.learning_rate = 0.5
    config.momentum = 0.9
    config.schedule = "cosine"
    config.schedule_by = "epoch"
    config.warmup_epochs = 5.0
    config.warmup_start_factor = 0.01
    config.weight_decay = 2e-5
    config.decay_norm_and_bias = False
    config.decay_bias = True  # the head's bias; there is no other
    config.label_smoothing = 0.1
    config.ema_decay = 0.998908  # 1 - (1 - 0.99998) * batch_size * ema_every_steps / num_epochs
    config.ema_every_steps = 32
    config.ema_warmup_epochs = 5.0
    return config
