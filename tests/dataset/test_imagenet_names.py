"""ImageNet's class names."""

from dataset.imagenet_names import class_names


def test_names_of_the_classes():
    assert len(class_names()) == 1000
    assert class_names()[207][0] == "golden retriever"
