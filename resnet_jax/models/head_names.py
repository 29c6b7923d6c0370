"""The names of a network's last layers: the head, and a layer on top of an old head."""

HEAD, TOP = "fc", "top"
