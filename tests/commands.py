"""The commands in this process, as a user meets them."""

from resnet_jax.cli.main import main


def refused(capsys, *words):
    """The one line that the command says before it exits with 2."""
    assert main([str(word) for word in words]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors
