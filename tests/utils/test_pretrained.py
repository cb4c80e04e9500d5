"""Published weights are found in torch's hub cache."""

from utils.pretrained import get_weights


def test_a_file_in_the_hub_cache_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "https://example.invalid/network-0123abcd.pth"
    place = tmp_path / "hub" / "checkpoints" / "network-0123abcd.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    assert get_weights("a network", url, "--key") == place
