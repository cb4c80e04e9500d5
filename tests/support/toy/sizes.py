"""Images of 16x16 pixels in 4 classes, patches of 8x8 pixels, 3 prefix codes and 4 image codes."""

IMAGE_SIZE, PATCH_SIZE, NUM_CODES, CODEBOOK_SIZE, NUM_CLASSES = 16, 8, 7, 32, 4
