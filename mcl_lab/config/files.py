"""Config files as Hydra reads them: with errors that name the file, and once for many configs, not once for each."""

import pickle
from pathlib import Path

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf.errors import OmegaConfBaseException

from mcl_lab.config.yaml_aliases import refuse_multiplied
from mcl_lab.errors import InputError


class KeptFiles(ConfigRepository):
    """Hydra's repository of config files, with what was read before in `kept`: pickled, as Hydra changes what it gets.

    Without it a third of the time that composing takes goes into reading YAML.
    """

    def __init__(self, sources: list[ConfigSource], kept: dict[tuple, bytes]):
        self.sources = sources
        self.kept = kept

    def __deepcopy__(self, memo: dict) -> "KeptFiles":
        return KeptFiles(list(self.sources), self.kept)  # Hydra makes a copy for each config, with sources of its own

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Raises InputError for a file that cannot be read."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        key = (source and (source.scheme(), source.path, source.provider), config_path)
        if key not in self.kept:
            self.kept[key] = pickle.dumps(self._read(config_path, source))
        return pickle.loads(self.kept[key])

    def _read(self, config_path: str, source: ConfigSource | None) -> ConfigResult | None:
        if source is None or source.scheme() != "file":
            return super().load_config(config_path)
        file = Path(source.path, f"{config_path.removesuffix('.yaml')}.yaml")
        try:
            refuse_multiplied(file.read_text(encoding="utf-8"))
            return super().load_config(config_path)
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
            raise InputError(config_path, f"{file} cannot be read: {error}") from error
