"""The id of a turn over HTTP: taken from who asks, where they have one, and told with every answer.

The app asks its model server under the id of its own turn, so that both logs tell of one turn by one id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from dspy_demo.events import TURN_ID_HEADER, TurnRequest, is_turn_id


def under_given_id(turn: TurnRequest, headers: Mapping[str, str]) -> TurnRequest:
    """`turn` under the id that the request's headers give it; under its own where that is none."""
    given = headers.get(TURN_ID_HEADER, "")
    return dataclasses.replace(turn, turn_id=given) if is_turn_id(given) else turn


def turn_id_header(turn: TurnRequest) -> dict[str, str]:
    """For the reply, so that a client can name the turn that it asks about."""
    return {TURN_ID_HEADER: turn.turn_id}
