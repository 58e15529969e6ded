"""Masked language model in ONNX format, run by onnxruntime on the CPU."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilray.errors import InputError
from distilray.models.masked_lm import read_model_config
from distilray.models.onnx_format import (
    MASK_INDEX,
    ONNX_FILE,
    OUTPUT,
    STANDARD_INPUTS,
    TOKEN_TYPES,
    import_onnx_package,
    read_onnx_file,
)
from distilray.runtime import storage

_ERRORS_ONLY = 3  # severity in onnxruntime


class OnnxMaskedLM:
    """ONNX model in fp32 or int8, usually from `jobs.export_model`. Create it with `load`. Thread-safe.

    A graph with the standard signature, as written by `onnx-standard` or Optimum, computes the logits of all tokens;
    those at the masks are then selected.

    Attributes:
        config: transformers config.
        dtype: dtype of the weights, "float32" or "int8".
        reads_token_types: True if the model distinguishes the segments of a pair.
    """

    def __init__(self, session: Any, config: Any, *, dtype: str) -> None:
        self.config, self.dtype = config, dtype
        inputs = {value.name for value in session.get_inputs()}
        self.reads_token_types, self._reads_masks = TOKEN_TYPES in inputs, MASK_INDEX in inputs
        self._session = session

    @classmethod
    def load(cls, folder: str, *, threads: int | None = None) -> "OnnxMaskedLM":
        """Load an ONNX model without running any code from its folder, and without reading weights outside its file.

        Args:
            folder: local folder with `model.onnx` and `config.json`.
            threads: number of threads; None uses all cores.

        Raises:
            InputError: onnxruntime is not installed, or a file is missing or invalid.
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
        except Exception as error:  # onnxruntime has a different class for every kind of error
            reason = str(error).splitlines()[0]
            raise InputError(f"{file}: onnxruntime cannot load it ({reason}); run jobs.export_model again") from None
        return cls(session, config, dtype="int8" if checked.is_int8 else "float32")

    def logits_at(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        mask_index: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        feed = dict(zip(STANDARD_INPUTS, (input_ids, attention_mask), strict=True))
        if self._reads_masks:
            feed[MASK_INDEX] = mask_index
        if self.reads_token_types:
            feed[TOKEN_TYPES] = np.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        logits: NDArray[np.float32] = self._session.run([OUTPUT], feed)[0]
        return logits if self._reads_masks else logits.reshape(-1, logits.shape[-1])[mask_index]
