"""Errors of the API: one form, with a status that follows from the code."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from fedkit.errors import DeploymentError, FedkitError

_STATUS = {
    "FK720": 401,
    "FK721": 403, "FK541": 403,
    "FK722": 404, "FK732": 404,
    "FK723": 409, "FK544": 409, "FK730": 409, "FK733": 409,
    "FK724": 413,
    "FK725": 429,
    "FK727": 408,
    "FK700": 500, "FK705": 500, "FK706": 500,
}  # fmt: skip


def refusal(error: FedkitError) -> Response:
    """An error as an answer: ``{"error": {code, message, remedy}}``."""
    status = _STATUS.get(error.code, 400)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {"retry-after": "60"} if status == 429 else {}
    return JSONResponse(error_body(error), status_code=status, headers=headers)


def error_body(error: FedkitError) -> dict[str, Any]:
    """An error's three parts."""
    return {"error": {"code": error.code, "message": error.message, "remedy": error.remedy}}


def unknown(what: str, name: str, known: list[str]) -> DeploymentError:
    """The error of a name that nothing has."""
    return DeploymentError(
        f"there is no {what} {name!r}", code="FK722", remedy=f"name one of {', '.join(known[:10]) or 'none so far'}"
    )
