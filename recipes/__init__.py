"""Recipes as flat YAML: each says only what differs from the defaults of its dataclass or from its base."""
