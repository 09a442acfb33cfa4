"""Row C7: whatever Kaggle answers, from a real server and through the real kagglesdk."""

import io
import json
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import http_helpers
import numpy as np
import pytest
from http_helpers import cut_at, done_then, hanging, refusing, resetting, saying
from process_helpers import forked, killed_at_rename, outcome
from training_helpers import tiny_checkpoint

from facever.competition import PROFILES
from facever.data.lists import PairList
from facever.errors import CheckFailed, ConfigError, DataError, FaceverError, StorageError
from facever.kaggle import faults
from facever.kaggle import upload as uploading
from facever.kaggle.api import as_slug
from facever.kaggle.faults import KaggleError
from facever.kaggle.fetch import fetch, recorded_slug
from facever.kaggle.log import read_log, write_log
from facever.kaggle.upload import upload
from facever.submit import write_submission

KEY = "0123456789abcdef0123456789abcdef"
SLUG = "11785-hw-2-p-2-face-verification"
RETRIES = 2
# Where downloads break, and how much of that is on disk: whole pieces of 256 KiB.
CUT, WRITTEN = 600_000, 2 * 262_144


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A server in Kaggle's place, an account, and an empty folder to work in."""
    from kagglesdk import kaggle_env

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_USERNAME", "ann")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.delenv("KAGGLE_API_TOKEN", raising=False)
    monkeypatch.setattr(faults, "PAUSES", (0.01,) * RETRIES)
    monkeypatch.setattr(uploading, "POLL", 0.01)
    with http_helpers.kaggle_server() as server:
        endpoints = kaggle_env._env_to_endpoint
        monkeypatch.setitem(endpoints, kaggle_env.KaggleEnv.TEST, server.api.url)
        yield server


def submission(name="run", eer=0.03, seed=0, root=None, pairs=200):
    """A CSV with its side-car, as `submit` writes them."""
    rows = [(f"a{i}.jpg", f"b{i}.jpg") for i in range(pairs)]
    about = {
        "checkpoints": [{"path": f"checkpoints/{name}/best.pt", "sha256": "c" * 64}],
        "config": {"data": {"root": None if root is None else str(root)}},
        "validation": None if eer is None else {"eer": eer},
    }
    return write_submission(
        Path("submissions") / f"{name}.csv",
        np.random.default_rng(seed).uniform(-1, 1, pairs),
        PairList.build(Path("ver_data"), rows, np.full(pairs, -1)),
        PROFILES["S25"],
        side_car=about,
    )


def send(csv, **given):
    return upload(csv, **{"slug": SLUG, "wait": 0.02} | given)


@pytest.fixture
def impatient(request, monkeypatch):
    """Wait for an answer that does not come no longer than a test can."""
    if request.node.callspec.params["fault"] is hanging:
        monkeypatch.setattr(faults, "TIMEOUT", 0.3)


def archive(*names, size=400_000):
    """A zip of incompressible files."""
    noise = np.random.default_rng(0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names or ("cls_data/train/images/0.jpg", "val_pairs.txt"):
            file.writestr(name, noise.bytes(size))
    return buffer.getvalue()


# Uploads.


def test_an_upload_sends_the_bytes_once_waits_for_the_score_and_is_logged(kaggle):
    kaggle.scores = [{"status": "COMPLETE", "publicScore": "0.0312"}]
    csv = submission("train-1", eer=0.0277)
    answer = send(csv)
    assert (answer.status, answer.score, answer.reference) == ("complete", 0.0312, 1000)
    assert list(kaggle.stored.values()) == [csv.read_bytes()]
    [line] = Path("submissions/log.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["message"].startswith("train-1: validation EER 2.77% [sha256 ")
    assert entry["message"] == kaggle.submissions[0]["description"]
    expected = {"slug": SLUG, "csv": str(csv), "validation_eer": 0.0277, "reference": 1000,
                "status": "complete", "score": 0.0312}  # fmt: skip
    assert entry.items() >= expected.items()


def test_the_key_goes_to_the_api_alone_and_into_no_file_and_no_message(kaggle, capfd):
    kaggle.archive = archive()
    kaggle.faults = {"upload": [refusing(503)], "archive": [cut_at(CUT)],
                     "ListSubmissions": [resetting]}  # fmt: skip
    send(submission())
    fetch(SLUG)
    kaggle.faults = {name: [refusing(401)] for name in ("ListSubmissions", "DownloadDataFiles")}
    said = "".join(capfd.readouterr())
    for action in (lambda: send(submission(seed=1)), lambda: fetch(SLUG, Path("other"))):
        with pytest.raises(KaggleError) as caught:
            action()
        said += str(caught.value)
    for request in kaggle.requests:
        asked = request.name in ("upload", "archive")
        assert ("Authorization" in request.headers) is not asked
    files = [path.read_bytes() for path in Path().rglob("*") if path.is_file()]
    for secret in (KEY, http_helpers.SIGNATURE):
        assert secret not in said
        assert not any(secret.encode() in content for content in files)


REFUSALS = [
    (400, ("400, because",), 1),
    (401, ("401, because", "https://www.kaggle.com/settings", "KAGGLE_KEY"), 1),
    (403, ("403, because", f"https://www.kaggle.com/competitions/{SLUG}/rules"), 1),
    (404, ("404, because", "kaggle.com/competitions/NAME"), 1),
    (429, ("429, because", "too many requests"), 1 + RETRIES),
    (500, ("500, because", "later"), 1 + RETRIES),
]


@pytest.mark.parametrize(("status", "said", "times"), REFUSALS)
@pytest.mark.parametrize("name", ["ListSubmissions", "StartSubmissionUpload"])
def test_a_refusal_is_one_message_and_a_passing_one_is_tried_again(
    kaggle, name, status, said, times
):
    kaggle.faults[name] = [refusing(status)] * 9
    with pytest.raises(KaggleError) as caught:
        send(submission())
    assert all(part in str(caught.value) for part in (SLUG, *said))
    assert caught.value.exit_code == 2
    assert len(kaggle.named(name)) == times
    assert kaggle.submissions == []


@pytest.mark.parametrize("fault", [refusing(500), refusing(429), resetting, hanging])
@pytest.mark.parametrize(
    "name", ["ListSubmissions", "GetCompetition", "StartSubmissionUpload", "upload"]
)
def test_what_changes_nothing_is_repeated_after_any_fault(kaggle, impatient, name, fault):
    """An upload cut in the middle of its bytes among them: they spend no submission."""
    kaggle.faults[name] = [fault]
    kaggle.scores = [{"status": "COMPLETE", "publicScore": "0.03"}]
    csv = submission(pairs=4000)
    assert send(csv).score == 0.03
    assert list(kaggle.stored.values())[-1] == csv.read_bytes()
    assert len(kaggle.submissions) == 1


@pytest.mark.parametrize(
    "fault", [refusing(500), resetting, hanging, saying(200, b'{"ref"', "application/json")]
)
def test_a_submission_whose_answer_is_lost_is_found_not_made_again(kaggle, impatient, fault):
    kaggle.add_submission(description="another")
    kaggle.faults["CreateSubmission"] = [done_then(fault)]
    kaggle.scores = [{"status": "COMPLETE", "publicScore": "0.03"}]
    answer = send(submission())
    assert (answer.reference, answer.score) == (1001, 0.03)
    assert len(kaggle.named("CreateSubmission")) == 1


@pytest.mark.parametrize("fault", [refusing(500), resetting, hanging, refusing(400), refusing(403)])
def test_a_submission_that_failed_is_never_asked_for_twice(kaggle, impatient, fault):
    kaggle.faults["CreateSubmission"] = [fault]
    with pytest.raises(KaggleError, match="submitting"):
        send(submission())
    assert len(kaggle.named("CreateSubmission")) == 1
    assert not Path("submissions/log.jsonl").exists()


def test_a_submission_that_was_put_off_is_asked_for_again_when_kaggle_says_so(kaggle):
    """429 says that nothing was done."""
    kaggle.faults["CreateSubmission"] = [refusing(429, Retry_After="0")]
    assert send(submission()).reference == 1000
    assert len(kaggle.submissions) == 1


@pytest.mark.parametrize("later", ["3600", "in an hour"])
def test_a_pause_longer_than_a_minute_is_left_to_the_user(kaggle, later):
    if later != "3600":
        later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    kaggle.faults["ListSubmissions"] = [refusing(429, Retry_After=later)]
    with pytest.raises(KaggleError, match=r"in 3(600|59\d) s"):
        send(submission())
    assert len(kaggle.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [
        saying(200, b"<html>Log in to the campus network</html>", "text/html"),
        saying(200, b"{", "application/json"),
        saying(200, b'{"submissions": [{"status": "SIDEWAYS"}]}', "application/json"),
    ],
)
def test_an_answer_that_is_not_kaggle_s_is_told_as_such(kaggle, fault):
    kaggle.faults["ListSubmissions"] = [fault] * 9
    with pytest.raises(KaggleError, match="not that of Kaggle's API"):
        send(submission())


def test_an_untrusted_connection_is_told_as_such(kaggle, monkeypatch):
    """A server that speaks no TLS where TLS is due."""
    from kagglesdk import kaggle_env

    plain = kaggle.api.url.replace("http", "https")
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.TEST, plain)
    with pytest.raises(KaggleError, match="no trusted connection"):
        send(submission())


def test_kaggle_out_of_reach_is_told_with_the_system_s_reason(kaggle):
    kaggle.close()
    with pytest.raises(KaggleError, match="Connection refused"):
        send(submission())


# What would waste a submission.


def aged(days):
    return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@pytest.mark.parametrize(("profile", "kaggle_s"), [(2, 0), (None, 2), (2, 5), (5, 2)])
def test_today_s_submissions_used_up_stop_an_upload(kaggle, profile, kaggle_s):
    """Those of yesterday and those that could not be scored are not counted."""
    kaggle.daily_limit, kaggle.page_size = kaggle_s, 2
    kaggle.add_submission(status="COMPLETE", date=aged(1))
    kaggle.add_submission(status="ERROR")
    kaggle.add_submission(status="COMPLETE")
    send(submission(), daily_limit=profile)
    csv = submission(seed=1)
    with pytest.raises(CheckFailed, match="quota: 2 of 2") as caught:
        send(csv, daily_limit=profile, anyway=True)
    assert caught.value.exit_code == 3
    assert len(kaggle.submissions) == 4


def test_the_same_bytes_are_not_uploaded_twice_even_where_the_log_is_lost(kaggle):
    kaggle.scores = [{"status": "COMPLETE", "publicScore": "0.03"}]
    send(submission("one"))
    Path("submissions/log.jsonl").unlink()
    with pytest.raises(CheckFailed, match=r"same bytes: .* as 1000, score 0\.03"):
        send(submission("two"))
    assert send(submission("two"), anyway=True).reference == 1001


def test_bytes_that_could_not_be_scored_may_be_uploaded_again(kaggle):
    kaggle.scores = [{"status": "ERROR", "errorDescription": "Evaluation metric raised"}]
    with pytest.raises(KaggleError, match="Evaluation metric raised"):
        send(submission())
    assert [entry["status"] for entry in read_log()] == ["error"]
    assert send(submission()).reference == 1001


def test_a_file_worse_than_an_earlier_upload_is_refused_unless_anyway(kaggle):
    send(submission("good", eer=0.02))
    send(submission("elsewhere", eer=0.01, seed=1), slug="another-competition")
    worse = submission("worse", eer=0.025, seed=2)
    with pytest.raises(CheckFailed, match=r"worse: validation EER 2\.50%; .*good\.csv"):
        send(worse)
    assert send(worse, anyway=True).reference == 1002
    assert send(submission("better", eer=0.019, seed=3)).reference == 1003
    assert send(submission("unknown", eer=None, seed=4)).reference == 1004


# Scores that do not come.


def test_a_submission_that_is_never_scored_was_accepted_all_the_same(kaggle):
    answer = send(submission(), wait=0.05)
    assert (answer.status, answer.score) == ("pending", None)
    assert f"competitions/{SLUG}/submissions" in answer.to_text()
    assert [entry["status"] for entry in read_log()] == ["pending"]


def test_kaggle_failing_while_we_wait_takes_nothing_back(kaggle, capfd):
    kaggle.faults["CreateSubmission"] = [
        lambda handler: (
            kaggle.faults.update(ListSubmissions=[refusing(500)] * 9),
            handler.answer_json(200, handler.perform()),
        )
    ]
    assert send(submission()).status == "pending"
    assert "warning: kaggle: listing submissions" in capfd.readouterr().err
    assert [entry["reference"] for entry in read_log()] == [1000]


# Before the network.


def test_which_competition_is_said_or_recorded_by_fetch(kaggle):
    with pytest.raises(ConfigError, match="--slug") as caught:
        send(submission(root="data/hw2p2"), slug=None)
    assert "facever data fetch" in str(caught.value)
    kaggle.archive = archive("deeper/cls_data/train/images/0.jpg")
    fetch(SLUG, Path("data/hw2p2"))
    for root in ("data/hw2p2", "data/hw2p2/deeper"):
        assert recorded_slug(Path(root)) == SLUG
    assert send(submission(root="data/hw2p2"), slug=None).slug == SLUG


def test_a_file_that_its_side_car_does_not_describe_is_not_uploaded(kaggle):
    csv = submission()
    csv.write_text(csv.read_text().replace("0,", "0,0", 1))
    with pytest.raises(DataError, match=r"run\.json describes"):
        send(csv)
    assert kaggle.requests == []


@pytest.mark.parametrize("missing", ["key", "library"])
def test_without_a_key_or_the_library_it_is_said_before_the_work(
    kaggle, facever, monkeypatch, missing
):
    if missing == "key":
        monkeypatch.delenv("KAGGLE_KEY")
    else:
        monkeypatch.setitem(sys.modules, "kagglesdk", None)
    for command in (("submit", "--upload"), ("data", "fetch", SLUG)):
        answer = facever(*command)
        assert answer.code == 2
        said = "KAGGLE_API_TOKEN" if missing == "key" else "-m pip install kagglesdk"
        assert said in answer.err
    assert kaggle.requests == []


@pytest.mark.parametrize("way", ["token", "file"])
def test_keys_are_found_where_kaggle_s_own_tool_looks(kaggle, monkeypatch, tmp_path, way):
    monkeypatch.delenv("KAGGLE_USERNAME")
    if way == "token":
        monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    else:
        (tmp_path / "home/.kaggle").mkdir(parents=True)
        (tmp_path / "home/.kaggle/kaggle.json").write_text(
            json.dumps({"username": "ann", "key": KEY})
        )
    send(submission())
    kind = "Bearer" if way == "token" else "Basic"
    assert kaggle.requests[0].headers["Authorization"].startswith(kind)


@pytest.mark.parametrize(
    "name", [SLUG, f"https://www.kaggle.com/competitions/{SLUG}/overview", f"kaggle.com/c/{SLUG}"]
)
def test_a_competition_is_named_by_its_name_or_its_address(name):
    assert as_slug(name) == SLUG


@pytest.mark.parametrize("name", ["", "../x", "a b", "https://example.com/c/x", "-o"])
def test_what_is_no_competition_s_name_never_becomes_a_folder(name):
    with pytest.raises(ConfigError, match=r"kaggle\.com/competitions/NAME"):
        as_slug(name)


# The log.


def entry(number):
    return {"time": str(number), "csv": "x", "sha256": "", "slug": SLUG, "validation_eer": None,
            "status": "pending"}  # fmt: skip


def test_a_log_written_by_several_processes_loses_no_line(tmp_path):
    path = tmp_path / "log.jsonl"
    processes = [forked(lambda i=i: write_log(entry(i), path)) for i in range(8)]
    assert [outcome(process) for process in processes] == [0] * 8
    assert {line["time"] for line in read_log(path)} == set("01234567")


def test_a_log_is_whole_whenever_its_process_is_killed_and_survives_strange_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(entry(0)) + '\n{"half a li\n[]\n{"time": "now"}\n')
    assert killed_at_rename(0, lambda: write_log(entry(1), path))
    assert read_log(path) == [entry(0)]
    write_log(entry(1), path)
    write_log(entry(1) | {"status": "complete"}, path)
    assert [line["status"] for line in read_log(path)] == ["pending", "complete"]


# Downloads.


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_a_competition_s_data_are_fetched_unpacked_and_recorded(kaggle, facever, tmp_path):
    kaggle.archive = archive()
    answer = facever("data", "fetch", SLUG)
    assert answer.code == 0, answer.err
    assert f"next: facever data inspect data/{SLUG}" in answer.out
    folder = tmp_path / "data" / SLUG
    assert (folder / "val_pairs.txt").stat().st_size == 400_000
    assert [path.name for path in folder.parent.iterdir()] == [SLUG]
    count = len(kaggle.requests)
    again = facever("data", "fetch", SLUG, "--json", "-")
    assert json.loads(again.out) == {"slug": SLUG, "folder": f"data/{SLUG}", "files": 2}
    assert len(kaggle.requests) == count
    assert facever("data", "fetch", "another", "-o", folder).code == 2


@pytest.mark.parametrize("fault", [cut_at(CUT), resetting, hanging, refusing(503)])
def test_a_download_goes_on_after_a_fault(kaggle, impatient, fault):
    kaggle.archive = archive()
    # Each try asks for the whole, and then, that left unread, for what is missing.
    kaggle.faults["archive"] = [cut_at(CUT), None, fault]
    fetched = fetch(SLUG)
    assert fetched.files == 2
    wanted = [request.headers.get("Range", "") for request in kaggle.named("archive")]
    assert wanted == ["", *["", f"bytes={WRITTEN}-"] * 2]


def interrupted(kaggle, monkeypatch):
    """Let a first call end with a part on disk."""
    kaggle.archive = archive()
    kaggle.faults["archive"] = [cut_at(CUT)]
    monkeypatch.setattr(faults, "PAUSES", ())
    with pytest.raises(KaggleError):
        fetch(SLUG)
    [part] = Path("data").iterdir()
    assert part.stat().st_size == WRITTEN


def test_a_second_call_goes_on_where_the_first_was_stopped(kaggle, monkeypatch):
    interrupted(kaggle, monkeypatch)
    assert fetch(SLUG).files == 2
    assert kaggle.named("archive")[-1].headers["Range"] == f"bytes={WRITTEN}-"


def test_a_storage_that_gives_no_parts_is_read_from_the_start(kaggle, monkeypatch):
    interrupted(kaggle, monkeypatch)
    kaggle.ranges = False
    assert fetch(SLUG).files == 2


def test_parts_of_two_versions_of_an_archive_are_never_joined(kaggle, monkeypatch):
    interrupted(kaggle, monkeypatch)
    kaggle.archive = archive("a.txt", "b.txt", "c.txt")
    assert fetch(SLUG).files == 3
    assert [path.name for path in Path("data").iterdir()] == [SLUG]


def test_an_archive_that_does_not_fit_is_refused_before_it_is_downloaded(kaggle):
    kaggle.faults["archive"] = [lambda handler: handler.send_archive(0, stated=10**15)]
    with pytest.raises(StorageError, match="are free; the archive and its files need"):
        fetch(SLUG)


@pytest.mark.parametrize("kind", ["hostile", "damaged"])
def test_an_archive_that_cannot_be_trusted_leaves_nothing_behind(kaggle, tmp_path, kind):
    whole = archive("../../outside.txt") if kind == "hostile" else archive()
    kaggle.archive = whole if kind == "hostile" else whole[:-500]
    with pytest.raises(DataError):
        fetch(SLUG)
    assert files_below(tmp_path) == []
    assert not (tmp_path.parent / "outside.txt").exists()


def test_a_page_in_place_of_an_archive_is_told_as_such(kaggle):
    kaggle.faults["archive"] = [saying(200, b"<html>log in</html>", "text/html")]
    with pytest.raises(KaggleError, match="no archive"):
        fetch(SLUG)


@pytest.mark.parametrize(("status", "said", "times"), REFUSALS)
def test_a_download_that_is_refused_is_one_message(kaggle, status, said, times):
    kaggle.faults["DownloadDataFiles"] = [refusing(status)] * 9
    with pytest.raises(FaceverError) as caught:
        fetch(SLUG)
    assert all(part in str(caught.value) for part in (SLUG, *said))
    assert len(kaggle.requests) == times


def test_an_expired_signed_address_has_nothing_to_do_with_rules(kaggle):
    kaggle.archive = archive()
    kaggle.faults["archive"] = [saying(403, b"<Error>expired</Error>", "application/xml")]
    with pytest.raises(KaggleError, match="run the same command again") as caught:
        fetch(SLUG)
    assert "rules" not in str(caught.value)


def test_two_downloads_into_one_folder_do_not_mix(kaggle, monkeypatch):
    from facever.data.pack import lock_file

    interrupted(kaggle, monkeypatch)
    with next(Path("data").iterdir()).open("ab") as held:
        lock_file(held, exclusive=True, wait=False)
        with pytest.raises(StorageError, match="another process"):
            fetch(SLUG)


# From images to the leaderboard.


def test_submit_uploads_what_it_wrote(kaggle, facever, faces):
    kaggle.scores = [{"status": "COMPLETE", "publicScore": "0.0312"}]
    figures = {"EER": 12.5, "EER_low": 10.0, "EER_high": 15.0, "epoch": 1}
    best = tiny_checkpoint(Path("checkpoints/r/best.pt"), epoch=1, metrics=figures)
    submit = ("submit", best, f"data.root={faces}", "--slug", SLUG)
    unsent = facever(*submit)
    assert unsent.code == 2
    assert "--upload" in unsent.err
    answer = facever(*submit, "--upload", "--message", "hello", "--json", "-")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["kaggle"] == {
        "slug": SLUG, "reference": 1000, "status": "complete", "score": 0.0312,
    }  # fmt: skip
    assert kaggle.stored["token-1"] == Path(told["csv"]).read_bytes()
    assert kaggle.submissions[0]["description"].startswith("hello [sha256 ")
    assert [entry["validation_eer"] for entry in read_log()] == [0.125]
    again = facever(*submit, "--upload")
    assert again.code == 3
    assert "same bytes" in again.err
