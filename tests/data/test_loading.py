import pytest
from data_helpers import needs_digits, refusal

from vibfx.data import load_data
from vibfx.errors import InputError


@pytest.mark.parametrize("spec", ["imagenet", "mnist", "mnist:", "no/such/folder", "digits:x:y"])
def test_anything_else_is_refused_with_the_list_of_forms(spec):
    message = refusal(spec)
    assert f"{spec!r} is no data set and no folder" in message
    for form in ("digits", "mnist:DIR", "fashion-mnist:DIR", "cifar10:DIR", "FILE.npz"):
        assert form in message
    assert "package.module:function" in message


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(InputError, match="the batch size is 0"):
        load_data("digits", batch_size=0)


@needs_digits
@pytest.mark.parametrize(
    ("mean", "std", "sentence"),
    [
        ([0.5], None, "do not go together"),
        (None, [0.5], "do not go together"),
        ([0.5], [0.5, 0.5], "do not go together"),
        ([0.5], [0.0], "std is [0.0]"),
        ([0.5, 0.5], [1.0, 1.0], "given for 2 channels, the samples have 1"),
    ],
)
def test_mean_and_std_that_cannot_be_used_are_refused(mean, std, sentence):
    assert sentence in refusal("digits", mean=mean, std=std)
