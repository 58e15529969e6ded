"""Budget of a request: each limit is checked before the work that it bounds."""

from collections.abc import Sequence
from typing import Any

from distilray.config.serving import LimitsConfig
from distilray.inference.encoding import InputTextError
from distilray.inference.tasks.fill_mask import EncodedFillMaskQuery, FillMaskQuery
from serve.errors import ApiError, text_error

_FEWER_TEXTS = "send fewer or shorter texts in a request"
_FEWER_CANDIDATES = "lower top_k, or send fewer texts or masks in a request"


class Budget:
    """Limits of every task; a task with parameters or large answers of its own extends it.

    Both methods raise an `ApiError` of 422 that names the limit, the figure of the request and the fix.
    """

    def check_queries(self, queries: Sequence[Any], limits: LimitsConfig) -> None:
        """Check what must be bounded before tokenization: texts, parameters and their characters."""
        if not queries:
            raise ApiError(422, "no text; send at least one", error_type="Empty")
        if len(queries) > limits.max_items:
            raise ApiError(422, f"{len(queries)} texts; send at most {limits.max_items} in a request")
        self.check_parameters(queries[0], limits)
        for index, query in enumerate(queries):
            if len(query.text) > limits.max_chars:
                problem = f"{len(query.text):,} characters; send at most {limits.max_chars:,}"
                raise text_error(InputTextError("too_long", index, problem))
        chars = sum(len(query.text) for query in queries)
        _check("characters in all texts", chars, "max_request_chars", limits, _FEWER_TEXTS)

    def check_parameters(self, query: Any, limits: LimitsConfig) -> None:
        """Check the parameters, which all queries of a request share."""

    def check_encoded(self, encoded: Sequence[Any], limits: LimitsConfig, *, response_bytes: int) -> None:
        """Check what must be bounded before the model runs: tokens, and the estimated size of the response."""
        tokens = sum(len(query.input_ids) for query in encoded)
        _check("tokens in all texts", tokens, "max_request_tokens", limits, _FEWER_TEXTS)
        self.check_answers(encoded, limits)
        _check("bytes of response", response_bytes, "max_response_bytes", limits, _FEWER_CANDIDATES)

    def check_answers(self, encoded: Sequence[Any], limits: LimitsConfig) -> None:
        """Check how much is asked of the model."""


class FillMaskBudget(Budget):
    """Limits of masks, candidates and targets too."""

    def check_parameters(self, query: FillMaskQuery, limits: LimitsConfig) -> None:
        """Check number of candidates and targets."""
        if query.top_k > limits.max_top_k:
            raise ApiError(422, f"parameters.top_k: at most {limits.max_top_k}")
        targets = query.targets or ()
        if len(targets) > limits.max_targets:
            raise ApiError(422, f"parameters.targets: {len(targets)} targets; send at most {limits.max_targets}")
        chars = sum(map(len, targets))
        _check("characters in parameters.targets", chars, "max_target_chars", limits, "send fewer or shorter targets")

    def check_encoded(
        self, encoded: Sequence[EncodedFillMaskQuery], limits: LimitsConfig, *, response_bytes: int
    ) -> None:
        """Check the masks of each text, and what they ask for together."""
        for index, query in enumerate(encoded):
            masks = len(query.mask_positions)
            if masks > limits.max_masks:
                problem = f"{masks} masks; send at most {limits.max_masks}"
                raise text_error(InputTextError("too_many_masks", index, problem))
        super().check_encoded(encoded, limits, response_bytes=response_bytes)

    def check_answers(self, encoded: Sequence[EncodedFillMaskQuery], limits: LimitsConfig) -> None:
        """Check the number of candidates."""
        candidates = sum(query.candidates for query in encoded)
        _check("candidates", candidates, "max_candidates", limits, _FEWER_CANDIDATES)


def _check(unit: str, figure: int, limit: str, limits: LimitsConfig, fix: str) -> None:
    most: int = getattr(limits, limit)
    if figure > most:
        raise ApiError(422, f"{figure:,} {unit}, and {limit} is {most:,}; {fix}", error_type="TooExpensive")
