"""A masked language model in ONNX: logits at the masks, by onnxruntime on the CPU."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilray.errors import InputError
from distilray.models.masked_lm import read_model_config
from distilray.models.onnx_format import (
    INPUTS,
    ONNX_FILE,
    OUTPUT,
    STANDARD_INPUTS,
    TOKEN_TYPES,
    import_onnx_package,
    read_onnx_file,
)
from distilray.runtime import storage

_ERRORS_ONLY = 3  # of the severities of onnxruntime


class OnnxMaskedLM:
    """A model of `jobs.export_model`, fp32 or int8; make one with `OnnxMaskedLM.load`. Threads may share it.

    A graph with the usual signature, of `onnx-standard` or of Optimum, computes the logits of all tokens first.

    Attributes:
        config: of transformers.
        dtype: of the weights, "float32" or "int8".
        reads_token_types: whether it tells the segments of a pair apart.
    """

    def __init__(self, session: Any, config: Any, *, dtype: str) -> None:
        self.config, self.dtype = config, dtype
        inputs = {value.name for value in session.get_inputs()}
        self.reads_token_types, self._reads_masks = TOKEN_TYPES in inputs, INPUTS[2] in inputs
        self._session = session

    @classmethod
    def load(cls, folder: str, *, threads: int | None = None) -> "OnnxMaskedLM":
        """Loads the folder of an ONNX model; runs no code of it and reads no weights from outside its one file.

        Args:
            folder: local, with `model.onnx` and `config.json`.
            threads: of this model; all cores when None.

        Raises:
            InputError: onnxruntime is not installed, or a file is missing or not what it should be.
        """
        runtime = import_onnx_package("onnxruntime")
        config = read_model_config(folder, ONNX_FILE)
        file = storage.local_path(folder) / ONNX_FILE
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        checked = read_onnx_file(file)
        try:
            session = runtime.InferenceSession(checked.data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for every kind of fault
            told = str(error).splitlines()[0]
            raise InputError(f"{file}: onnxruntime cannot load it ({told}); run jobs.export_model again") from None
        return cls(session, config, dtype="int8" if checked.is_int8 else "float32")

    def logits_at(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        mask_index: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Logits over the vocabulary, (masks, vocabulary).

        Args:
            input_ids, attention_mask: (batch, length).
            mask_index: (masks,) places in the flattened (batch x length).
            token_type_ids: (batch, length); zeros when None. A model without token types ignores them.
        """
        feed = dict(zip(STANDARD_INPUTS, (input_ids, attention_mask), strict=True))
        if self._reads_masks:
            feed[INPUTS[2]] = mask_index
        if self.reads_token_types:
            feed[TOKEN_TYPES] = np.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        logits: NDArray[np.float32] = self._session.run([OUTPUT], feed)[0]
        return logits if self._reads_masks else logits.reshape(-1, logits.shape[-1])[mask_index]
