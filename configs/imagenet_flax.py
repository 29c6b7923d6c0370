"""ResNet-50 on ImageNet, as Flax's ImageNet example trains it: 76.4 to 76.7 % top-1 there; not run here.

    python train.py --config configs/imagenet_flax.py --config.data_dir=DIR

The rate is 0.1 for a batch of 256. Scale it with the batch size. For the images, see configs/imagenet.py. Two things
differ from the example: padding and initial weights are torchvision's.
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
    config.model_args.zero_init_residual = True
    config.image_size = 224
    config.resize = 256
    config.interpolation = "bicubic"
    config.augment.resampler = "pillow"  # the only one that resizes this way
    config.batch_size = 256
    config.num_epochs = 100
    config.learning_rate = 0.1
    config.momentum = 0.9
    config.nesterov = True
    config.schedule = "cosine"
    config.warmup_epochs = 5.0
    config.weight_decay = 1e-4
    config.decay_norm_and_bias = False
    return config
