"""Encoded images: their size, and whether they can be decoded."""

from io import BytesIO

from dlperf.data.records import Content

# What Pillow raises for damaged files, by its formats.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError)


def size_of(content: Content) -> tuple[int, int] | None:
    """Width and height in pixels, read from an image's head; None where it is no image that Pillow knows."""
    from PIL import Image  # noqa: PLC0415 - plans ask whether a data set is there, and start quickly

    try:
        with Image.open(BytesIO(content)) as image:
            return image.size
    except (*_DAMAGE, Image.DecompressionBombError):
        return None


def decoded_size(content: Content) -> tuple[int, int] | str:
    """Width and height of an image, all of which is decoded; or what is wrong with it."""
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - as above

    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
            return image.size
    except UnidentifiedImageError:
        return "no image of a known format"
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        return f"the image cannot be decoded: {error}"
