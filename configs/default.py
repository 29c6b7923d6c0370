"""Every field of a run, with its default and type; the other files here change some of them.

python train.py --config configs/digits.py --config.learning_rate=0.05 --config.augment.flip=True
"""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    config = ConfigDict()

    # Model: a name of `python -m resnet_jax list`, and any argument of resnet_jax.models.ResNet over it, for example
    # --config.model_args.shortcut=B or --config.model_args.dropout=0.2.
    config.model = "resnet18"
    config.model_args = ConfigDict()
    config.num_classes = 0  # 0: as many as the data set has
    config.dtype = "float32"  # "float32" | "bfloat16" | "float64" (with JAX_ENABLE_X64=1)
    # Whose statistics normalise in training: "global" the whole batch's | "local" each device's share's |
    # "ghost:N" every N images' | "frozen" the running ones.
    config.batch_norm = "global"
    # The first convolution's filters: "random", as the others | "whitening": principal components of training images'
    # patches, each with both signs. Where images are decoded as they are read, 2,000 are at each start.
    config.stem_init = "random"
    config.precise_bn_batches = 0  # > 0: before it is judged, a model's statistics are computed anew over so many

    # Data.
    config.dataset = "digits"  # "digits" | "folder" | a TFDS set with images and labels: "cifar10", "imagenet2012" …
    config.data_dir = (
        ""  # the folder of images, or of TFDS's sets, or its address in a bucket; "": ~/tensorflow_datasets
    )
    # Of a folder whose splits are not called train, val and test: which folders they are, from data_dir.
    config.split_folders = ConfigDict()
    config.split_folders.train = ""
    config.split_folders.validation = ""
    config.split_folders.test = ""
    # Of images whose labels a table says, instead of folders: CSV, TSV, JSON lines or Parquet, from data_dir.
    config.table = ConfigDict()
    config.table.file = ""  # "": the one that names the images, if there is one
    config.table.image_column = ""  # "": by its name: image, file_name, path …
    config.table.label_column = ""  # likewise: label, class …; several with commas between: columns of zeros and ones
    config.table.split_column = ""  # likewise: split …
    config.table.image_dir = ""  # what paths in the table start from, from data_dir
    config.table.label_separator = ""  # between the labels of an image that may have several, as in "cat|dog"
    config.table.class_names = ""  # a text file of class names, one a line, which numbers count from 0
    # Pixels a side, or (height, width); 0: as they are, or 224. Small images: a multiple of their own.
    config.image_size = FieldReference(0, field_type=object)
    # How encoded images of another shape come to that: "crop" the centre, after resize | "squash" all of it, whatever
    # its shape | "pad" all of it, black around. Evaluation and training alike; a random crop is taken of the result.
    config.fit = "crop"
    config.resize = 0  # encoded images in evaluation: their shorter side before the crop; 0: image_size * 256 / 224
    config.interpolation = "bilinear"  # "bilinear" | "bicubic", of every resize
    # Of the images: 1 grey | 3 RGB | 4 RGBA, as Pillow converts to them | n: .npy files of uint8 (height, width, n).
    config.channels = 3
    config.exif_rotation = False  # turn images as EXIF says (torchvision does not)
    config.high_bit_depth = "error"  # more than 8 bits a channel: "error" | "scale" the stored type's full range to 8
    config.max_pixels = 89_478_485  # of an image; larger ones are refused, by default as Pillow warns; 0: none are
    config.max_bad_images = 0  # so many damaged images are skipped, with a warning; 0: the first stops the run
    config.decode_threads = 0  # 0: one a core
    config.repeated_augmentation = 1  # how often an epoch takes each of its images
    config.validation_fraction = 0.0  # of the training images, held out where the set has no validation images
    config.validation_split = "random"  # which these are: "random" | "stratified": of each class its share
    config.sampling = "shuffle"  # "shuffle" | "balanced": an epoch draws with replacement, each class equally likely
    config.normalize = "channel"  # "channel": by mean and std below; "pixel": the training images' mean, over std
    config.mean = (0.5, 0.5, 0.5)  # of each channel, in [0, 1]; or one number for all, (0.5,)
    config.std = (0.5, 0.5, 0.5)
    config.augment = ConfigDict()
    config.augment.crop_padding = 0  # pixels on every side, then a random crop; 0: none
    config.augment.crop_padding_mode = "zeros"  # "zeros" (before normalisation) | "reflect"
    config.augment.flip = False  # left to right, half of the images
    config.augment.flip_alternates = False  # each image in every second epoch, not by chance
    config.augment.random_resized_crop = False  # a random part, resized; else as in evaluation
    config.augment.crop_size = 0  # pixels a side of that; 0: image_size
    config.augment.crop_scale = (0.08, 1.0)  # its share of the area
    config.augment.crop_ratio = (3 / 4, 4 / 3)  # its width by its height
    config.augment.resampler = "opencv"  # "opencv" | "pillow": torchvision's pixels, slower
    config.augment.antialias = True
    config.augment.color_jitter = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    # "none" | "randaugment" | "randaugment_increasing" (timm's) | "trivialaugment" | "autoaugment_imagenet" |
    # "autoaugment_cifar10" | "autoaugment_svhn": on the host, before what follows here and above in jit.
    config.augment.policy = "none"
    config.augment.policy_num_ops = 2  # of the two RandAugments
    config.augment.policy_magnitude = 9.0  # likewise; from 0 to 30, increasing: to 10
    config.augment.cutout_size = 0  # pixels a side of the square that is cut out; 0: none
    config.augment.random_erasing = 0.0  # the probability
    config.augment.mixup = 0.0  # the parameter of the beta distribution; 0: none
    config.augment.cutmix = 0.0  # likewise; with both, a coin chooses for each batch

    # Transfer learning: what a run begins from, and which layers it trains; the others stay as they are, bit for bit.
    config.finetune = ConfigDict()
    # A weights file; a checkpoint directory, a run's (its newest; of DIR/best its best) or convert's; or
    # "IMAGENET1K_V1", "IMAGENET1K_V2": torchvision's, downloaded once. "": from scratch.
    config.finetune.weights = ""
    config.finetune.head = "replace"  # "replace": by a new one | "add": a new layer on top of it | "keep": it is right
    config.finetune.trainable = "all"  # "all" | "stage4" (from that stage on; any of them) | "head" (what is new in it)
    config.finetune.head_learning_rate = 0.0  # > 0: the head's own, instead of learning_rate
    # Each stage's rate by that of the one behind it; the last layer has the full one. learning_rate_factors go first.
    config.finetune.layer_decay = 1.0

    # Duration. An epoch is num_train // batch_size steps; the tail of its permutation is dropped.
    config.batch_size = 128  # over all devices
    config.accumulation_steps = 1  # > 1: a batch passes in so many parts, whose gradients are averaged
    config.num_epochs = 10
    config.num_steps = 0  # > 0: instead of num_epochs
    config.stop_after_minutes = 0.0  # > 0: after so long a start saves and exits with 75, to be started again
    config.seed = 0

    # Optimizer.
    config.optimizer = "sgd"  # "sgd" | "lars" | "lamb" | "adamw" | "adam" | "rmsprop" | "lion"
    config.learning_rate = 0.1  # the peak that the optimizer sees
    config.momentum = 0.9  # of LAMB, Adam, AdamW and Lion: beta_1
    config.second_momentum = 0.0  # beta_2 of these, RMSprop's alpha; 0: 0.999, of Lion and RMSprop 0.99
    config.nesterov = False
    config.weight_decay = 1e-4  # coupled, as in torch; of AdamW, Lion and LAMB decoupled
    config.decay_norm_and_bias = True
    config.decay_bias = False  # without decay_norm_and_bias: biases outside of batch norms decay all the same
    config.l1 = 0.0  # strength of an L1 penalty on what decays
    config.trust_coefficient = 0.001  # of LARS
    config.clip_gradient_norm = 0.0  # > 0: gradients are scaled down to this norm
    config.learning_rate_factors = ConfigDict()  # by layer (conv1, bn1, layer1 … norm, fc, top): ….layer4=0.1
    config.loss = "softmax"  # "softmax" | "sigmoid": binary cross-entropy, class by class
    config.target_threshold = 0.0  # "sigmoid": > 0: mixed targets above it count as 1, the others as 0
    config.label_smoothing = 0.0
    # How much a class weighs in the training loss, a mean weighted so: "none" | "balanced": images / (classes * images
    # of the class) | numbers, one a class: (1.0, 2.5).
    config.class_weights = FieldReference("none", field_type=object)

    # Moving average of weights and statistics, evaluated beside them.
    config.ema_decay = 0.0  # the share that stays at each of its updates; 0: none is kept
    config.ema_every_steps = 1
    config.ema_warmup_epochs = 0.0  # so long it is a copy of the weights

    # Schedule: "constant" | "step" | "cosine" | "polynomial" (quadratic) | "one_cycle".
    config.schedule = "cosine"
    config.schedule_by = "step"  # "step" | "epoch": how often the rate changes
    config.decay_epochs = ()  # "step" multiplies the rate by decay_factor at these epochs ...
    config.decay_steps = ()  # ... or at these steps
    config.decay_factor = 0.1
    config.warmup_epochs = 0.0
    config.warmup_steps = 0  # > 0: instead of warmup_epochs
    config.warmup_start_factor = 0.0  # of learning_rate, at the first step
    config.warmup_shape = "linear"  # "linear" | "constant": stays at the start until the warm-up ends

    # Cadences.
    config.log_every_steps = 50  # the training loss; once an epoch where that is shorter
    config.eval_every_epochs = 1  # on the validation images
    # > 0: so many validations in succession without a better one end the run, as its last step would.
    config.early_stopping_patience = 0
    config.test_every_epochs = 0  # on the test images, besides the end; 0: at the end only
    config.checkpoint_every_steps = 0  # 0: once an epoch
    config.tensorboard_tags = "grouped"  # "grouped": loss/train beside loss/val | "plain": train_loss, as in the log
    config.on_nonfinite = "stop"  # a loss or gradient that is not finite: "stop" the run | "skip" the update
    config.max_skipped_updates = 100  # so many skipped in succession stop the run all the same

    config.lock()  # from here on an unknown field or another type is an error
    config.model_args.unlock()
    config.learning_rate_factors.unlock()
    return config
