r"""Transfer learning: a network trained on ImageNet learns to classify your own images.

    python train.py --config configs/finetune_folder.py --config.data_dir=DIR

DIR holds <class>/<image>, or train/<class>/… with val/<class>/…. The weights are torchvision's, downloaded once.
--config.finetune.weights=PATH takes any weights that `convert` reads without options, if they fit the network of
--config.model. There are three ways:

    --config.finetune.trainable=all      train every layer, the new head at a rate of its own (the default)
    --config.finetune.trainable=stage4   train the last stage and the head
    --config.finetune.trainable=head --config.augment.random_resized_crop=False --config.augment.flip=False
                                         train the head alone: each image passes through the network once for all epochs

docs/transfer_learning.md lists the accuracy and the time of each, for CIFAR-10's cats and dogs and for the digits:

    python train.py --config configs/finetune_folder.py --config.data_dir=cats-and-dogs --config.model=resnet56 \
        --config.finetune.weights=resnet56-4bfd9763.th --config.image_size=32 --config.resize=32 \
        --config.augment.random_resized_crop=False --config.augment.flip=False --config.batch_size=64 \
        --config.num_epochs=5
    python train.py --config configs/digits.py --config.model=resnet56 --config.image_size=32 --config.num_epochs=5 \
        --config.finetune.weights=resnet56-4bfd9763.th --config.finetune.head_learning_rate=0.1 \
        --config.learning_rate=0.02 --config.mean="(0.485, 0.456, 0.406)" --config.std="(0.229, 0.224, 0.225)" \
        --config.augment.crop_padding=0

Add --config.finetune.trainable=all, stage3 or head. To train from scratch, leave out finetune's options and the rate.
"""

from ml_collections import ConfigDict

from resnet_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("folder")  # the same images
    config.model = "resnet50"
    config.augment.crop_scale = (0.35, 1.0)
    config.finetune.weights = "IMAGENET1K_V2"
    config.finetune.trainable = "all"
    config.finetune.head_learning_rate = 0.05
    config.batch_size = 32
    config.num_epochs = 10
    config.learning_rate = 0.005
    config.weight_decay = 1e-4
    config.warmup_epochs = 0.5
    return config
