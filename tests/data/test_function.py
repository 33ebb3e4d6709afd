import logging
import random
import sys
import textwrap
from pathlib import Path

import pytest
from data_helpers import parts_of, refusal

from vibfx.data import load_data
from vibfx.errors import DataError


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current folder, under a name that was never imported."""
    monkeypatch.chdir(tmp_path)
    names = []

    def write(returned):
        name = f"loaders_{len(names)}_{random.getrandbits(64)}"
        names.append(name)
        source = f"""
            import torch
            from torch.utils.data import DataLoader, IterableDataset, TensorDataset

            def batches(count=3, x=(4, 5), y=(0, 1, 2, 3), dtype=torch.float32):
                return [(torch.zeros(x, dtype=dtype), torch.tensor(y)) for _ in range(count)]

            def unlabelled():
                return [torch.zeros(4, 5) for _ in range(3)]

            class Endless(IterableDataset):
                def __iter__(self):
                    yield torch.zeros(5), 0

            class Named(TensorDataset):
                classes = ["ant", "bee", "cat", "dog", "eel"]

            def load():
                return {returned}
        """
        Path(f"{name}.py").write_text(textwrap.dedent(source))
        return f"{name}:load"

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_three_loaders_are_taken_in_order(module):
    data = load_data(module("batches(5), batches(3), batches(2)"))
    assert [len(part) for part in parts_of(data)] == [5, 3, 2]
    assert data.classes == ("0", "1", "2", "3")
    assert data.preprocessing is None


def test_a_mapping_of_loaders_is_taken_by_its_keys(module):
    spec = module("{'test': batches(2), 'train': batches(5), 'validation': batches(3)}")
    assert [len(part) for part in parts_of(load_data(spec))] == [5, 3, 2]


@pytest.mark.parametrize(
    "returned", ["(batches(5), batches(2))", "{'train': batches(5), 'test': batches(2)}"]
)
def test_of_two_loaders_the_second_serves_twice_and_a_warning_says_so(module, returned, caplog):
    spec = module(returned)
    with caplog.at_level(logging.WARNING, logger="vibfx.data"):
        data = load_data(spec)
    assert data.validation is data.test
    assert [len(part) for part in parts_of(data)] == [5, 2, 2]
    assert f"{spec} returned two loaders" in caplog.text


def test_three_loaders_are_no_reason_to_warn(module, caplog):
    load_data(module("batches(), batches(), batches()"))
    assert caplog.text == ""


def test_the_data_sets_class_names_are_used(module):
    named = "DataLoader(Named(torch.zeros(4, 5), torch.arange(4)), batch_size=4)"
    data = load_data(module(f"{named}, batches(), batches()"))
    assert data.classes == ("ant", "bee", "cat", "dog", "eel")
    message = refusal(module(f"{named}, batches(), batches(y=(0, 1, 2, 5))"))
    assert "the test labels include 5, the training set has the classes 0 to 4" in message


def test_training_batches_that_start_with_one_class_are_no_training_set_of_one_class(module):
    spec = module("batches(2, y=(0, 0, 0, 0)) + batches(1), batches(), batches()")
    assert len(load_data(spec).train) == 3


def test_the_current_folder_is_importable_only_while_the_function_is_called(module):
    before = list(sys.path)
    load_data(module("batches(), batches(), batches()"))
    assert sys.path == before
    with pytest.raises(DataError):
        load_data("no_such_module:load")
    assert sys.path == before


def test_labels_may_be_values(module):
    values = "batches(y=(0.5, 1.0, 2.0, 0.0))"
    data = load_data(module(f"{values}, {values}, {values}"))
    assert (data.labels, data.classes) == ("values", ())


def test_labels_may_stand_one_a_pixel(module):
    pixels = "batches(x=(4, 3, 2, 2), y=[[[0, 1], [1, 2]]] * 4)"
    data = load_data(module(f"{pixels}, {pixels}, {pixels}"))
    assert (data.labels, data.classes) == ("classes", ("0", "1", "2"))


@pytest.mark.parametrize("batches", ["unlabelled()", "[[x] for x in unlabelled()]"])
def test_there_may_be_no_labels(module, batches):
    data = load_data(module(f"{batches}, {batches}, {batches}"))
    assert (data.labels, data.classes) == ("none", ())


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("7", "the function returned an object of type int instead of loaders"),
        ("(batches(),)", "the function returned 1 values instead of loaders"),
        ("{'train': 1, 'val': 2}", "a mapping with the keys train, val instead of loaders"),
        ("{'train': 1, 'test': 2, 'val': 3}", "a mapping with the keys train, test, val"),
        ("1, 2, 3", "the training loader (int) cannot be iterated every epoch"),
        (
            "iter(batches()), batches(), batches()",
            "the training loader (list_iterator) cannot be iterated",
        ),
        ("DataLoader(Endless()), 2, 3", "the training loader does not say how many batches"),
        ("batches(), [], batches()", "the validation loader is empty"),
        ("batches(), batches(), [7]", "the test batches are not pairs of tensors"),
        ("batches(x=(4, 5), dtype=torch.uint8), 2, 3", "inputs uint8 of shape (4, 5)"),
        ("batches(x=(4,)), 2, 3", "inputs float32 of shape (4,)"),
        ("batches(y=(0, 1)), 2, 3", "labels int64 of shape (2,)"),
        ("batches(y=(0., 1., 2.)), 2, 3", "labels float32 of shape (3,)"),
        ("batches(y=(True, False, True, True)), 2, 3", "labels bool of shape (4,)"),
        (
            "batches(y=(0., 1., 2., 3.)), batches(), batches()",
            "of different kinds: classes, values",
        ),
        ("unlabelled(), batches(), batches()", "of different kinds: classes, none"),
        ("batches(x=(0, 5), y=()), 2, 3", "the first training batch is empty"),
        ("batches(y=(1, 1, 1, 1)), batches(), batches()", "the training set has one class: 1"),
        ("batches(y=(-1, 0, 1, 2)), batches(), batches()", "the training labels include -1"),
    ],
)
def test_what_cannot_serve_as_loaders_is_refused(module, returned, sentence):
    spec = module(returned)
    message = refusal(spec)
    assert sentence in message
    assert spec in message


def test_batches_of_another_shape_than_the_model_takes_are_refused(module):
    spec = module("batches(), batches(), batches(x=(4, 6))")
    assert "the shape (6,), the model takes (5,)" in refusal(spec, input_shape=(5,))


def test_a_function_normalizes_for_itself(module):
    spec = module("batches(), batches(), batches()")
    assert "mean and std do not apply" in refusal(spec, mean=[0.5], std=[0.5])


def test_a_module_or_function_that_is_not_there_is_refused(module):
    message = refusal("no_such_module:load")
    assert "the module cannot be imported: No module named 'no_such_module'" in message
    assert "mnist:DIR" in message  # a misspelt name looks like a module
    name = module("7").removesuffix(":load")
    assert f"{name} has no function save" in refusal(f"{name}:save")
