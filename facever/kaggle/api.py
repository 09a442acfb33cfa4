"""Kaggle's competitions over the network: what facever asks of them, and within what time.

`kagglesdk` knows the protocol and finds the key. Requests that change nothing are repeated; the one
that spends a submission is not.
"""

import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import facever
from facever.errors import ConfigError
from facever.kaggle import faults
from facever.kaggle.faults import WEB, Busy, KaggleError, attempt

if TYPE_CHECKING:
    from requests import Response, Session

# Of the list of submissions: 2,000 are more than a semester holds.
PAGE, PAGES = 100, 20

_SLUG = re.compile(
    r"(?:(?:https?://)?(?:www\.)?kaggle\.com/(?:c|competitions)/)?([a-z0-9][\w-]*)(?:[/?#].*)?",
    re.I | re.A,
)


@dataclass(frozen=True)
class Submission:
    """One submission as Kaggle lists it.

    Attributes:
        reference: Kaggle's number of it.
        time: when it arrived, UTC.
        status: `pending`, `complete` or `error`.
        score: on the public leaderboard, None where there is none.
        error: why it could not be scored.
    """

    reference: int
    time: datetime
    description: str
    status: str
    score: float | None
    error: str


def as_slug(name: str) -> str:
    """Name of a competition from its name or its address in a browser.

    Raises:
        ConfigError: neither.
    """
    found = _SLUG.fullmatch(name.strip())
    if found is None:
        raise ConfigError(
            f"competition {name!r}: no name at Kaggle; expected the last part of its address, "
            "kaggle.com/competitions/NAME"
        )
    return found[1]


class Kaggle:
    """A connection with an account.

    Raises:
        KaggleError: `kagglesdk` is not installed, or there is no key.
    """

    def __init__(self) -> None:
        try:
            from kagglesdk import KaggleClient
        except ImportError as error:
            python = shlex.quote(sys.executable)
            raise KaggleError(
                "kaggle: the package kagglesdk, which speaks to Kaggle, is not installed\n"
                f"  `{python} -m pip install kagglesdk`"
            ) from error
        # kagglesdk finds tokens and kaggle.json by itself, but not these two.
        self._client: Any = KaggleClient(
            username=os.environ.get("KAGGLE_USERNAME"),
            password=os.environ.get("KAGGLE_KEY"),
            user_agent=f"facever/{facever.__version__}",
        )
        self._client.__enter__()
        # It has no public way to limit the time of a request, nor to ask whether it found a key.
        session: Session = self._client.http_client()._session
        if session.auth is None:
            raise KaggleError(
                "kaggle: no key found\n"
                f"  make one under `API` at {WEB}/settings and give it as KAGGLE_API_TOKEN, as\n"
                "  KAGGLE_USERNAME and KAGGLE_KEY, or in ~/.kaggle/kaggle.json"
            )
        _limit_time(session)
        self._api: Any = self._client.competitions.competition_api_client

    def __enter__(self) -> Self:
        """Be used as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.__exit__(None, None, None)

    def daily_limit(self, slug: str) -> int | None:
        """Submissions a day that Kaggle allows; None where it does not say."""
        from kagglesdk.competitions.types.competition_api_service import ApiGetCompetitionRequest

        request = ApiGetCompetitionRequest()
        request.competition_name = slug
        answer = attempt(
            "looking the competition up", slug, lambda: _ask(self._api.get_competition, request)
        )
        return answer.max_daily_submissions or None

    def submissions(self, slug: str, pages: int = PAGES) -> list[Submission]:
        """Submissions of the account's team, the newest first."""
        from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

        request = ApiListSubmissionsRequest()
        request.competition_name = slug
        request.page_size = PAGE
        found: list[Submission] = []
        for _ in range(pages):
            answer = attempt(
                "listing submissions", slug, lambda: _ask(self._api.list_submissions, request)
            )
            found += [_submission(item) for item in answer.submissions]
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
        return found

    def store(self, slug: str, name: str, content: bytes) -> str:
        """Upload the bytes of a submission, which spends none; the token that names them."""
        return attempt("uploading", slug, lambda: self._store(slug, name, content))

    def _store(self, slug: str, name: str, content: bytes) -> str:
        import requests
        from kagglesdk.competitions.types.competition_api_service import (
            ApiStartSubmissionUploadRequest,
        )

        request = ApiStartSubmissionUploadRequest()
        request.competition_name = slug
        request.file_name = name
        request.content_length = len(content)
        request.last_modified_epoch_seconds = int(time.time())
        place = _ask(self._api.start_submission_upload, request)
        # Apart from the session, whose key is no business of the storage.
        requests.put(place.create_url, data=content, timeout=faults.TIMEOUT).raise_for_status()
        return str(place.token)

    def create(self, slug: str, token: str, description: str) -> int:
        """Make a submission of stored bytes; Kaggle's number of it, 0 where it gives none.

        Raises:
            Unavailable: it may have been made or not. It is not tried twice.
        """
        from kagglesdk.competitions.types.competition_api_service import ApiCreateSubmissionRequest

        request = ApiCreateSubmissionRequest()
        request.competition_name = slug
        request.blob_file_tokens = token
        request.submission_description = description
        answer = attempt(
            "submitting", slug, lambda: _ask(self._api.create_submission, request), Busy
        )
        return int(answer.ref)

    def open_archive(self, slug: str) -> "Response":
        """Begin to download a competition's data: one archive, not read yet.

        Raises:
            RequestException: as `attempt` understands it.
        """
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

        request = ApiDownloadDataFilesRequest()
        request.competition_name = slug
        answer: Response = _ask(self._api.download_data_files, request)
        return answer


def check_key() -> None:
    """Make sure that Kaggle could be asked: without the network.

    Raises:
        KaggleError: `kagglesdk` is not installed, or there is no key.
    """
    Kaggle().close()


def _ask(method: Callable[[Any], Any], request: object) -> Any:
    """Call kagglesdk, which meets an answer of another shape with whatever Python raises."""
    import requests

    try:
        return method(request)
    except requests.RequestException:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise requests.exceptions.InvalidJSONError(str(error)) from error


def _limit_time(session: "Session") -> None:
    from requests.adapters import HTTPAdapter

    class Limited(HTTPAdapter):
        def send(self, *args: Any, **options: Any) -> "Response":
            return super().send(*args, **{**options, "timeout": faults.TIMEOUT})

    for scheme in ("https://", "http://"):
        session.mount(scheme, Limited())


def _submission(item: Any) -> Submission:
    """Translate what kagglesdk read; its times are UTC without saying so."""
    try:
        score = float(item.public_score)
    except ValueError:
        score = None
    return Submission(
        int(item.ref),
        (item.date or datetime.min).replace(tzinfo=UTC),
        item.description,
        item.status.name.casefold(),
        score,
        item.error_description,
    )
