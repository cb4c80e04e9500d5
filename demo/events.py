"""What the events of the page share."""

import functools
import inspect
from collections.abc import Callable

import gradio as gr

from demo.models import DemoModel
from utils.errors import UserError

# One event at a time uses the models; the others wait in the queue.
MODELS_BUSY = {"concurrency_limit": 1, "concurrency_id": "models"}


def class_choices(model: DemoModel) -> list[tuple[str, int]]:
    """Names with numbers, which tell apart classes of one name; "class 7" has its number already."""
    names = enumerate(model.class_names)
    return [(name if name == f"class {number}" else f"{name} ({number})", number) for number, name in names]


def user_errors(handler: Callable) -> Callable:
    """The same handler, but a `UserError` becomes a message on the page."""

    @functools.wraps(handler)
    def stream(*inputs):
        try:
            yield from handler(*inputs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    @functools.wraps(handler)
    def call(*inputs):
        try:
            return handler(*inputs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return stream if inspect.isgeneratorfunction(handler) else call
