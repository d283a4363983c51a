"""One exchange with a registry: the request, logged in, its redirects followed; and what the answer's status means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mirror.errors import Denied, MirrorError
from mirror.http.deadlines import one_deadline
from mirror.http.translation import wants_tls
from mirror.http.transport import Answer
from mirror.oci.reference import Reference
from mirror.registry.auth import Authenticator
from mirror.registry.endpoints import Endpoints
from mirror.registry.redirects import Followed, Redirects
from mirror.registry.response_errors import error_for_trouble

_HIDING: Final = frozenset({403, 404})
_TLS_REFUSALS: Final = frozenset({400, 403, 426, 497})
_TLS_WANTED: Final = re.compile(
    rb"http request to an https server|plain http request was sent to https|speaking plain http to an ssl|requires? tls"
)
"""What Go, nginx, Apache and Tomcat say, in lower case."""
_REFUSAL_SIZE: Final = 64 * 1024


class AuthorizedRequests:
    """Sends requests below ``/v2/<repository>/`` of a reference's registry."""

    def __init__(self, endpoints: Endpoints, redirects: Redirects, auth: Authenticator) -> None:
        self._endpoints = endpoints
        self._redirects = redirects
        self._auth = auth

    def send(self, method: str, reference: Reference, path: str, headers: Mapping[str, str]) -> Followed:
        """Send the request, logging in and following redirects; the answer's status is the caller's business.

        All of it has one deadline, and so has the answer's body if it is read with `Answer.read`.
        """
        with one_deadline():
            return self._send(method, reference, path, headers)

    def _send(self, method: str, reference: Reference, path: str, headers: Mapping[str, str]) -> Followed:
        registry, repository = reference.registry, reference.repository
        url = f"{self._endpoints.base_url(registry)}/v2/{repository}/{path}"
        authorization = self._auth.authorization(registry, repository)
        followed = self._redirects.follow(method, url, headers, authorization, registry)
        if followed.answer.status == 401:
            followed.answer.dismiss()
            authorization = self._auth.answer(registry, repository, followed.answer, authorization)
            return self._redirects.follow(method, url, headers, authorization, registry)
        if followed.answer.status in _HIDING and authorization is None and followed.target is None:
            if (login := self._hidden_login(method, reference, followed.answer)) is None:
                return followed
            followed.answer.dismiss()
            followed = self._redirects.follow(method, url, headers, login, registry)
            if followed.answer.status != 401:
                self._auth.accepted(registry)
        return followed

    def _hidden_login(self, method: str, reference: Reference, answer: Answer) -> str | None:
        """What to log in with after a 403 or 404, which may hide what is there from those who are not logged in.

        A HEAD is only a short cut: a login that fails is for the GET after it to tell.
        """
        try:
            return self._auth.hidden_login(reference.registry, reference.repository)
        except MirrorError as error:
            if method == "HEAD" and not error.retryable:
                return None
            answer.close()
            raise

    def require_ok(
        self,
        answer: Answer,
        reference: Reference,
        unknown: MirrorError,
        accepted: tuple[int, ...] = (200,),
        *,
        asked_for: str = "",
    ) -> None:
        """Raise what the answer's status means: *unknown* for a 404. *asked_for* names what was requested."""
        if answer.status in accepted:
            return
        if _says_it_wants_tls(answer):
            raise wants_tls(answer.registry, answer.url)
        if answer.status == 401:
            raise self._auth.refusal(reference.registry, reference.repository)
        if answer.status == 403:
            raise Denied(reference.registry, reference.repository)
        if answer.status == 404:
            raise unknown
        raise error_for_trouble(
            reference.registry, answer.status, answer.headers, what="it answered", asked_for=asked_for
        )


def _says_it_wants_tls(answer: Answer) -> bool:
    """Whether plain HTTP was refused for being that."""
    if answer.status not in _TLS_REFUSALS or not answer.url.startswith("http://"):
        return False
    try:
        return bool(_TLS_WANTED.search(answer.read_at_once(_REFUSAL_SIZE, "a refusal").lower()))
    except MirrorError:
        return False
