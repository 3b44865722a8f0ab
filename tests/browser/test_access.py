"""Who may enter: a served dashboard behind Panel's basic auth and behind OAuth, over plain HTTP and in Chromium."""

import asyncio
import contextlib
import http.cookiejar
import http.server
import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from explorer import PATIENCE, Explorer
from playwright.sync_api import expect
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from tests.dashboard_server import served

PASSWORD = "planted-dashboard-password"
COOKIE_SECRET = "planted-cookie-secret"
CLIENT_SECRET = "planted-client-secret"


class Visitor:
    """Someone with plain HTTP and cookies, told where the redirects lead and free not to follow."""

    def __init__(self, url):
        self.url, self.root = url, url.removesuffix("/app")
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def ask(self, address, **form):
        """Return (address where the redirects ended, status, text)."""
        data = urllib.parse.urlencode(form).encode() if form else None
        with contextlib.closing(self._ask(address, data)) as answer:
            return answer.geturl(), answer.status, answer.read().decode(errors="replace")

    def _ask(self, address, data):
        try:
            return self._opener.open(address, data, timeout=60)
        except urllib.error.HTTPError as refusal:
            return refusal

    def login(self, name, password):
        self.ask(self.url)
        return self.ask(f"{self.root}/login", username=name, password=password)

    def websocket(self, token, origin=None):
        """Open the dashboard's websocket; return the status of the refusal, or 101."""
        headers = {
            "Origin": origin or self.root,
            "Cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies),
            "Sec-WebSocket-Protocol": f"bokeh, {token}",
        }
        request = HTTPRequest(self.url.replace("http", "ws", 1) + "/ws", headers=headers)

        async def connect():
            try:
                connection = await websocket_connect(request, subprotocols=["bokeh", token])
            except HTTPClientError as refusal:
                return refusal.code
            connection.close()
            return 101

        with ThreadPoolExecutor(1) as aside:  # Playwright keeps an event loop in the test's own thread
            return aside.submit(asyncio.run, connect()).result(60)


def token_in(page):
    """Return the session token of a page that was served, '' where there is none."""
    found = re.search(r'"token": ?"([^"]+)"', page)
    return found[1] if found else ""


@pytest.fixture(scope="module")
def guarded(store, workspace, tmp_path_factory):
    """Address of a dashboard behind a login; its log must hold no secret and no complaint."""
    passwords = tmp_path_factory.mktemp("access") / "passwords.json"
    passwords.write_text(json.dumps({"ada": PASSWORD}))
    with served(store, PANEL_BASIC_AUTH=str(passwords), PANEL_COOKIE_SECRET=COOKIE_SECRET) as (_, address):
        yield address


@pytest.fixture(scope="module")
def members_page(guarded):
    """What a member's browser gets: the page with its token."""
    visitor = Visitor(guarded)
    visitor.login("ada", PASSWORD)
    return visitor.ask(guarded)


PLACES = ("/app", "/app/autoload.js?bokeh-autoload-element=x", "/app/metadata", "/", "/app?run=x&sample=digits-0")


@pytest.mark.parametrize("place", PLACES)
def test_without_login_every_place_leads_to_the_login_page(guarded, place):
    visitor = Visitor(guarded)
    where, _, text = visitor.ask(visitor.root + place)
    assert urllib.parse.urlsplit(where).path.endswith("/login"), where
    assert 'type="password"' in text
    assert not token_in(text)
    assert "data:image" not in text


def test_without_login_there_is_no_session_not_even_with_a_members_token(guarded, members_page):
    token = token_in(members_page[2])
    assert token
    member = Visitor(guarded)
    member.login("ada", PASSWORD)
    assert member.websocket(token) == 101
    assert Visitor(guarded).websocket(token) == 403
    assert member.websocket(token, origin="https://elsewhere.example") == 403


@pytest.mark.parametrize("name_and_password", [("ada", "wrong"), ("eve", PASSWORD), ("ada", ""), ("", PASSWORD)])
def test_wrong_name_or_password_is_refused(guarded, name_and_password):
    visitor = Visitor(guarded)
    where, _, text = visitor.login(*name_and_password)
    assert "Invalid username or password" in urllib.parse.unquote_plus(where) + text
    assert "user" not in {cookie.name for cookie in visitor.cookies}
    assert urllib.parse.urlsplit(visitor.ask(guarded)[0]).path.endswith("/login")


def test_forged_cookie_is_refused(guarded):
    visitor = Visitor(guarded)
    member = Visitor(guarded)
    member.login("ada", PASSWORD)
    for cookie in member.cookies:
        if cookie.name == "user":
            cookie.value = cookie.value[:-2] + ("00" if cookie.value[-2] != "0" else "11")
            visitor.cookies.set_cookie(cookie)
    assert [cookie.name for cookie in visitor.cookies] == ["user"]
    assert urllib.parse.urlsplit(visitor.ask(guarded)[0]).path.endswith("/login")


def test_member_logs_in_sees_the_map_and_generates_and_after_logout_sees_nothing(guarded, chromium, layer_map, lonely):
    with contextlib.closing(chromium.new_context(viewport={"width": 1440, "height": 900})) as context:
        page, outside = context.new_page(), []
        page.on("request", lambda r: outside.append(r.url))
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"{guarded}?sample={lonely[0]}")
        page.locator("input[name=username]").fill("ada")
        page.locator("input[name=password]").fill(PASSWORD)
        page.locator("input[name=password]").press("Enter")
        expect(page.get_by_text(re.compile(r"[\d,]+ of [\d,]+ shown"))).to_be_visible()
        explorer = Explorer(page, guarded, layer_map)
        explorer.tab("Generate")
        explorer.button("Generate").click()
        expect(page.get_by_role("img", name="Generated").first).to_be_visible()
        page.goto(guarded.removesuffix("/app") + "/logout")
        expect(page.get_by_text("You have logged out.")).to_be_visible()
        page.get_by_role("link", name="Log in again").click()
        expect(page.locator("input[name=password]")).to_be_visible()
        page.goto(guarded)
        expect(page.locator("input[name=password]")).to_be_visible()
        assert not [url for url in outside if not re.match(r"data:|blob:|http://127\.0\.0\.1:", url)]


class Provider(http.server.BaseHTTPRequestHandler):
    """An OAuth provider that knows one person and lets in whoever says they are that."""

    codes = ("one-time-code",)

    def do_GET(self):
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        if parts.path == "/authorize":
            self.server.asked.append(query)
            back = urllib.parse.urlencode({"code": self.codes[0], "state": query["state"]})
            self.send_response(302)
            self.send_header("Location", f"{query['redirect_uri']}?{back}")
            self.end_headers()
        elif parts.path == "/user" and self.headers["Authorization"] == "Bearer an-access-token":
            self.answer({"email": "ada@example.org"})
        else:
            self.send_error(401)

    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        if form.get("code") in self.codes and form.get("client_secret") == CLIENT_SECRET:
            self.answer({"access_token": "an-access-token", "token_type": "bearer", "expires_in": 3600})
        else:
            self.send_error(401)

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def provider():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def behind_oauth(store, workspace, provider):
    from cryptography.fernet import Fernet

    at = f"http://127.0.0.1:{provider.server_port}"
    with served(
        store, PANEL_OAUTH_PROVIDER="generic", PANEL_OAUTH_KEY="diffviews", PANEL_OAUTH_SECRET=CLIENT_SECRET,
        PANEL_OAUTH_ENCRYPTION=Fernet.generate_key().decode(), PANEL_COOKIE_SECRET=COOKIE_SECRET,
        PANEL_OAUTH_AUTHORIZE_URL=f"{at}/authorize", PANEL_OAUTH_TOKEN_URL=f"{at}/token",
        PANEL_OAUTH_USER_URL=f"{at}/user",
    ) as (_, address):  # fmt: skip
        yield address


@pytest.mark.slow
def test_oauth_sends_a_visitor_to_the_provider_and_lets_in_whom_it_names(behind_oauth, provider):
    visitor = Visitor(behind_oauth)
    assert visitor.websocket("x") == 403
    where, status, page = visitor.ask(behind_oauth)
    assert provider.asked[0]["client_id"] == "diffviews"
    assert (where, status) == (behind_oauth, 200)
    assert visitor.websocket(token_in(page)) == 101
    assert Visitor(behind_oauth).websocket(token_in(page)) == 403


@pytest.mark.slow
def test_oauth_code_that_the_provider_did_not_give_is_refused(behind_oauth):
    visitor = Visitor(behind_oauth)
    visitor.ask(f"{visitor.root}/login?code=invented&state=invented")
    assert not {"user", "access_token"} & {cookie.name for cookie in visitor.cookies}
