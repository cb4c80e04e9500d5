import sys

import pytest
import torch

from evaluation.convert_inception import main, read_inception_graph
from utils.errors import UserError
from utils.weights import read_state_dict


def test_converted_weights_are_torch_fidelitys(inception_files, tmp_path, monkeypatch):
    """All names, shapes and values."""
    expected = read_state_dict(inception_files / "inception.pth")
    arguments = (inception_files / "classify_image_graph_def.pb", tmp_path / "converted.pth")
    monkeypatch.setattr(sys, "argv", ["convert_inception", *map(str, arguments)])
    main()
    converted = read_state_dict(tmp_path / "converted.pth")
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[key], value) for key, value in expected.items())


def test_other_files_are_refused(inception_files, tmp_path):
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    graph = (inception_files / "classify_image_graph_def.pb").read_bytes()
    path = tmp_path / "graph.pb"
    for damaged in (graph[: len(graph) // 2], b"no graph at all"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="not a TensorFlow GraphDef"):
            read_inception_graph(path)
    other = GraphDef()
    other.node.add(name="x", op="Placeholder")
    path.write_bytes(other.SerializeToString())
    with pytest.raises(UserError, match="is not TensorFlow's Inception of 2015-12-05"):
        read_inception_graph(path)
