import pytest
from bucket_server import BucketServer, environment_of


@pytest.fixture(scope="session")
def server():
    """A bucket for all tests of a process; each has a folder of its own in it."""
    pytest.importorskip("moto", reason="needs moto's S3 server: pip install 'moto[s3,server]'")
    with BucketServer() as bucket:
        yield bucket


@pytest.fixture
def bucket(server):
    """The bucket, without faults, where this process finds it."""
    server.fault = lambda method, path, number: None
    with environment_of(server, RESNET_JAX_LEASE_SECONDS="2"):
        yield server
    server.fault = lambda method, path, number: None
