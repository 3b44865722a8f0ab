"""A dashboard's login is whole or refused, and what it refuses never holds the secret."""

import json
import logging

import pytest

from diffviews.errors import ConfigError
from diffviews.pipelines.viz import check_access

SECRET = "planted-secret"
OAUTH = {
    "PANEL_OAUTH_PROVIDER": "github", "PANEL_OAUTH_KEY": "id", "PANEL_OAUTH_SECRET": SECRET,
    "PANEL_OAUTH_ENCRYPTION": SECRET, "PANEL_COOKIE_SECRET": SECRET,
}  # fmt: skip


@pytest.fixture
def passwords(tmp_path):
    path = tmp_path / "passwords.json"
    path.write_text(json.dumps({"ada": SECRET}))
    return {"PANEL_BASIC_AUTH": str(path), "PANEL_COOKIE_SECRET": SECRET}


def refusal(environment, address="0.0.0.0"):
    with pytest.raises(ConfigError) as refused:
        check_access(address, environment)
    assert SECRET not in str(refused.value)
    return str(refused.value)


def test_whole_logins_are_taken(passwords, caplog):
    check_access("0.0.0.0", passwords)
    check_access("0.0.0.0", passwords | {"PANEL_COOKIE_SECRET": "", "BOKEH_COOKIE_SECRET": SECRET})
    check_access("0.0.0.0", OAUTH)
    assert caplog.text == ""


def test_path_without_a_file_is_refused_for_panel_takes_it_for_the_password(passwords):
    assert "names no file" in refusal(passwords | {"PANEL_BASIC_AUTH": f"/nowhere/{SECRET}"})


BROKEN = ('{"ada": "planted-secret"', "[]", "{}", '{"ada": ""}', '{"": "x"}', '{"ada": 5}', '"x"')


@pytest.mark.parametrize("content", BROKEN)
def test_password_file_of_another_form_is_refused(passwords, tmp_path, content):
    (tmp_path / "passwords.json").write_text(content)
    assert "passwords.json" in refusal(passwords)


def test_login_without_a_cookie_secret_is_refused(passwords):
    del passwords["PANEL_COOKIE_SECRET"]
    assert "needs PANEL_COOKIE_SECRET" in refusal(passwords, "127.0.0.1")


@pytest.mark.parametrize("name", ["PANEL_OAUTH_KEY", "PANEL_OAUTH_SECRET", "PANEL_OAUTH_ENCRYPTION"])
def test_half_an_oauth_login_names_what_is_missing(name):
    assert f"needs {name} as well" in refusal({key: value for key, value in OAUTH.items() if key != name})


def test_two_logins_at_once_are_refused(passwords):
    assert "both set" in refusal(passwords | OAUTH)


def test_no_login_is_warned_of_where_others_can_come(caplog):
    with caplog.at_level(logging.WARNING):
        for address in ("127.0.0.1", "localhost", "::1"):
            check_access(address, {})
        assert caplog.text == ""
        check_access("0.0.0.0", {})
    assert "whoever reaches 0.0.0.0 can generate" in caplog.text
