"""Model families: one record per family of encoders with all of its class names, module paths and config keys.

To add a family, add a record to `ARCHITECTURES`. The code assumes post-norm layers, learned absolute positions and an
output matrix tied to the word embeddings.
"""

from __future__ import annotations  # the doctor imports this module with older Python versions

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SPECIAL_TOKEN_SETTINGS: Mapping[str, str] = {
    f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")
}


class LayerModules(NamedTuple):
    """Modules of one Transformer layer, or their paths within it."""

    query: Any
    key: Any
    value: Any
    attention_output: Any
    attention_norm: Any
    intermediate: Any
    activation: Any
    output: Any
    output_norm: Any


class HeadModules(NamedTuple):
    """Modules of a masked-LM head in execution order, or their paths."""

    dense: Any
    activation: Any
    norm: Any
    decoder: Any


@dataclass(frozen=True)
class Architecture:
    """Model family.

    Attributes:
        name: `model_type` in `config.json`.
        masked_lm, classifier, config: names of classes in transformers.
        embeddings: path of the embeddings, whose submodules have the same names in all families.
        layers: path of the list of layers.
        layer: paths within a layer.
        head: paths of the masked-LM head.
        decoder_bias: name of the decoder's bias in the weights.
        config_keys: common name -> key in `config.json`, where families differ.
        config_values: further settings of a new model, by their keys in `config.json`.
        pooler: path of the pooler; masked language models have none.
        reads_token_types: whether the model has an input for the segments of a pair.
        student: name of the family of students; None if the family cannot be a teacher.
        special_tokens: keys of `tokenizer_config.json` for special tokens.
    """

    name: str
    masked_lm: str
    classifier: str
    config: str
    embeddings: str
    layers: str
    layer: LayerModules
    head: HeadModules
    decoder_bias: str
    config_keys: Mapping[str, str]
    config_values: Mapping[str, Any] = field(default_factory=dict)
    pooler: str | None = None
    reads_token_types: bool = False
    student: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=lambda: SPECIAL_TOKEN_SETTINGS)

    @property
    def head_prefixes(self) -> tuple[str, ...]:
        """Prefixes of the parameters of the masked-LM head."""
        return tuple({f"{path.partition('.')[0]}.": None for path in self.head if path != self.head.activation})

    def model_class(self, name: str) -> Any:
        """Import a class of transformers, as named in `masked_lm`, `classifier` or `config`."""
        return getattr(importlib.import_module("transformers"), name)

    def new_config(self, **values: Any) -> Any:
        """Return a configuration; values have the common names of `config_keys`."""
        settings = {self.config_keys.get(name, name): value for name, value in values.items()}
        return self.model_class(self.config)(**settings, **self.config_values)

    def new_masked_lm(self, config: Any) -> Any:
        """Return a masked language model with random weights."""
        return self.model_class(self.masked_lm)(config)

    def config_value(self, config: Any, name: str) -> Any:
        """Return a value of a configuration by its common name."""
        return getattr(config, self.config_keys.get(name, name))

    def embeddings_of(self, model: Any) -> Any:
        """Return the embeddings of a masked language model."""
        return model.get_submodule(self.embeddings)

    def positions_of(self, model: Any) -> Any:
        """Return the position embeddings of a masked language model."""
        return self.embeddings_of(model).position_embeddings

    def layers_of(self, model: Any) -> Any:
        """Return the layers of a masked language model."""
        return model.get_submodule(self.layers)

    def modules_of(self, layer: Any) -> LayerModules:
        """Return the modules of a layer."""
        return LayerModules(*map(layer.get_submodule, self.layer))

    def head_of(self, model: Any) -> HeadModules:
        """Return the modules of the masked-LM head."""
        return HeadModules(*map(model.get_submodule, self.head))


BERT = Architecture(
    name="bert",
    masked_lm="BertForMaskedLM",
    classifier="BertForSequenceClassification",
    config="BertConfig",
    embeddings="bert.embeddings",
    layers="bert.encoder.layer",
    layer=LayerModules(
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        intermediate="intermediate.dense",
        activation="intermediate.intermediate_act_fn",
        output="output.dense",
        output_norm="output.LayerNorm",
    ),
    head=HeadModules(
        dense="cls.predictions.transform.dense",
        activation="cls.predictions.transform.transform_act_fn",
        norm="cls.predictions.transform.LayerNorm",
        decoder="cls.predictions.decoder",
    ),
    decoder_bias="cls.predictions.bias",
    config_keys={
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "activation": "hidden_act",
    },
    pooler="bert.pooler",
    reads_token_types=True,
    student="distilbert",
)
DISTILBERT = Architecture(
    name="distilbert",
    masked_lm="DistilBertForMaskedLM",
    classifier="DistilBertForSequenceClassification",
    config="DistilBertConfig",
    embeddings="distilbert.embeddings",
    layers="distilbert.transformer.layer",
    layer=LayerModules(
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        intermediate="ffn.lin1",
        activation="ffn.activation",
        output="ffn.lin2",
        output_norm="output_layer_norm",
    ),
    head=HeadModules("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
    decoder_bias="vocab_projector.bias",
    config_keys={
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "classifier_dropout": "seq_classif_dropout",
        "sinusoidal_positions": "sinusoidal_pos_embds",
    },
    config_values={"tie_weights_": True},
)
ARCHITECTURES: Mapping[str, Architecture] = {family.name: family for family in (BERT, DISTILBERT)}


def architecture_of(config: Any) -> Architecture:
    """Return the family of a configuration that `masked_lm.read_model_config` accepted."""
    return ARCHITECTURES[config.model_type]


def family_name(settings: Mapping[str, Any]) -> str:
    """Return the name of a family, supported or not, from the content of a `config.json`."""
    return str(settings.get("model_type", "unknown"))
