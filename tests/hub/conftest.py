import threading
from collections.abc import Iterator

import huggingface_hub.constants as constants
import pytest

from tests.support.hub_server import WRITER, HubServer


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[HubServer]:
    """A local hub that huggingface_hub uses in place of the real one, with a login and an empty cache."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    # What HF_ENDPOINT and HF_HOME set, had huggingface_hub not been imported already.
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    yield server
    server.shutdown()
    server.server_close()
