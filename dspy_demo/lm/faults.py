"""What went wrong with a language model, in our terms.

Nothing of a provider's text reaches the user: it may repeat keys, addresses or the prompt.
"""

import math

import httpx
from dspy import lm15
from dspy.utils import exceptions as dspy_errors

from dspy_demo import errors
from dspy_demo.errors import DemoError, in_seconds
from dspy_demo.lm.native import TOO_LONG

#: What an engine meets in a reply that is not that of a language model.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, lm15.LM15Error)


def fault_from(error: BaseException, *, streamed: bool = False) -> DemoError | None:
    """The error of our tree for a failed model call, which may have `streamed` some text, or None."""
    for own in (error, error.__cause__):  # DSPy wraps what an engine of ours raises
        if isinstance(own, DemoError):
            return own
    if (fault := _classified(error, streamed)) is not None:
        fault.__cause__ = error
    return fault


def _classified(error: BaseException, streamed: bool) -> DemoError | None:
    match error:
        case dspy_errors.AdapterParseError():
            return _without_fields(error)
        case dspy_errors.LMAuthError():
            return errors.UpstreamAuth()
        case dspy_errors.LMBillingError():
            return errors.UpstreamAuth("The account of this API key has no credit left. Check its billing.")
        case dspy_errors.LMRateLimitError():
            return _rate_limited(error.retry_after)
        case dspy_errors.LMTimeoutError():
            return errors.UpstreamTimeout()
        case dspy_errors.LMProviderError() if TOO_LONG.search(str(error)):  # DSPy does not read all words
            return errors.UpstreamRejected("The chat has become too long for this model. Start a new chat.")
        case dspy_errors.LMUnsupportedModelError():
            text = "The server does not have this model. Check its name, or choose another."
            return errors.UpstreamRejected(text)
        case dspy_errors.LMInvalidRequestError():
            return errors.UpstreamRejected()
        case dspy_errors.LMNotConfiguredError():
            text = "This model needs an API key. Enter one under “Model”, or set its variable."
            return errors.ModelSetupError(text)
        case dspy_errors.LMUnsupportedFeatureError() | dspy_errors.LMConfigurationError():
            return errors.ModelSetupError()
        case dspy_errors.LMTransportError() | dspy_errors.LMServerError():
            return _broken(error, streamed)
        case dspy_errors.LMUnexpectedError() if not isinstance(error.__cause__, UNREADABLE):
            return None  # a bug of ours, of DSPy or of the program
        case dspy_errors.LMError() if streamed:
            return errors.UpstreamCut()
        case dspy_errors.LMError():
            return errors.UpstreamError(
                "The server's reply is not that of a language model. "
                "Check the base URL (it often ends in /v1), then retry."
            )
    return None


def _without_fields(error: dspy_errors.AdapterParseError) -> DemoError:
    text = str(error.lm_response or "").strip()
    if text in {"", "None", "{}"} or "'text': None" in text or "'text': ''" in text:
        return errors.EmptyReply()
    found = error.parsed_result if isinstance(error.parsed_result, dict) else {}
    missing = [name for name in error.signature.output_fields if name not in found]
    return errors.MalformedReply.without(missing) if missing else errors.MalformedReply()


def _rate_limited(retry_after_s: float | None) -> DemoError:
    if retry_after_s is None:
        return errors.UpstreamRateLimited()
    wait_s = math.ceil(retry_after_s)
    when = f"It asks to wait {in_seconds(wait_s)}." if wait_s <= 3600 else "Try again later."
    return errors.UpstreamRateLimited(
        f"The language model is receiving too many requests. {when}", retry_after_s=retry_after_s
    )


def _broken(error: dspy_errors.LMError, streamed: bool) -> DemoError:
    """Refused, cut, silent or down: only the causes and the words, which are not shown, tell which."""
    text = str(error).lower()
    if "exceeds limit" in text:  # a line of more than 64 KiB
        return errors.ReplyTooLong()
    if "timed out" in text or "timeout" in text:
        return errors.UpstreamTimeout()
    if streamed:
        return errors.UpstreamCut()
    if isinstance(error, dspy_errors.LMTransportError) or "connection error" in text or _unreached(error):
        return errors.UpstreamUnavailable()
    if error.status in {503, 529} or "overloaded" in text:
        text = "The language model's server is overloaded or down. Try again soon."
        return errors.UpstreamUnavailable(text)
    return errors.UpstreamError("The language model's server failed. Try again.")


def _unreached(error: BaseException | None) -> bool:
    """Whether it came from an HTTP client that reached nobody: litellm makes that a 500."""
    while error and not isinstance(error, httpx.TransportError):
        error = error.__cause__ or error.__context__
    return error is not None
