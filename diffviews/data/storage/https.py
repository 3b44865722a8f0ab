"""Files from web servers, over https alone, from any byte on."""

import http.client
import re
import ssl
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from diffviews.data.storage.resumable import CHUNK, BrokenConnectionError, Piece
from diffviews.errors import CheckpointError

TIMEOUT = 60.0
"""Seconds a server may be silent."""
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Hosts on this machine, whose plain http nobody can listen to or change."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_BUSY = (408, 425, 429, 500, 502, 503, 504)


def check_secure(url: str) -> str:
    """Return `url` when what comes from it cannot have been changed on the way.

    Raises:
        CheckpointError: unless it is https, or http on this machine.
    """
    address = urlsplit(url)
    secure = address.scheme == "https" or (address.scheme == "http" and address.hostname in LOCAL_HOSTS)
    if address.username or address.password:
        raise CheckpointError(f"{shown(url)} is not fetched: its address holds a password; download it yourself")
    if not secure or not address.hostname:
        raise CheckpointError(f"{shown(url)} is not fetched: only https:// cannot be changed on the way")
    return url


def shown(url: str) -> str:
    """Return an address for messages, without user, password and query, which may hold secrets."""
    address = urlsplit(url)
    return f"{address.scheme}://{address.hostname or ''}{f':{address.port}' if address.port else ''}{address.path}"


class _SecureRedirects(HTTPRedirectHandler):
    """Follows a server elsewhere only if it is secure there."""

    def redirect_request(self, *arguments: Any, **options: Any) -> Request | None:
        request = super().redirect_request(*arguments, **options)
        if request is not None:
            check_secure(request.full_url)
        return request


def open_https(url: str, start: int, version: str | None, timeout: float = TIMEOUT) -> Piece:
    """Ask a server for a file from byte `start` on, or for all of it if it has another version by now.

    Raises:
        BrokenConnectionError: if it cannot be reached now.
        CheckpointError: if it refuses, or the address is not secure.
    """
    headers = {"User-Agent": "diffviews", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version or ""}
    request = Request(check_secure(url), headers=headers)
    try:
        response = build_opener(_SecureRedirects).open(request, timeout=timeout)
    except HTTPError as error:
        return _refused(url, start, error)
    except (URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise CheckpointError(f"{shown(url)} is not fetched: its certificate is not valid ({reason})") from error
        raise BrokenConnectionError(f"{shown(url)} does not answer ({reason})") from error
    begin, total = _extent(response)
    return Piece(begin, total, _version(response.headers), _chunks(response))


def _refused(url: str, start: int, error: HTTPError) -> Piece:
    with closing(error):
        if error.code == 416 and start:  # the kept part reaches the end or beyond it: start over
            return Piece(0, None, None, _interrupted(url))
        if error.code in _BUSY:
            raise BrokenConnectionError(f"{shown(url)} answers {error.code} {error.reason}") from error
        remedy = {
            404: "check the address",
            410: "check the address",
            401: "log in there, or download it yourself and give the file",
            403: "log in there, or download it yourself and give the file",
        }.get(error.code, "see what the server wants")
        raise CheckpointError(f"{shown(url)} answers {error.code} {error.reason}; {remedy}") from error


def _interrupted(url: str) -> Iterator[bytes]:
    """Bring nothing, so that the next connection starts at the first byte."""
    raise BrokenConnectionError(f"{shown(url)} has no bytes beyond those that were kept")
    yield b""


def _extent(response: Any) -> tuple[int, int | None]:
    """Return the index of the first byte an answer brings and the size of the whole file."""
    length = response.headers.get("Content-Length", "")
    if response.status != 206:
        return 0, int(length) if length.isdecimal() else None
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not found:
        raise CheckpointError(f"{shown(response.url)} sends a part without saying which")
    return int(found[1]), None if found[3] == "*" else int(found[3])


def _version(headers: Any) -> str | None:
    """Return what names this version of the file; a weak ETag does not promise the same bytes."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _chunks(response: Any) -> Iterator[bytes]:
    with closing(response):
        while True:
            try:
                chunk = response.read(CHUNK)
            except http.client.IncompleteRead as error:
                yield error.partial
                raise BrokenConnectionError("the connection broke") from error
            except (http.client.HTTPException, OSError) as error:
                raise BrokenConnectionError(f"the connection broke ({error})") from error
            if not chunk:
                return
            yield chunk
