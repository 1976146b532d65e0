"""The time: here, and in a city or an IANA time zone."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from dspy_demo.lm.rules.calendar_dates import spoken, weekday
from dspy_demo.lm.rules.reply import Reply

_ASKS = re.compile(
    r"\bwhat time is it\b|"
    r"\b(?:what(?:'s| is)|tell me) the (?:current |local |exact )*"
    r"(?:date and )?time(?: (?:now|in|at|here|right now)\b|[\s?.!]*$)|"
    r"\b(?:current|local) (?:date and )?time\b|^time (?:now|in)\b",
    re.I,
)
_PLACE = re.compile(
    r"\b(?:in|at|for|of)\s+(?P<place>[A-Za-z][A-Za-z_/.' +-]*?)(?:\s+(?:right now|"
    r"now|today|time|time ?zone|currently))*[\s?.!]*$",
    re.I,
)
_ZONE = re.compile(
    r"\b(?:(?:Africa|America|Antarctica|Asia|Atlantic|Australia|Europe|Indian|"
    r"Pacific|Etc)/[A-Za-z_/+\-0-9]+|UTC|GMT)\b",
    re.I,
)

_CITIES = {
    "Europe": (
        "Amsterdam Athens Belgrade Berlin Brussels Bucharest Budapest Copenhagen Dublin Helsinki Istanbul "
        "Kyiv Lisbon London Madrid Malta Moscow Oslo Paris Prague Riga Rome Sofia Stockholm Tallinn Vienna "
        "Vilnius Warsaw Zagreb Zurich"
    ),
    "America": (
        "Anchorage Bogota Caracas Chicago Denver Halifax Havana Jamaica Lima Los_Angeles "
        "Mexico_City Montevideo New_York Panama Phoenix Santiago Sao_Paulo Toronto Vancouver"
    ),
    "Asia": (
        "Baghdad Baku Bangkok Beirut Colombo Dhaka Dubai Hong_Kong Jakarta Jerusalem Kabul Karachi Kathmandu "
        "Kolkata Kuala_Lumpur Kuwait Manila Qatar Riyadh Seoul Shanghai Singapore Taipei Tashkent Tbilisi "
        "Tehran Tokyo Yerevan"
    ),
    "Africa": (
        "Accra Addis_Ababa Algiers Cairo Casablanca Dakar Harare Johannesburg Khartoum Lagos Nairobi Tunis"
    ),
    "Australia": "Adelaide Brisbane Darwin Hobart Melbourne Perth Sydney",
    "Pacific": "Auckland Fiji Honolulu",
    "Atlantic": "Azores Reykjavik",
}
_MORE_PLACES = {
    "beijing": "Asia/Shanghai",
    "china": "Asia/Shanghai",
    "delhi": "Asia/Kolkata",
    "new delhi": "Asia/Kolkata",
    "mumbai": "Asia/Kolkata",
    "bangalore": "Asia/Kolkata",
    "india": "Asia/Kolkata",
    "japan": "Asia/Tokyo",
    "san francisco": "America/Los_Angeles",
    "seattle": "America/Los_Angeles",
    "california": "America/Los_Angeles",
    "boston": "America/New_York",
    "washington": "America/New_York",
    "miami": "America/New_York",
    "nyc": "America/New_York",
    "munich": "Europe/Berlin",
    "hamburg": "Europe/Berlin",
    "frankfurt": "Europe/Berlin",
    "germany": "Europe/Berlin",
    "france": "Europe/Paris",
    "spain": "Europe/Madrid",
    "italy": "Europe/Rome",
    "uk": "Europe/London",
    "england": "Europe/London",
    "geneva": "Europe/Zurich",
    "switzerland": "Europe/Zurich",
    "barcelona": "Europe/Madrid",
    "milan": "Europe/Rome",
    "cape town": "Africa/Johannesburg",
    "hawaii": "Pacific/Honolulu",
    "wellington": "Pacific/Auckland",
    "canberra": "Australia/Sydney",
    "utc": "UTC",
    "gmt": "UTC",
}
_ZONES = {
    city.replace("_", " ").lower(): f"{area}/{city}"
    for area, cities in _CITIES.items()
    for city in cities.split()
} | _MORE_PLACES


def find_zone(text: str) -> str:
    """The IANA name of the time zone that `text` names, or nothing."""
    if named := _ZONE.search(text):
        return "UTC" if named[0].upper() in {"UTC", "GMT"} else named[0]
    lowered = re.sub(r"[^a-z ]", " ", text.lower())
    found = [place for place in _ZONES if re.search(rf"\b{place}\b", lowered)]
    return _ZONES[max(found, key=len)] if found else ""


def answer_time(question: str, *, now: datetime) -> Reply | None:
    """The answer to "what time is it?", or None where the question is about something else."""
    if not _ASKS.search(question):
        return None
    zone = find_zone(question)
    place = _PLACE.search(question)
    if (
        place
        and not zone
        and place["place"].lower() not in {"the moment", "moment", "day", "here", "my place"}
    ):
        return _unknown(place["place"])
    if not zone:
        return _tell(now, "here", "")
    try:
        local = now.astimezone(ZoneInfo(zone))
    except (KeyError, ValueError, OSError):
        return _unknown(zone)
    return _tell(local, f"in {zone}", zone)


def _tell(moment: datetime, where: str, zone: str) -> Reply:
    offset = _offset(moment)
    sentence = (
        f"It is {moment:%H:%M} {where} on {weekday(moment.date())}, {spoken(moment.date())} ({offset})."
    )
    steps = (f"The clock of this computer, read {where}, says {moment:%Y-%m-%d %H:%M} {offset}.",)
    return Reply(sentence, steps, "time", f"{moment:%H:%M}", zone, "What time is it in {}?")


def _offset(moment: datetime) -> str:
    delta = moment.utcoffset() or timedelta()
    minutes = round(delta.total_seconds() / 60)
    if not minutes:
        return "UTC"
    return f"UTC{'+' if minutes > 0 else '-'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def _unknown(place: str) -> Reply:
    sentence = f'I do not know the time zone of "{place}"; an IANA name such as Europe/Paris always works.'
    return Reply(sentence, (f'I looked for "{place}" in my list of time zones and did not find it.',), "time")
