"""What records in MLflow: these modules import it, which takes seconds; it is set up here, before that."""

import os


def configure() -> None:
    """MLflow's settings, which it reads from the environment, some when it is imported and some at each request.

    A pass that fails is done again as a whole: MLflow's own retries would only hide it for minutes, and a request repeated
    behind our back could make a run twice.
    """
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # MLflow complains where there is no git
    if os.path.expanduser("~") == "~":  # nobody's home, as in a container: MLflow looks for it when it is imported
        os.environ["HOME"] = "/nonexistent"


configure()
