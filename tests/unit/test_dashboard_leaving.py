"""Visitors of a served dashboard who leave: nothing of theirs stays in the process."""

import asyncio
import contextlib
import gc
import json
import re
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import panel as pn
import param
import pytest
from bokeh.document import Document
from bokeh.events import RangesUpdate, Tap
from bokeh.models import ImportedStyleSheet
from dashboard_synthetic import SyntheticRunner, SyntheticRuns
from panel.io.server import get_server
from panel.io.state import set_curdoc
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

import panel_app.dashboard
import panel_app.shared
from panel_app.data import DataStore

APP = Path(panel_app.dashboard.__file__).with_name("app.py")
EMPTY = {"type": "map", "entries": []}
READY = {
    "kind": "MessageSent",
    "msg_type": "bokeh_event",
    "msg_data": {"type": "event", "name": "document_ready", "values": EMPTY},
}
EXPIRES = 10**6
"""Milliseconds; a session ends when the test says so, or never."""


async def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(0.02)


class Visit:
    """One open page, in the server and at the end of its websocket."""

    def __init__(self, session, dashboard):
        self.session, self.dashboard = session, dashboard

    async def do(self, work):
        """Do something in the page's own document, as an answer to its browser, and let what follows happen."""

        def inside():
            with set_curdoc(self.session.document):
                work()

        await self.session.with_document_locked(inside)
        await asyncio.sleep(0.1)

    async def event(self, kind, **values):
        figure = self.dashboard.drawing.figure.figure
        await self.do(lambda: self.session.document.callbacks.trigger_event(kind(figure, **values)))


class Server:
    """The program `panel_app/app.py`, served by this process, which can therefore see what stays."""

    def __init__(self, monkeypatch):
        runs = SyntheticRuns(200)
        shared = DataStore(runs), SyntheticRunner(runs)
        self._real, self._newest = panel_app.dashboard.Dashboard, None
        monkeypatch.setattr(panel_app.shared, "shared", lambda settings: shared)
        monkeypatch.setattr(panel_app.dashboard, "Dashboard", self._build)
        monkeypatch.setattr(sys, "argv", ["app.py"])
        lifetimes = {"unused_session_lifetime_milliseconds": EXPIRES, "check_unused_sessions_milliseconds": 20}
        self._server = get_server({"app": str(APP)}, port=0, show=False, start=False, **lifetimes)
        self._server.start()

    def _build(self, *args, **options):
        self._newest = self._real(*args, **options)
        return self._newest

    def run(self, *visits, ready=True):
        """Let visitors come, do something and leave, one after another."""

        async def main():
            for visit in visits:
                async with self._visitor(ready) as visitor:
                    await visit(visitor)

        self._server.io_loop.run_sync(main, timeout=280)

    @contextlib.asynccontextmanager
    async def _visitor(self, ready):
        socket = await self._connect(await self._token())
        reader = asyncio.ensure_future(_read(socket))
        if ready:
            for part in ({"msgid": "1", "msgtype": "PATCH-DOC"}, {}, {"events": [READY]}):
                await socket.write_message(json.dumps(part))
        (session,) = self._server.get_sessions("/app")
        await until(lambda: session.connection_count == 1)
        yield Visit(session, self._newest)
        self._newest = None
        socket.close()
        await reader
        await self._end(session)

    def styles_of_a_session_without_a_page(self):
        """Addresses of the style sheets of a session that a browser's connection opens anew."""

        async def main():
            token = await self._token()
            (session,) = self._server.get_sessions("/app")
            await self._end(session)
            socket = await self._connect(token)
            await until(lambda: self._server.get_sessions("/app"))
            (session,) = self._server.get_sessions("/app")
            roots = session.document.roots
            found = [sheet.url for root in roots for sheet in root.select({"type": ImportedStyleSheet})]
            socket.close()
            await self._end(session)
            return found

        return self._server.io_loop.run_sync(main, timeout=280)

    async def _token(self):
        answer = await AsyncHTTPClient().fetch(f"http://{self._address}", request_timeout=60)
        return re.search(r'"token":"([^"]+)"', answer.body.decode()).group(1)

    async def _connect(self, token):
        return await websocket_connect(
            f"ws://{self._address}/ws", subprotocols=["bokeh", token], max_message_size=10**9
        )

    @property
    def _address(self):
        return f"127.0.0.1:{self._server.port}/app"

    async def _end(self, session):
        ended = asyncio.Event()
        session.document.on_session_destroyed(lambda _: ended.set())
        session.request_expiration()
        await asyncio.wait_for(ended.wait(), 120)

    def rest(self):
        """Let what is still under way, such as a thread's last answer, come to its end."""
        self._server.io_loop.run_sync(lambda: asyncio.sleep(0.5))

    def stop(self):
        self._server.stop()
        pn.state.kill_all_servers()


async def _read(socket):
    while await socket.read_message() is not None:
        pass


def alive():
    """How many documents, Panel components and Parameterized objects of the dashboard there are, by class."""
    gc.collect()
    return Counter(
        f"{kind.__module__}.{kind.__name__}"
        for kind in map(type, gc.get_objects())
        if issubclass(kind, (Document, pn.viewable.Viewable))
        or (issubclass(kind, param.Parameterized) and kind.__module__.startswith("panel_app"))
    )


def settled(server):
    """What is alive once that no longer changes."""
    before, now = None, alive()
    while now != before:
        server.rest()
        before, now = now, alive()
    return now


async def browse(visit):
    """Take in hand whatever draws, watches, or works beside the page."""
    dashboard, session = visit.dashboard, visit.dashboard.session
    (x0, _), (y0, _) = session.map.bounds
    x, y = session.map.position("digits-0007")
    await visit.event(Tap, x=x, y=y)
    await until(lambda: session.state.selection.sample_id is not None)
    await visit.event(RangesUpdate, x0=x0, x1=x, y0=y0, y1=y)
    await visit.do(session.suggest)
    await visit.do(lambda: session.choose_layer("midblock", 2.0))
    await visit.do(lambda: setattr(dashboard.navigation.colour, "value", "distance_to_data"))
    await visit.do(dashboard.generation.generate)
    await until(lambda: dashboard.results.entries)
    await visit.do(lambda: setattr(dashboard.tabs, "active", 2))
    for view in ("compare", "noise", "3d", "map"):
        await visit.do(lambda view=view: setattr(session.state, "view", view))


async def redraw(visit):
    await visit.do(lambda: visit.dashboard.session.choose_layer("midblock", 2.0))
    await visit.event(RangesUpdate, x0=0, x1=1, y0=0, y1=1)


def served(monkeypatch, do):
    """Return what `do` finds out of a server."""

    def serve():
        asyncio.set_event_loop(asyncio.new_event_loop())
        server = Server(monkeypatch)
        try:
            return do(server)
        finally:
            server.stop()

    with ThreadPoolExecutor(1) as thread:  # Playwright's event loop runs in this one once a browser test has been
        return thread.submit(serve).result()


def left_behind(do, ready=True):
    """Return what tells what stays of two visitors, by class."""

    def find(server):
        server.run(do, ready=ready)  # what is made once a process is made now
        before = settled(server)
        server.run(do, do, ready=ready)
        return settled(server) - before

    return find


def test_nothing_of_visitors_stays_once_they_have_left(monkeypatch):
    assert served(monkeypatch, left_behind(browse)) == Counter()


@pytest.mark.slow
def test_visitor_who_leaves_before_the_page_is_ready_is_forgotten_too(monkeypatch):
    """HoloViews would wait for the page to be ready for ever, and the session for HoloViews."""
    assert served(monkeypatch, left_behind(redraw, ready=False)) == Counter()


def test_session_without_a_page_asks_no_other_host_for_styles(monkeypatch):
    """Panel knows where its own are only once it has written a page."""
    found = served(monkeypatch, Server.styles_of_a_session_without_a_page)
    assert found
    assert not [address for address in found if address.startswith("http")]
