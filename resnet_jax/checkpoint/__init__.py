"""What a checkpoint is: arrays, manifest, folders of steps, and writing in the background."""
