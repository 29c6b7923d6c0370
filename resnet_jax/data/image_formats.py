"""Which files are images, by the ends of their names."""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif")


def is_image(path: str) -> bool:
    """Returns whether a file is an image, by its name."""
    return path.lower().endswith(EXTENSIONS)
