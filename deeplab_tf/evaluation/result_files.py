"""Names of the files that `eval` writes, for the programs that read them."""

RESULTS = "results.json"
PER_IMAGE = "per_image.csv"
MATRIX = "confusion_matrix.csv"
WORST = "worst_images.csv"
