"""Another map's picture never lies in the view of the map before, not even until the server's next tick."""

import asyncio

from test_dashboard_leaving import served


def place_of(figure):
    """Where the picture begins, and where the view does."""
    picture = next(r.data_source.data for r in figure.renderers if "dw" in r.data_source.data)
    return float(picture["x"][0]), figure.x_range.start


async def switch(visit, told):
    figure, session = visit.dashboard.drawing.figure.figure, visit.dashboard.session
    before = place_of(figure)

    async def watch():
        while True:
            told.append(place_of(figure))
            await asyncio.sleep(0)

    watching = asyncio.ensure_future(watch())
    await visit.do(lambda: (session.choose_layer("midblock", 2.0), told.append(place_of(figure))))
    watching.cancel()
    assert before[0] != session.map.bounds[0][0]
    assert told[-1] == (session.map.bounds[0][0],) * 2


def test_picture_and_view_of_another_map_come_together(monkeypatch):
    told = []
    served(monkeypatch, lambda server: server.run(lambda visit: switch(visit, told)))
    assert {picture == view for picture, view in told} == {True}
