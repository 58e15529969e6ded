"""The keys of a recipe with types, bounds, defaults and descriptions, as `--help` lists them."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

_WIDTH = 100
_INDENT = 32  # of the descriptions
_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class RecipeKey:
    """A key of a recipe.

    Attributes:
        name: dotted, as in an override; `[]` stands for an entry of a list, `NAME` for a name of your choice.
        values: type and bounds.
        default: as in YAML; None if the key is required, "" if it may be left out.
    """

    name: str
    values: str
    default: str | None
    description: str

    def text(self) -> str:
        """Return the entry of the key in the help."""
        default = {None: "required", "": "optional"}.get(self.default, f"default {self.default}")
        description = f"{self.values}, {default}" + (f": {self.description}" if self.description else "")
        lines = textwrap.wrap(description, _WIDTH - _INDENT, break_on_hyphens=False, break_long_words=False)
        name = f"  {self.name}"
        head = [name] if len(name) >= _INDENT else [name.ljust(_INDENT) + lines.pop(0)]
        return "\n".join([*head, *(" " * _INDENT + line for line in lines)])


def format_keys(config_class: type[BaseModel]) -> str:
    """Return the keys of a recipe as text of at most 100 columns."""
    heading = "recipe keys, in the file or as a.b=value on the command line:"
    return "\n".join([heading, *(key.text() for key in recipe_keys(config_class))])


def recipe_keys(config_class: type[BaseModel]) -> list[RecipeKey]:
    """Return the keys of a config class and its sections, in the order of their declaration."""
    schema = config_class.model_json_schema()
    return list(_keys_of(schema, schema.get("$defs", {}), ""))


def _keys_of(section: Schema, definitions: Schema, prefix: str) -> Iterator[RecipeKey]:
    required = section.get("required", [])
    for name, schema in section["properties"].items():
        key, nested = f"{prefix}{name}", list(_sections(schema, definitions, f"{prefix}{name}"))
        is_plain_section = "$ref" in schema and len(nested) == 1
        if not is_plain_section:
            default = None if name in required else _default(schema)
            yield RecipeKey(key, _values(schema, definitions), default, schema.get("description", ""))
        for nested_prefix, nested_section in nested:
            yield from _keys_of(nested_section, definitions, f"{nested_prefix}.")


def _sections(schema: Schema, definitions: Schema, key: str) -> Iterator[tuple[str, Schema]]:
    """Yield the sections in the value of a key, with the prefix of their keys."""
    if "$ref" in schema:
        section = definitions[schema["$ref"].rpartition("/")[2]]
        if "properties" in section:
            yield key, section
    for variant in [*schema.get("anyOf", []), *schema.get("oneOf", [])]:
        yield from _sections(variant, definitions, key)
    if isinstance(items := schema.get("items"), dict):
        yield from _sections(items, definitions, f"{key}[]")
    for items in [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]:
        if isinstance(items, dict):
            yield from _sections(items, definitions, f"{key}.NAME")


def _default(schema: Schema) -> str:
    default = schema.get("default")
    return "" if default is None else json.dumps(default) if not isinstance(default, str) else default


def _values(schema: Schema, definitions: Schema) -> str:
    """Return the type and bounds of a value in words."""
    if "$ref" in schema:
        return _values(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    variants = [
        variant for variant in [*schema.get("anyOf", []), *schema.get("oneOf", [])] if variant != {"type": "null"}
    ]
    if variants:
        return " or ".join(dict.fromkeys(_values(variant, definitions) for variant in variants))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "prefixItems" in schema:
        return f"[{', '.join(_values(item, definitions) for item in schema['prefixItems'])}]"
    if schema["type"] == "array":
        return f"list of {_values(schema['items'], definitions)}"
    if "properties" in schema:
        return "section"
    if schema["type"] == "object":
        items = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
        return f"names with {next(_values(item, definitions) for item in items if isinstance(item, dict))}"
    bounds = [f"{sign} {schema[name]:g}" for name, sign in _BOUNDS.items() if name in schema]
    kind = "path" if schema.get("format") == "path" else _TYPES[schema["type"]]
    return " ".join([kind, " and ".join(bounds)]) if bounds else kind
