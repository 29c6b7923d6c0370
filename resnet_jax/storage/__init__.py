"""Runs and images in object storage: buckets by `s3://` and `gs://` addresses, as files on this machine."""

from resnet_jax.storage.address import is_address
from resnet_jax.storage.run_files import read_run
from resnet_jax.storage.workdir import Workdir, open_workdir

__all__ = ["Workdir", "is_address", "open_workdir", "read_run"]
