"""Every error that a user may meet, as one tree.

What went wrong inside goes to the log as ``__cause__``, under the `error_id` that the user sees too: the
turn's id, or a number of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence


class DemoError(Exception):
    """An error with a stable code, a sentence for the user and an HTTP status.

    The sentence says what happened and what to do. It never has the text of another exception, which could
    hold a key, an address or somebody's words. `limit` is the limit that was reached, for metrics.
    """

    code: str = "internal"
    http_status: int = 500
    retryable: bool = False
    limit: str = ""
    default_message: str = "Something went wrong inside the app. The log has the details."

    def __init__(
        self, public_message: str = "", *, retry_after_s: float | None = None, limit: str = ""
    ) -> None:
        self.public_message = public_message or self.default_message
        self.retry_after_s = retry_after_s
        self.limit = limit or self.limit
        self.error_id = secrets.token_hex(4)
        self.from_server = False  #: A model server met it, and has logged and traced it.
        self.server_error_id = ""  #: Its id in that server's log.
        self.logged = False  #: It has its line in our log.
        super().__init__(self.public_message)

    def __init_subclass__(cls, **attributes: str | int | bool) -> None:
        for name, value in attributes.items():
            setattr(cls, name, value)

    @staticmethod
    def of(error: Exception) -> DemoError:
        """One of ours as it is, anything else as a bug of ours."""
        if isinstance(error, DemoError):
            return error
        failure = DemoError()
        failure.__cause__ = error
        return failure


class InvalidInput(DemoError, code="invalid_input", http_status=422): ...


class InputTooLong(InvalidInput, code="input_too_long", http_status=413, limit="input_max_chars"): ...


class BodyTooLarge(InputTooLong, code="body_too_large"):
    default_message = "The request is too large. Shorten it, or start a new chat."


class NotFound(DemoError, code="not_found", http_status=404):
    default_message = "There is nothing at this address for this method; /docs shows the routes."


class VersionNotFound(NotFound, code="version_not_found"):
    default_message = "MLflow has no such version. Reload the list: it may have been deleted."


class Forbidden(DemoError, code="forbidden", http_status=403):
    default_message = "Only the owner of this app can do that."


class Unauthorized(DemoError, code="unauthorized", http_status=401): ...


class SettingsError(DemoError, code="settings", http_status=400): ...


class ProgramLoadError(DemoError, code="program_load", http_status=400): ...


class ModelSetupError(DemoError, code="model_setup", http_status=400):
    default_message = "The chosen language model cannot be used as it is configured."


class DownloadFailed(DemoError, code="download_failed", http_status=502, retryable=True): ...


class Busy(DemoError, code="busy", http_status=429, retryable=True, limit="max_turns"):
    default_message = "The app is at its limit of running turns. Try again in a moment."


class RateLimited(Busy, code="rate_limited", limit="total_per_minute"):
    default_message = "That was a lot of questions in a short time. Try again in a moment."


class BudgetSpent(Busy, code="budget_spent", retryable=False, limit="guests_daily_tokens"):
    default_message = "Today's budget for guests is used up. It starts anew at 00:00 UTC."


class LineFull(Busy, code="line_full", limit="queue_turns"):
    default_message = "Many people are asking at the moment, and the line is full. Try again in a moment."


class WaitedTooLong(Busy, code="waited_too_long", limit="queue_timeout_s"):
    default_message = "Many people are asking at the moment, and no place became free. Try again in a moment."


class AnswerTooLong(Busy, code="answer_too_long", retryable=False, limit="guest_output_max_tokens"):
    default_message = "The answer reached the limit of its length, so it was ended. What arrived is kept."


class TooManyOpen(Busy, code="too_many_open", http_status=503, limit="max_connections"):
    default_message = "Many people have this app open at the moment. Try again in a minute."


class TooManyAttempts(Busy, code="too_many_attempts"):
    default_message = "Too many wrong passwords. Wait a minute, then try again."


class TrackingError(DemoError, code="tracking", http_status=502, retryable=True):
    default_message = "MLflow could not do that. The log has the details."


class TrackingUnavailable(TrackingError, code="tracking_unavailable", http_status=503):
    default_message = "MLflow cannot be used. Check --tracking-uri, or the rights and disk of --data-dir."


class VersionNotLogged(TrackingError, code="version_not_logged", http_status=400, retryable=False): ...


class VersionNotServable(TrackingError, code="version_not_servable", http_status=409, retryable=False): ...


class Stopped(DemoError, code="stopped", http_status=503, retryable=True):
    default_message = "The turn was stopped before it was finished."


class ShareFailed(DemoError, code="share_failed", http_status=502, retryable=True): ...


class UpstreamError(DemoError, code="upstream", http_status=502, retryable=True): ...


class UpstreamAuth(UpstreamError, code="upstream_auth", retryable=False):
    default_message = "The language model refused the API key. Enter another one under Model."


class UpstreamRejected(UpstreamError, code="upstream_rejected", retryable=False):
    default_message = "The language model refused the request. Check the model's name and its limits."


class UpstreamRateLimited(UpstreamError, code="upstream_rate_limited", http_status=429):
    default_message = "The language model is receiving too many requests. Wait a moment and retry."


class UpstreamUnavailable(UpstreamError, code="upstream_unavailable", http_status=503):
    default_message = "The language model cannot be reached. Check that its server is running, then retry."


class UpstreamTimeout(UpstreamError, code="upstream_timeout", http_status=504):
    default_message = "The language model took too long. Retry, or raise the time limit."


class UpstreamCut(UpstreamError, code="upstream_cut"):
    default_message = "The reply stopped in the middle. What arrived is kept; retry for the whole answer."


class WrongServer(UpstreamError, code="wrong_server", retryable=False):
    default_message = "Something else answers at the model server's address now. Restart it."


class ReplyTooLong(UpstreamError, code="reply_too_long", retryable=False):
    default_message = "The reply is too long to be read. Ask for a shorter one."

    @classmethod
    def over(cls, chars: int) -> ReplyTooLong:
        return cls(f"The reply was longer than {chars:,} characters, so it was ended. What arrived is kept.")


class MalformedReply(UpstreamError, code="malformed_reply"):
    default_message = "The model ignored the output format. Retry, or choose a stronger model."

    @classmethod
    def without(cls, fields: Sequence[str]) -> MalformedReply:
        names = " and ".join(f"no `{field}`" for field in fields)
        return cls(f"The model ignored the output format: {names}. Retry, or choose a stronger model.")


class EmptyReply(UpstreamError, code="empty_reply"):
    default_message = "The language model sent an empty reply. Retry, or choose another model."


def in_seconds(value: float) -> str:
    """A time for a sentence: ``1 second``, ``1.5 seconds``."""
    return f"{value:g} second{'' if value == 1 else 's'}"
