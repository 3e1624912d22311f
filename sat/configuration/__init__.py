"""YAML files, command-line overrides, targets and their allow-list, settings and the model section."""
