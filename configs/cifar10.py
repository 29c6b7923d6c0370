"""ResNet-20 on CIFAR-10, trained as in He et al. 2015 (arXiv:1512.03385, section 4.2): 8.75 % error in the paper.

    python train.py --config configs/cifar10.py

On JPEG copies of CIFAR-10 it gets 87.66 % of the test images right (seed 0, with --config.dtype=bfloat16).

For a deeper network, add --config.model=resnet56. With 110 layers, warm up for 400 steps at a tenth of the rate:

    python train.py --config configs/cifar10.py --workdir runs/resnet110 --config.model=resnet110 \
        --config.warmup_steps=400 --config.warmup_shape=constant --config.warmup_start_factor=0.1
"""

from ml_collections import ConfigDict

from resnet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = "resnet20"
    config.model_args.kernel_init = "fan_in"
    config.dataset = "cifar10"
    config.normalize = "pixel"  # subtract the mean of the training images, pixel by pixel ...
    config.std = (1.0, 1.0, 1.0)  # ... and divide by nothing
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.batch_size = 128
    config.num_steps = 64_000
    config.learning_rate = 0.1
    config.momentum = 0.9
    config.weight_decay = 1e-4
    config.schedule = "step"
    config.decay_steps = (32_000, 48_000)
    config.test_every_epochs = 10  # all 50,000 images train; the test set selects nothing
    return config
