"""python train.py --config configs/digits.py: the train command, nothing else."""

import sys

from resnet_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
