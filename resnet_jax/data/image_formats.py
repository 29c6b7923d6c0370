"""The names of image files: every format that Pillow reads as pixels, and NumPy's for images of many channels."""

# Pillow registers more: documents and drawings (pdf, eps, ps, emf, wmf), films (mpg, mpeg, fli, flc), containers of
# measurements that it cannot decode (bufr, grib, h5, hdf), captions (iim), and formats that it only writes (palm).
# A fixed list, not asked of Pillow: what a folder holds may not depend on what is installed.
EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif",
    ".jfif", ".jpe", ".mpo", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs", ".apng",
    ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".icb", ".vda", ".vst", ".dib", ".ico", ".cur", ".icns", ".pcx", ".dcx",
    ".psd", ".qoi", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".dds", ".blp", ".ftc", ".ftu", ".im", ".msp", ".pcd",
    ".pxr", ".gbr", ".xbm", ".xpm", ".fit", ".fits",
    ".npy",
)  # fmt: skip


def is_image(path: str) -> bool:
    """Returns whether a file is an image, by its name."""
    return path.lower().endswith(EXTENSIONS)
