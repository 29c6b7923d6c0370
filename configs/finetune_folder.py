r"""Transfer learning: a network that was trained on ImageNet learns to tell one's own images apart.

    python train.py --config configs/finetune_folder.py --config.data_dir=DIR

DIR holds <class>/<image>, or train/<class>/… with val/<class>/…. The weights are torchvision's, downloaded once;
--config.finetune.weights=PATH takes any that `convert` reads, of the network that --config.model names. Three ways:

    --config.finetune.trainable=all      every layer, the new head at ten times the rate of the others (the default)
    --config.finetune.trainable=stage4   the last stage and the head
    --config.finetune.trainable=head --config.augment.random_resized_crop=False --config.augment.flip=False
                                         the head alone: each image passes through the network once, in all epochs

docs/transfer_learning.md has what each reaches in what time: of the cats and dogs of CIFAR-10, and of digits,

    python train.py --config configs/finetune_folder.py --config.data_dir=cats-and-dogs --config.model=resnet56 \
        --config.finetune.weights=resnet56-4bfd9763.th --config.image_size=32 --config.resize=32 \
        --config.augment.random_resized_crop=False --config.augment.flip=False --config.batch_size=64 \
        --config.num_epochs=5
    python train.py --config configs/digits.py --config.model=resnet56 --config.image_size=32 --config.num_epochs=5 \
        --config.finetune.weights=resnet56-4bfd9763.th --config.finetune.head_learning_rate=0.1 \
        --config.learning_rate=0.02 --config.mean="(0.485, 0.456, 0.406)" --config.std="(0.229, 0.224, 0.225)" \
        --config.augment.crop_padding=0

with --config.finetune.trainable=all, stage3 or head; from scratch with neither finetune's options nor another rate.
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
