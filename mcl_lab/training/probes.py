"""How much of the classes can be told from embeddings: by nearest neighbours and by a linear classifier.

N images, D embedding width, C classes.
"""

import warnings

import numpy as np

from mcl_lab.host.screen import say

TEMPERATURE = 0.07  # of the neighbours' votes, as in Wu et al., CVPR 2018, and since


def knn_accuracy(arrays: dict[str, np.ndarray], k: int) -> float:
    """Accuracy (%) of the vote of the k nearest training embeddings by cosine, of weight exp(cosine / TEMPERATURE)."""
    from sklearn.neighbors import KNeighborsClassifier  # seconds to import

    def weights(distances):  # 1 - cosine
        return np.exp(-distances / TEMPERATURE)

    neighbours = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
    neighbours.fit(arrays["train_embeddings"], arrays["train_labels"])
    return 100 * float(neighbours.score(arrays["test_embeddings"], arrays["test_labels"]))


def probe_accuracy(arrays: dict[str, np.ndarray], inverse_regularisation: float, iterations: int, whose: str) -> float:
    """Accuracy (%) of a linear classifier trained on standardised training embeddings; says when it was stopped before
    it converged. whose: for that."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_regularisation, max_iter=iterations))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe.fit(arrays["train_embeddings"], arrays["train_labels"])
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        remedy = f"raise task.probe_iterations={iterations}, or lower task.probe_c"
        say(f"{whose}: the linear probe has not converged; {remedy}")
    return 100 * float(probe.score(arrays["test_embeddings"], arrays["test_labels"]))
