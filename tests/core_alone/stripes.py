"""A reward in a file: how much brighter the upper half of an image is than the lower half, in [-1, 1]."""


def score(batch):
    """One number for each image."""
    images = [media["image"].data / 255 for media in batch.media]  # (H, W, 3) each
    return [float(image[: len(image) // 2].mean() - image[len(image) // 2 :].mean()) for image in images]
