"""Cost budget of a request: each limit is checked before the work that it bounds."""

from collections.abc import Sequence

from distilray.config.serving import LimitsConfig
from distilray.inference.encoding import EncodedQuery, Query
from distilray.inference.text_errors import InputTextError
from serve.errors import ApiError, text_error

_FEWER_TEXTS = "send fewer or shorter texts in a request"
_FEWER_CANDIDATES = "lower top_k, or send fewer texts or masks in a request"


def check_queries(queries: Sequence[Query], limits: LimitsConfig) -> None:
    """Check what must be bounded before tokenization: texts, targets and their characters.

    Raises:
        ApiError: 422 that names the limit, the request's own figure and the fix.
    """
    if not queries:
        raise ApiError(422, "no text; send at least one", error_type="Empty")
    if len(queries) > limits.max_items:
        raise ApiError(422, f"{len(queries)} texts; send at most {limits.max_items} in a request")
    if queries[0].top_k > limits.max_top_k:
        raise ApiError(422, f"parameters.top_k: at most {limits.max_top_k}")
    targets = queries[0].targets or ()
    if len(targets) > limits.max_targets:
        raise ApiError(422, f"parameters.targets: {len(targets)} targets; send at most {limits.max_targets}")
    target_chars = sum(map(len, targets))
    _check(
        "characters in parameters.targets", target_chars, "max_target_chars", limits, "send fewer or shorter targets"
    )
    for index, query in enumerate(queries):
        if len(query.text) > limits.max_chars:
            problem = f"{len(query.text):,} characters; send at most {limits.max_chars:,}"
            raise text_error(InputTextError("too_long", index, problem))
    chars = sum(len(query.text) for query in queries)
    _check("characters in all texts", chars, "max_request_chars", limits, _FEWER_TEXTS)


def check_encoded(encoded: Sequence[EncodedQuery], limits: LimitsConfig, *, response_bytes: int) -> None:
    """Check what must be bounded before the model runs: masks, tokens, candidates and the size of the response.

    Args:
        encoded: all queries of a request.
        limits: of the service.
        response_bytes: estimated size of the response.

    Raises:
        ApiError: as `check_queries`.
    """
    for index, query in enumerate(encoded):
        masks = len(query.mask_positions)
        if masks > limits.max_masks:
            problem = f"{masks} masks; send at most {limits.max_masks}"
            raise text_error(InputTextError("too_many_masks", index, problem))
    tokens = sum(len(query.input_ids) for query in encoded)
    _check("tokens in all texts", tokens, "max_request_tokens", limits, _FEWER_TEXTS)
    candidates = sum(query.candidates for query in encoded)
    _check("candidates", candidates, "max_candidates", limits, _FEWER_CANDIDATES)
    _check("bytes of response", response_bytes, "max_response_bytes", limits, _FEWER_CANDIDATES)


def _check(unit: str, figure: int, limit: str, limits: LimitsConfig, fix: str) -> None:
    most: int = getattr(limits, limit)
    if figure > most:
        raise ApiError(422, f"{figure:,} {unit}, and {limit} is {most:,}; {fix}", error_type="TooExpensive")
