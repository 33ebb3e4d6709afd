"""The list of models is what it says: complete, without duplicates, all names known."""

import pytest

pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
models = pytest.importorskip("zoo.models")


def names(family):
    return [e.name.partition("/")[2] for e in models.entries() if e.family == family]


def test_names_are_unique_and_have_a_family():
    listed = [entry.name for entry in models.entries()]
    assert len(listed) == len(set(listed))
    assert all(entry.family and "/" in entry.name for entry in models.entries())


def test_all_torchvision_classifiers_are_listed():
    assert names("torchvision") == torchvision.models.list_models(module=torchvision.models)
    assert len(names("torchvision")) >= 80


def test_timm_names_exist_in_the_module_that_they_are_listed_under():
    import timm
    from zoo import from_timm

    count = 0
    for module, listed in from_timm.MODELS.items():
        known = set(timm.list_models(module=module))
        assert set(listed.split()) <= known, module
        count += len(listed.split())
    assert count >= 150
    assert len(from_timm.MODELS) >= 60


def test_other_families_are_there():
    assert len(names("segmentation")) == 11  # with and without the auxiliary head
    assert len(names("detection")) == len(names("backbone")) == 12
    assert set(names("flow")) == {"raft_small", "raft_large"}
    assert {"bert", "llama", "mamba"} <= set(names("transformers"))


def test_find_gives_the_entry():
    assert models.find("torchvision/resnet18").family == "torchvision"
    with pytest.raises(KeyError):
        models.find("torchvision/unheard_of")


def test_a_shortened_giant_says_so():
    assert models.find("torchvision/vit_h_14").note == "4 blocks"
    assert models.find("torchvision/vit_b_16").note == ""
