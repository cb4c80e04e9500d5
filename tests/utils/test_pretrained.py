"""Published weights and configurations are found."""

from pathlib import Path

from utils.pretrained import config_file, get_weights


def test_a_file_in_the_hub_cache_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "https://example.invalid/network-0123abcd.pth"
    place = tmp_path / "hub" / "checkpoints" / "network-0123abcd.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    assert get_weights("a network", url, "--key") == place


def test_the_configuration_of_a_checkpoint_is_that_of_its_training(tmp_path):
    folder = tmp_path / "checkpoints" / "step_00000001"
    folder.mkdir(parents=True)
    (tmp_path / "config.yaml").touch()
    assert config_file(folder) == tmp_path / "config.yaml"
    assert config_file("/") == Path("/config.yaml")  # has no folders above it
