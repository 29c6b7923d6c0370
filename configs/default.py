"""Every field of a run, with its default and type; the other files in this folder change some of them.

python train.py --config configs/digits.py --config.learning_rate=0.05 --config.augment.flip=True
"""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    config = ConfigDict()

    # Model.
    config.model = "resnet18"  # a name from `python -m resnet_jax list`
    # Arguments of resnet_jax.models.ResNet, which override the named model's. Any argument can be set, for example
    # --config.model_args.shortcut=B or --config.model_args.dropout=0.2.
    config.model_args = ConfigDict()
    config.num_classes = 0  # 0: as many as the data set has
    config.dtype = "float32"  # "float32" | "bfloat16" | "float64" (with JAX_ENABLE_X64=1)
    # The statistics that normalise in training: "global": the whole batch's | "local": each device's share's |
    # "ghost:N": every N images' | "frozen": the running statistics.
    config.batch_norm = "global"
    # Initial filters of the first convolution: "random", as in the other layers | "whitening": principal components of
    # patches of the training images, each with both signs. If images are decoded as they are read, a new run decodes
    # 2,000 of them for this.
    config.stem_init = "random"
    # > 0: before each evaluation, recompute the model's batch norm statistics over this many batches.
    config.precise_bn_batches = 0

    # Data.
    config.dataset = "digits"  # "digits" | "folder" | a TFDS set with images and labels: "cifar10", "imagenet2012" …
    # The folder of the images or of TFDS's sets, or its address in a bucket; "": ~/tensorflow_datasets.
    config.data_dir = ""

    # Split folders: which folders hold the splits, if they are not called train, val and test; or lists of each split's
    # images, text files or tables. Paths start from data_dir. "none" leaves a split out.
    config.split_folders = ConfigDict()
    config.split_folders.train = ""
    config.split_folders.validation = ""
    config.split_folders.test = ""

    # Table: a file that holds the images' labels, if folders do not: CSV, TSV, JSON lines or Parquet. Paths start from
    # data_dir.
    config.table = ConfigDict()
    config.table.file = ""  # "": the table that names the images, if there is one
    config.table.image_column = ""  # "": found by its name: image, file_name, path …
    # "": found by its name: label, class … Several names with commas between them: columns of zeros and ones.
    config.table.label_column = ""
    config.table.split_column = ""  # "": found by its name: split …
    config.table.image_dir = ""  # the folder that paths in the table start from, itself from data_dir
    config.table.label_separator = ""  # between the labels of an image that may have several, as in "cat|dog"
    config.table.class_names = ""  # a text file with one class name per line, for labels that are numbers from 0

    # Images: their size and colours, how they are read, and which of them an epoch takes. With image_size=0 images in
    # memory keep their size and others get 224. For images in memory, image_size must be a multiple of their size.
    config.image_size = FieldReference(0, field_type=object)  # side in pixels, or (height, width)
    # How encoded images of another shape reach this size: "crop": resize, then cut out the centre | "squash": the whole
    # image, distorted | "pad": the whole image, with black around it | "border": the same with the mean colour, rounded
    # as timm does. Evaluation and training both do this. A random crop is taken from the whole image, or, unless fit is
    # "crop", from the result.
    config.fit = "crop"
    # For encoded images in evaluation: the length of the shorter side before the crop; 0: image_size * 256 / 224.
    config.resize = 0
    config.interpolation = "bilinear"  # "bilinear" | "bicubic", of every resize
    # 1: grey | 3: RGB | 4: RGBA, converted by Pillow | n: .npy files of uint8 (height, width, n).
    config.channels = 3
    config.exif_rotation = False  # rotate images as EXIF says; torchvision does not
    # Images with more than 8 bits per channel: "error" | "scale": map the stored type's full range to 8 bits.
    config.high_bit_depth = "error"
    # Refuse images with more pixels than this; 0: no limit. Pillow warns above the default.
    config.max_pixels = 89_478_485
    config.max_bad_images = 0  # skip up to this many damaged images, with a warning; 0: the first one stops the run
    config.decode_threads = 0  # 0: one per core
    config.repeated_augmentation = 1  # how many times an epoch takes each of its images
    # The share of training images to hold out, if the set has no validation images.
    config.validation_fraction = 0.0
    config.validation_split = "random"  # how to choose these: "random" | "stratified": the same share of each class
    config.sampling = "shuffle"  # "shuffle" | "balanced": draw with replacement, each class equally likely
    # "channel": subtract mean, divide by std | "pixel": subtract the training images' mean image, divide by std.
    config.normalize = "channel"
    config.mean = (0.5, 0.5, 0.5)  # of each channel, in [0, 1]; or one number for all, (0.5,)
    config.std = (0.5, 0.5, 0.5)

    # Augmentation.
    config.augment = ConfigDict()
    config.augment.crop_padding = 0  # pixels to add on every side before a random crop; 0: no crop
    config.augment.crop_padding_mode = "zeros"  # "zeros" (before normalisation) | "reflect"
    config.augment.flip = False  # mirror half of the images left to right
    config.augment.flip_alternates = False  # mirror each image in every second epoch, instead of at random
    config.augment.random_resized_crop = False  # cut out a random part and resize it; False: crop as in evaluation
    config.augment.crop_size = 0  # side in pixels of that crop; 0: image_size
    config.augment.crop_scale = (0.08, 1.0)  # range of its share of the image's area
    config.augment.crop_ratio = (3 / 4, 4 / 3)  # range of its width divided by its height
    config.augment.resampler = "opencv"  # "opencv" | "pillow": torchvision's pixels, slower
    config.augment.antialias = True
    config.augment.color_jitter = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    # "none" | "randaugment" | "randaugment_increasing" (timm's) | "trivialaugment" | "autoaugment_imagenet" |
    # "autoaugment_cifar10" | "autoaugment_svhn". The host applies it, before the steps inside jit: crop padding, flip,
    # cutout, erasing, mixup and CutMix.
    config.augment.policy = "none"
    config.augment.policy_num_ops = 2  # for the two RandAugments
    config.augment.policy_magnitude = 9.0  # for the two RandAugments: from 0 to 30, for the increasing one to 10
    config.augment.cutout_size = 0  # side in pixels of the square to cut out; 0: none
    config.augment.random_erasing = 0.0  # the probability
    config.augment.mixup = 0.0  # parameter of the beta distribution; 0: none
    # Parameter of the beta distribution; 0: none. With both mixup and CutMix, a coin chooses one for each batch.
    config.augment.cutmix = 0.0

    # Transfer learning: the weights that a run starts from, and the layers that it trains. The other layers stay the
    # same, bit for bit.
    config.finetune = ConfigDict()
    # A weights file | a run's folder (the newest checkpoint; DIR/best: the best) | a directory from `convert` |
    # "IMAGENET1K_V1" or "IMAGENET1K_V2": torchvision's weights, downloaded once | "timm/NAME": a model of the Hugging
    # Face Hub | "": from scratch.
    config.finetune.weights = ""
    # "replace": put a new head in place of the old one | "add": put a new layer on top of the old head | "keep": the
    # head fits as it is.
    config.finetune.head = "replace"
    config.finetune.trainable = "all"  # "all" | "stage4": from this stage on (any stage) | "head": the head's new layer
    config.finetune.head_learning_rate = 0.0  # > 0: the head's own rate, instead of learning_rate
    # The learning rate of a stage, divided by the rate of the stage after it. The last layer has the full rate.
    # learning_rate_factors take precedence.
    config.finetune.layer_decay = 1.0

    # Duration. An epoch has num_train // batch_size steps. It drops the images at the end of its permutation that do
    # not fill a batch.
    config.batch_size = 128  # over all devices
    config.accumulation_steps = 1  # > 1: process a batch in this many parts and average their gradients
    config.num_epochs = 10
    config.num_steps = 0  # > 0: instead of num_epochs
    # > 0: after this time, each start saves and exits with 75, so that you can start the run again.
    config.stop_after_minutes = 0.0
    config.seed = 0

    # Optimizer.
    config.optimizer = "sgd"  # "sgd" | "lars" | "lamb" | "adamw" | "adam" | "rmsprop" | "lion"
    config.learning_rate = 0.1  # the peak that the optimizer sees
    config.momentum = 0.9  # for LAMB, Adam, AdamW and Lion: beta_1
    # beta_2 of LAMB, Adam, AdamW and Lion, alpha of RMSprop; 0: 0.999, for Lion and RMSprop 0.99.
    config.second_momentum = 0.0
    config.nesterov = False
    config.weight_decay = 1e-4  # coupled, as in torch; for AdamW, Lion and LAMB decoupled
    config.decay_norm_and_bias = True
    config.decay_bias = False  # without decay_norm_and_bias: still decay the biases outside batch norms
    config.l1 = 0.0  # strength of an L1 penalty on the parameters that decay
    config.trust_coefficient = 0.001  # of LARS
    config.clip_gradient_norm = 0.0  # > 0: scale gradients down to this norm
    # Factors of the rate, by layer (conv1, bn1, layer1 … norm, fc, top): --config.learning_rate_factors.layer4=0.1
    config.learning_rate_factors = ConfigDict()
    config.loss = "softmax"  # "softmax" | "sigmoid": binary cross-entropy, class by class
    config.target_threshold = 0.0  # for "sigmoid": > 0: mixed targets above this count as 1, the others as 0
    config.label_smoothing = 0.0
    # Each class's weight in the training loss, which is a weighted mean: "none" | "balanced": images / (classes *
    # images of the class) | one number per class: (1.0, 2.5).
    config.class_weights = FieldReference("none", field_type=object)

    # Moving average: of weights and statistics, evaluated beside them.
    config.ema_decay = 0.0  # the share that stays at each update of the average; 0: keep no average
    config.ema_every_steps = 1
    config.ema_warmup_epochs = 0.0  # for this long the average is a copy of the weights

    # Schedule.
    config.schedule = "cosine"  # "constant" | "step" | "cosine" | "polynomial" (quadratic) | "one_cycle"
    config.schedule_by = "step"  # "step" | "epoch": how often the rate changes
    config.decay_epochs = ()  # "step" multiplies the rate by decay_factor at these epochs ...
    config.decay_steps = ()  # ... or at these steps
    config.decay_factor = 0.1
    config.warmup_epochs = 0.0
    config.warmup_steps = 0  # > 0: instead of warmup_epochs
    config.warmup_start_factor = 0.0  # of learning_rate, at the first step
    config.warmup_shape = "linear"  # "linear" | "constant": keep the first rate until the warm-up ends

    # Cadences.
    config.log_every_steps = 50  # the training loss; if an epoch is shorter, once per epoch
    config.eval_every_epochs = 1  # on the validation images
    # > 0: after this many validations in a row without a better one, end the run as its last step would.
    config.early_stopping_patience = 0
    config.test_every_epochs = 0  # on the test images, besides the end; 0: at the end only
    config.checkpoint_every_steps = 0  # 0: once per epoch
    config.tensorboard_tags = "grouped"  # "grouped": loss/train beside loss/val | "plain": train_loss, as in the log
    config.on_nonfinite = "stop"  # a loss or gradient that is not finite: "stop" the run | "skip" the update
    config.max_skipped_updates = 100  # this many skipped updates in a row stop the run all the same

    config.lock()  # from here on an unknown field or another type is an error
    config.model_args.unlock()
    config.learning_rate_factors.unlock()
    return config
