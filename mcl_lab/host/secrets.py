"""What must not be written down or shown: passwords and tokens, taken out of texts."""

import base64
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus

# Variables of the environment that hold secrets, by how their names end: MLFLOW_TRACKING_PASSWORD, DATABRICKS_TOKEN,
# AWS_SECRET_ACCESS_KEY, PGPASSWORD, MYSQL_PWD, ... Not TOKENIZERS_PARALLELISM, AWS_ACCESS_KEY_ID or PWD.
_NAMES = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|_PWD|TOKEN|SECRET|(SECRET|ACCESS|API|PRIVATE)_?KEY)S?_?\d*$", re.IGNORECASE
)
SHORTEST = 4  # characters; to blot out every "1" would say more than it hides

# `user:password@` after `://`, up to the last @ before a blank: whoever forgot to write / as %2F has a password still. Not in
# sqlite:////home/me@there, which has no server.
_USER_INFO = re.compile(r"(?<=://)(?!/)\S*@")
# `&password=...` and its like, of which `sslpassword` is one.
QUERY = re.compile(
    r"([?&;#][\w.-]*(?:password|passwd|pwd|passphrase|token|secret|api_?key|access_?key)=)[^&;#\s'\"]*", re.I
)


def without_credentials(text: str) -> str:
    """`text`, a config for instance, without user and password in the URIs in it."""
    return _USER_INFO.sub("", QUERY.sub(r"\1***", text))


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text`, a message for instance, without credentials in URIs and without the values of the environment's secrets, in
    whatever way they are written."""
    forms = {form for secret in _secrets(environment) for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):  # one may be part of another
        text = text.replace(form, "***")
    return without_credentials(text)


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if _NAMES.search(name) and len(value) >= SHORTEST:
            yield value
    user, password = (environment.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    if user and password:
        yield base64.b64encode(f"{user}:{password}".encode()).decode()  # as in the header that a server hears


def _forms(secret: str) -> set[str]:
    """A secret as URIs, JSON, Python and HTML write it."""
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), html.escape(secret)} | {
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
    }
