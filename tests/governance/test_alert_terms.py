"""The ``alerts`` of a site's file: every problem at once, and nothing that could tell a stranger or listen to one."""

from pathlib import Path

import pytest

from fedkit.governance.alert_terms import AlertTerms, alerts_of
from fedkit.governance.reading import Reader

WEBHOOK = {"url": "https://alerts.example/fedkit", "secret_file": "hook.secret"}


def read(value):
    found = Reader(Path("/site"))
    return alerts_of(found, value), found.problems


def test_without_alerts_there_are_bounds_and_no_channel():
    terms, problems = read(None)
    assert terms == AlertTerms() and terms.channels == {} and problems == []


def test_everything_that_can_be_said():
    terms, problems = read({
        "webhook": {**WEBHOOK, "ca_file": "ca.pem", "least": "critical"},
        "syslog": {"address": "tls://siem.example:6514", "ca_file": "ca.pem", "facility": "local3", "least": "info"},
        "prometheus": "[::1]:9464", "budget": [0.9, 0.5], "silent": 5, "certificate": 10, "failures": 7, "repeat": 1,
    })  # fmt: skip
    assert problems == []
    assert terms.webhook.secret_file == Path("/site/hook.secret") and terms.channels == {
        "webhook": "critical", "syslog": "info",
    }  # fmt: skip
    assert (terms.syslog.kind, terms.syslog.place, terms.syslog.port, terms.syslog.facility) == (
        "tls", "siem.example", 6514, 19,
    )  # fmt: skip
    assert terms.prometheus == ("::1", 9464) and terms.budget == (0.5, 0.9)
    assert (terms.silent, terms.certificate, terms.failures, terms.repeat) == (300.0, 864_000.0, 7, 3600.0)
    assert read({"syslog": {"address": "unix:///dev/log"}})[0].syslog.place == "/dev/log"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"webhook": {**WEBHOOK, "url": "http://alerts.example"}}, "an https:// address is needed"),
        ({"webhook": {**WEBHOOK, "url": "https://"}}, "an https:// address is needed"),
        ({"webhook": {**WEBHOOK, "url": "https://user:pass@alerts.example"}}, "holds a user or password"),
        ({"webhook": {"url": WEBHOOK["url"]}}, "needs either secret_file or secret_env"),
        ({"webhook": {**WEBHOOK, "secret_env": "X"}}, "needs either secret_file or secret_env"),
        ({"webhook": {"url": WEBHOOK["url"], "secret_env": "a b"}}, "name of an environment variable"),
        ({"webhook": {**WEBHOOK, "secret": "here"}}, "alerts.webhook.secret is unknown"),
        ({"syslog": {"address": "siem.example:514"}}, "write udp://"),
        ({"syslog": {"address": "udp://siem.example"}}, "write udp://"),
        ({"syslog": {"address": "unix://dev/log"}}, "write udp://"),
        ({"syslog": {"address": "tcp://h:1", "ca_file": "x"}}, "tcp has no certificate"),
        ({"syslog": {"address": "tcp://h:1", "facility": "locale"}}, "alerts.syslog.facility"),
        ({"syslog": {"address": "tcp://h:1", "least": "all"}}, "alerts.syslog.least"),
        ({"prometheus": "0.0.0.0:9464"}, "of this machine alone"),
        ({"prometheus": "127.0.0.1"}, "of this machine alone"),
        ({"prometheus": 9464}, "of this machine alone"),
        ({"budget": [50]}, "shares above 0 and up to 1"),
        ({"budget": []}, "shares above 0 and up to 1"),
        ({"silent": 0}, "alerts.silent is 0"),
        ({"failures": 1.5}, "a whole number is needed"),
        ({"email": "x"}, "alerts.email is unknown"),
        (["webhook"], "keys and values are needed"),
    ],
)
def test_what_cannot_be_is_refused_by_key_and_remedy(value, problem):
    _, problems = read(value)
    assert len(problems) == 1 and problem in problems[0], problems


def test_a_password_in_a_url_is_not_repeated():
    _, problems = read({"webhook": {**WEBHOOK, "url": "https://user:hunter2@alerts.example"}})
    assert "hunter2" not in " ".join(problems)
