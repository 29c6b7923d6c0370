"""ResNet-50 on ImageNet by procedure A1 of "ResNet strikes back" (arXiv:2110.00476): 80.4 % top-1 there; not run here.

    python train.py --config configs/imagenet_rsb_a1.py --config.data_dir=DIR

For the images, see configs/imagenet.py. Where the paper leaves something open, this config follows timm: three
repetitions, bicubic resizing, the last norm of each block initialised to zero, and mixed targets that count as 1 above
a share of 0.2. Two things differ from timm's defaults: the rate changes by step, from 0 to 0, and smoothing follows the
threshold.
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
    config.model_args.stochastic_depth = 0.05
    config.image_size = 224
    config.resize = 235  # 224 / 0.95, rounded as timm does
    config.interpolation = "bicubic"
    config.augment.resampler = "pillow"  # the only one that resizes this way
    config.augment.policy = "randaugment_increasing"
    config.augment.policy_num_ops = 2
    config.augment.policy_magnitude = 7.0
    config.augment.mixup = 0.2
    config.augment.cutmix = 1.0
    config.repeated_augmentation = 3
    config.batch_size = 2048
    config.num_epochs = 600
    config.optimizer = "lamb"
    config.learning_rate = 5e-3
    config.momentum = 0.9
    config.schedule = "cosine"
    config.warmup_epochs = 5.0
    config.weight_decay = 0.01
    config.decay_norm_and_bias = False
    config.loss = "sigmoid"
    config.target_threshold = 0.2
    config.label_smoothing = 0.1
    return config
