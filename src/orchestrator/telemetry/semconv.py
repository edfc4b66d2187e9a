"""Names of the OpenTelemetry GenAI semantic conventions (as of opentelemetry-semantic-conventions 0.66b2), and our own.

Written out because the conventions are still in development: the package that holds them promises no stable import.
"""
# ruff: noqa: S105  # a token type is no password

from __future__ import annotations

from types import MappingProxyType
from typing import Final

__all__ = [
    "DURATION_BUCKETS",
    "ERROR_TYPE",
    "GEN_AI_CLIENT_OPERATION_DURATION",
    "GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK",
    "GEN_AI_CLIENT_TOKEN_USAGE",
    "GEN_AI_INPUT_MESSAGES",
    "GEN_AI_OPERATION_NAME",
    "GEN_AI_OUTPUT_MESSAGES",
    "GEN_AI_OUTPUT_TYPE",
    "GEN_AI_PROVIDER_NAME",
    "GEN_AI_REQUEST_MAX_TOKENS",
    "GEN_AI_REQUEST_MODEL",
    "GEN_AI_REQUEST_SEED",
    "GEN_AI_REQUEST_STOP_SEQUENCES",
    "GEN_AI_REQUEST_STREAM",
    "GEN_AI_REQUEST_TEMPERATURE",
    "GEN_AI_REQUEST_TOP_P",
    "GEN_AI_RESPONSE_FINISH_REASONS",
    "GEN_AI_RESPONSE_ID",
    "GEN_AI_RESPONSE_MODEL",
    "GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK",
    "GEN_AI_TOKEN_TYPE",
    "GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS",
    "GEN_AI_USAGE_INPUT_TOKENS",
    "GEN_AI_USAGE_OUTPUT_TOKENS",
    "GEN_AI_USAGE_REASONING_OUTPUT_TOKENS",
    "HTTP_RESPONSE_STATUS_CODE",
    "OPERATION_CHAT",
    "ORCHESTRATOR_ATTEMPTS",
    "ORCHESTRATOR_ATTEMPT_COUNT",
    "ORCHESTRATOR_ATTEMPT_HEDGE",
    "ORCHESTRATOR_ATTEMPT_MODEL",
    "ORCHESTRATOR_ATTEMPT_NUMBER",
    "ORCHESTRATOR_ATTEMPT_TIME_TO_FIRST_TOKEN",
    "ORCHESTRATOR_BREAKER_STATE",
    "ORCHESTRATOR_DELAY",
    "ORCHESTRATOR_FAILOVERS",
    "ORCHESTRATOR_HEDGES",
    "ORCHESTRATOR_OUTCOME",
    "ORCHESTRATOR_PROVIDER_NAME",
    "ORCHESTRATOR_PROVIDER_PAUSED",
    "ORCHESTRATOR_RETRIES",
    "ORCHESTRATOR_STRATEGY",
    "OUTPUT_TYPE_JSON",
    "PROVIDER_NAMES",
    "SCHEMA_URL",
    "SCOPE",
    "TOKEN_BUCKETS",
    "TOKEN_TYPE_INPUT",
    "TOKEN_TYPE_OUTPUT",
]

SCOPE: Final = "orchestrator"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

ERROR_TYPE: Final = "error.type"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"

GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
GEN_AI_OUTPUT_TYPE: Final = "gen_ai.output.type"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"

OPERATION_CHAT: Final = "chat"
OUTPUT_TYPE_JSON: Final = "json"
TOKEN_TYPE_INPUT: Final = "input"
TOKEN_TYPE_OUTPUT: Final = "output"

GEN_AI_CLIENT_OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
GEN_AI_CLIENT_TOKEN_USAGE: Final = "gen_ai.client.token.usage"

# The boundaries the conventions recommend for the three metrics above: seconds, tokens.
DURATION_BUCKETS: Final = tuple(0.01 * 2**n for n in range(14))
TOKEN_BUCKETS: Final = tuple(float(4**n) for n in range(14))

ORCHESTRATOR_ATTEMPT_COUNT: Final = "orchestrator.attempt.count"
ORCHESTRATOR_ATTEMPT_MODEL: Final = "orchestrator.attempt.model"
ORCHESTRATOR_ATTEMPT_NUMBER: Final = "orchestrator.attempt.number"
ORCHESTRATOR_ATTEMPT_HEDGE: Final = "orchestrator.attempt.hedge"
ORCHESTRATOR_ATTEMPT_TIME_TO_FIRST_TOKEN: Final = "orchestrator.attempt.time_to_first_token"
ORCHESTRATOR_DELAY: Final = "orchestrator.delay"
ORCHESTRATOR_OUTCOME: Final = "orchestrator.outcome"
ORCHESTRATOR_PROVIDER_NAME: Final = "orchestrator.provider.name"
ORCHESTRATOR_STRATEGY: Final = "orchestrator.strategy"

ORCHESTRATOR_ATTEMPTS: Final = "orchestrator.attempts"
ORCHESTRATOR_BREAKER_STATE: Final = "orchestrator.breaker.state"  # of the metric, and of the attribute it is split by
ORCHESTRATOR_FAILOVERS: Final = "orchestrator.failovers"
ORCHESTRATOR_HEDGES: Final = "orchestrator.hedges"
ORCHESTRATOR_PROVIDER_PAUSED: Final = "orchestrator.provider.paused"
ORCHESTRATOR_RETRIES: Final = "orchestrator.retries"

# The conventions' word for a vendor, by the names people give to its provider; any other name is passed on as it is.
PROVIDER_NAMES: Final = MappingProxyType({
    "azure": "azure.ai.openai",
    "azure-openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
})
