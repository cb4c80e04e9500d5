"""The warning about a training that does not begin."""

from train_tokenizer.mean_colour import MeanColourWatch


def test_it_warns_once_after_the_warm_up_and_five_percent_of_the_steps():
    watch = MeanColourWatch(1000, 100)
    assert watch.warning(140, -0.2) is None
    assert "step 160: every image is drawn as about the mean colour of all (3% of their" in watch.warning(160, 0.03)
    assert watch.warning(180, 0.05) is None


def test_it_warns_again_after_a_collapse():
    watch = MeanColourWatch(1000, 100)
    watch.warning(160, 0.03)
    assert watch.warning(180, 0.6) is None
    assert "(0% of their" in watch.warning(200, -0.01)


def test_a_tokenizer_without_pixels_is_not_watched():
    assert MeanColourWatch(10, 0).warning(10, None) is None
