"""The embedded data set: scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np

from faultlines.data.balance import balanced_order

TEST_SIZE = 500
SPLIT_SEED = 2507  # part of the data set: changing it changes every published number on digits


def read_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return `x_train, y_train, x_test, y_test` with 1,297 and 500 (50 a class) images of 8 x 8 pixels.

    Pixels count the set dots of a 4 x 4 block (E. Alpaydin and C. Kaynak 1998), so 0 to 16; they are divided
    by 16 here. The split is fixed.

    Returns:
        Images float32 `[n, 8, 8]` in [0, 1], and int64 classes `[n]`.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) / 16).astype(np.float32)
    labels = labels.astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    test[balanced_order(labels, SPLIT_SEED)[:TEST_SIZE]] = True
    return images[~test], labels[~test], images[test], labels[test]
