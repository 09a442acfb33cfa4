"""What can go wrong on the way to Kaggle: one message for each, and another try where it helps.

No key and no signed address, which opens a file to those without a key, comes into a message.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from facever.errors import FaceverError
from facever.tracking import note

if TYPE_CHECKING:
    from requests import HTTPError, RequestException, Response

T = TypeVar("T")

WEB = "https://www.kaggle.com"
# Seconds to connect, and between two pieces of an answer.
TIMEOUT = 60.0
# Seconds before each repetition.
PAUSES = (1.0, 4.0, 16.0)
# Seconds; a Retry-After beyond it is for the user to wait.
LONGEST_PAUSE = 60.0

_SERVICE = "competitions.CompetitionApiService"
_ADVICE = {
    401: "Kaggle does not know the key, or it has expired; make another under `API` at\n"
    f"  {WEB}/settings and give it as KAGGLE_API_TOKEN, as KAGGLE_USERNAME and KAGGLE_KEY, or in\n"
    "  ~/.kaggle/kaggle.json",
    403: "the account has to join the competition and accept its rules first, at\n"
    f"  {WEB}/competitions/{{slug}}/rules",
    404: "expected the last part of the competition's address, kaggle.com/competitions/NAME; a\n"
    "  private one is only there for accounts that opened its invitation link",
}


class KaggleError(FaceverError):
    """Kaggle, or the way to it, refused."""


class Unavailable(KaggleError):
    """No usable answer: it may work later, and what was asked for may have been done.

    Attributes:
        pause: seconds to wait that Kaggle asked for, or None.
    """

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


class Busy(Unavailable):
    """Kaggle put the request off (429), and did nothing."""


def attempt(
    doing: str, slug: str, action: Callable[[], T], repeat: type[Unavailable] = Unavailable
) -> T:
    """Do `action`, again after each of `PAUSES` while it fails with `repeat`.

    Raises:
        KaggleError: it was refused, or still fails.
    """
    for pause in PAUSES:
        try:
            return _once(doing, slug, action)
        except repeat as error:
            wait = pause if error.pause is None else error.pause
            if wait > LONGEST_PAUSE:
                raise
            note(f"{str(error).splitlines()[0]}; again in {wait:g} s")
            time.sleep(wait)
    return _once(doing, slug, action)


def _once(doing: str, slug: str, action: Callable[[], T]) -> T:
    import requests

    try:
        return action()
    except requests.HTTPError as error:
        raise _refusal(f"kaggle: {doing}, {slug}", slug, error) from error
    except requests.exceptions.InvalidJSONError as error:
        raise Unavailable(
            f"kaggle: {doing}, {slug}: the answer is not that of Kaggle's API\n"
            "  a proxy or a log-in page may answer in its place; else a newer kagglesdk may help"
        ) from error
    except requests.exceptions.SSLError as error:
        raise Unavailable(
            f"kaggle: {doing}, {slug}: no trusted connection: {_cause(error)}\n"
            "  where a proxy stands in between, REQUESTS_CA_BUNDLE names the file with its "
            "certificate"
        ) from error
    except requests.RequestException as error:
        raise Unavailable(
            f"kaggle: {doing}, {slug}: {_cause(error)}\n"
            "  is there a way to kaggle.com from here? then run the same command later"
        ) from error


def _refusal(where: str, slug: str, error: "HTTPError") -> KaggleError:
    """Tell what an answer of 400 or above means and what to do."""
    response = error.response
    assert response is not None
    status, said = _said(response)
    message = f"{where}: Kaggle answers {status}, {said}"
    if status == 429:
        pause = _retry_after(response)
        again = "later" if pause is None else f"in {pause:.0f} s"
        return Busy(f"{message}\n  too many requests; run the same command {again}", pause)
    if status >= 500:
        return Unavailable(f"{message}\n  run the same command later", _retry_after(response))
    # The storage behind a signed address knows neither key nor rules.
    advice = _ADVICE.get(status) if _SERVICE in response.url else None
    return KaggleError(f"{message}\n  {(advice or 'run the same command again').format(slug=slug)}")


def _said(response: "Response") -> tuple[int, str]:
    """Status and reason of a refusal: Kaggle's own words where it gives them as JSON."""
    status, said = response.status_code, response.reason
    if "application/json" in response.headers.get("Content-Type", ""):
        try:
            answer = response.json()
            status, said = int(answer["code"]), str(answer["message"])
        except (ValueError, LookupError, TypeError):
            pass
    printable = "".join(character if character.isprintable() else " " for character in said)
    return status, printable.strip()[:300] or "without a reason"


def _retry_after(response: "Response") -> float | None:
    """Seconds that an answer asks to wait, given as such or as a date."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _cause(error: "RequestException") -> str:
    """Why a connection failed, in the system's own words: those of requests hold the address."""
    said = "the connection broke"
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, TimeoutError):
            return f"no answer within {TIMEOUT:g} s"
        if isinstance(link, OSError) and link.strerror:
            said = link.strerror
        link = link.__cause__ or link.__context__
    return said
