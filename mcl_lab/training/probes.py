"""How much of the classes can be told from embeddings: by nearest neighbours and by a linear classifier.

N images, D embedding width. `arrays`: train_embeddings and test_embeddings (N, D) float32, train_labels and test_labels (N,)
int64.
"""

import warnings

import numpy as np

TEMPERATURE = 0.07  # of the neighbours' votes, as in Wu et al., CVPR 2018, and since


def knn_accuracy(arrays: dict[str, np.ndarray], k: int) -> float:
    """Accuracy (%) of the vote of the k nearest training embeddings by cosine, of weight exp(cosine / TEMPERATURE)."""
    from sklearn.neighbors import KNeighborsClassifier  # seconds to import

    def weights(distances):  # 1 - cosine
        return np.exp(-distances / TEMPERATURE)

    neighbours = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
    neighbours.fit(arrays["train_embeddings"], arrays["train_labels"])
    return 100 * float(neighbours.score(arrays["test_embeddings"], arrays["test_labels"]))


def probe_accuracy(arrays: dict[str, np.ndarray], inverse_regularisation: float, iterations: int) -> tuple[float, bool]:
    """Accuracy (%) of a linear classifier trained on standardised training embeddings, and whether it converged in as many
    iterations."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_regularisation, max_iter=iterations))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe.fit(arrays["train_embeddings"], arrays["train_labels"])
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return 100 * float(probe.score(arrays["test_embeddings"], arrays["test_labels"])), converged
