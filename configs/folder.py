"""ResNet-18 on a folder of your own images, DIR/<class>/<image>, or DIR/train/<class>/… with DIR/val/<class>/….

    python train.py --config configs/folder.py --config.data_dir=DIR

Without val/, a tenth of the images is held out for validation. best/ keeps the model with the best validation result.
This command reaches 83.55 % of the 2,000 test images on cats and dogs, the 12,000 JPEGs of two of CIFAR-10's classes:

    python train.py --config configs/folder.py --config.data_dir=cats-and-dogs --config.model=resnet20 \
        --config.image_size=32 --config.resize=32 --config.augment.crop_scale="(0.6, 1.0)" \
        --config.learning_rate=0.1 --config.num_epochs=20
"""

from ml_collections import ConfigDict

from resnet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = "resnet18"
    config.dataset = "folder"
    config.validation_fraction = 0.1
    config.image_size = 224
    config.exif_rotation = True  # a photograph is stored as the camera was held
    config.mean = (0.485, 0.456, 0.406)
    config.std = (0.229, 0.224, 0.225)
    config.augment.random_resized_crop = True
    config.augment.flip = True
    config.batch_size = 64
    config.num_epochs = 30
    config.learning_rate = 0.05
    config.momentum = 0.9
    config.nesterov = True
    config.weight_decay = 5e-4
    config.schedule = "cosine"
    config.warmup_epochs = 1.0
    return config
