"""The import path under which the release has `instantiate_from_config`."""
from configuration.targets import get_obj_from_str, instantiate_from_config

__all__ = ["get_obj_from_str", "instantiate_from_config"]
