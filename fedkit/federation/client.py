"""Makes a Flower ClientApp from a function that loads the site behind it: a batch of one."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedkit.federation.public_codes import public_code
from fedkit.federation.site import SiteRuntime

_LOG = logging.getLogger("fedkit.site")


def make_client_app(load: Callable[[Context], SiteRuntime]) -> ClientApp:
    """A ClientApp that answers query, train and evaluate for one site.

    Guarantee: no text of an exception leaves the site, because it may quote a record. The coordinator gets a code: the
    error's own if it follows from the request, declared constants or the site's settings, else one common code.
    """
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return _answer(message, context, load, lambda runtime, name: runtime.answer_query(name))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _answer(
            message, context, load, lambda runtime, name: runtime.answer_train([name], message.content)[name]
        )

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answer(message, context, load, lambda runtime, name: runtime.answer_evaluate(name, message.content))

    return app


def _answer(
    message: Message,
    context: Context,
    load: Callable[[Context], SiteRuntime],
    answer: Callable[[SiteRuntime, str], RecordDict],
) -> Message:
    try:
        runtime = load(context)
        return Message(answer(runtime, next(iter(runtime.sites))), reply_to=message)
    except Exception as error:
        _LOG.exception("the request was not answered")
        return Message(Error(code=2, reason=public_code(error)), reply_to=message)
