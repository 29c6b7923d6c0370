"""ResNet-50 on ImageNet in batches of 8,192 by LARS (You et al. 2017, arXiv:1708.03888); not run here.

    python train.py --config configs/imagenet_large_batch.py --config.data_dir=DIR

Peak rate, warm-up and quadratic decay come from TensorFlow's reference models for LARS at this batch size (with a peak
of 25 for 16,384). Batch norm normalises every 64 images separately, on any number of devices. If the batch does not
fit, set --config.accumulation_steps=4. For the images, see configs/imagenet.py.
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
    config.model_args.zero_init_residual = True
    config.batch_norm = "ghost:64"
    config.image_size = 224
    config.resize = 256
    config.batch_size = 8192
    config.num_epochs = 90
    config.optimizer = "lars"
    config.learning_rate = 10.0
    config.momentum = 0.9
    config.trust_coefficient = 0.001
    config.schedule = "polynomial"
    config.warmup_epochs = 5.0
    config.weight_decay = 1e-4
    config.decay_norm_and_bias = False
    config.label_smoothing = 0.1
    config.checkpoint_every_steps = 156  # an epoch
    return config
