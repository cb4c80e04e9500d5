"""The page: its tabs, its look, and the server that shows it."""

import socket
from collections.abc import Sequence

import gradio as gr

from demo.draw_tab import DrawTab
from demo.edit_tab import EditTab
from demo.models import DemoModel
from utils.errors import UserError

MAX_WAITING = 16  # events in the queue; further ones are refused
MAX_UPLOAD = "20mb"
MAX_SESSIONS = 100
HOUR = 3600
CSS = """
.pixelated img { image-rendering: pixelated; width: 100%; height: 100%; object-fit: contain; }
.centred { align-items: center; }
.text { overflow: hidden !important; }
"""


def build_page(models: Sequence[DemoModel]) -> gr.Blocks:
    with gr.Blocks(title="Draw images of classes", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as page:
        gr.Markdown("## Images of classes, drawn by " + " and ".join(f"`{model.source}`" for model in models))
        with gr.Tab("Draw"):
            DrawTab(models)
        with gr.Tab("Encode and complete"):
            EditTab(models)
    return page.queue(max_size=MAX_WAITING)


def require_free_port(host: str, port: int) -> None:
    """Raise UserError if the page cannot be served there."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
    except OSError as error:
        raise UserError(f"cannot serve at {host}:{port} ({error.strerror}): choose another --port or --host") from error


def serve(page: gr.Blocks, host: str, port: int) -> None:
    """Until the program is interrupted. Raises UserError if the port was taken in the meantime."""
    try:
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            max_file_size=MAX_UPLOAD,
            state_session_capacity=MAX_SESSIONS,
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            footer_links=[],
            theme=gr.themes.Default(),
            css=CSS,
        )
    except OSError as error:
        raise UserError(f"cannot serve at {host}:{port} ({error}): choose another --port or --host") from error
    print(f"open {page.local_url} in a browser; Ctrl-C ends", flush=True)
    page.block_thread()
