"""ResNet-50 on ImageNet, as torchvision trained its first weights (IMAGENET1K_V1): 76.13 % top-1 there; not run here.

    python train.py --config configs/imagenet.py --config.data_dir=DIR

TFDS prepares the images from ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in DIR/downloads/manual. With
--config.dataset=folder they come from DIR/train/<class>/ and DIR/val/<class>/, as files or in tars.
"""

from ml_collections import ConfigDict

from resnet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = "resnet50"
    config.dataset = "imagenet2012"
    config.image_size = 224
    config.resize = 256
    config.mean = (0.485, 0.456, 0.406)
    config.std = (0.229, 0.224, 0.225)
    config.augment.random_resized_crop = True
    config.augment.flip = True
    config.batch_size = 256
    config.num_epochs = 90
    config.learning_rate = 0.1
    config.momentum = 0.9
    config.weight_decay = 1e-4
    config.schedule = "step"
    config.schedule_by = "epoch"
    config.decay_epochs = (30, 60)
    config.checkpoint_every_steps = 1000
    return config
