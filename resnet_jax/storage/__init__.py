"""Runs and images in object storage: buckets by `s3://` and `gs://` addresses, as files on this machine."""

from resnet_jax.storage.address import check_address, is_address
from resnet_jax.storage.run_files import read_run
from resnet_jax.storage.workdir import Workdir, open_workdir

__all__ = ["Workdir", "check_address", "is_address", "open_workdir", "read_run"]
