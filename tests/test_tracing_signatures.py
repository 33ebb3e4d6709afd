"""Tracing models that take and give more than one tensor, and what is then done with the graph."""

import dataclasses
import logging

import onnx
import onnxruntime
import pytest
import torch
from small_graphs import Calls, outputs, targets
from torch import Tensor, nn

import vibfx
from vibfx.copying import copy_graph_module
from vibfx.errors import EquivalenceError, TraceError
from vibfx.export import export_onnx, save_program
from vibfx.inputs import has_batch, tensor_inputs
from vibfx.passes import SetMode


@dataclasses.dataclass
class Result:
    scores: Tensor
    hidden: Tensor


class Attention(nn.Module):
    """Token ids, a mask by name, options; gives a dataclass or a dict."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.head = nn.Embedding(20, 8), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, ids, mask=None, *, structured=True, bias=None):
        q, k, v = self.qkv(self.embed(ids)).unsqueeze(1).chunk(3, -1)
        if mask is not None:
            bias = torch.where(mask[:, None, None].bool(), 0.0, -1e4)
        hidden = nn.functional.scaled_dot_product_attention(q, k, v, bias)[:, 0]
        scores = self.head(hidden).mean(1)
        return Result(scores, hidden) if structured else {"scores": scores, "more": [hidden, 1]}


def attention():
    torch.manual_seed(0)
    return Attention().eval()


def batch_of(size):
    ids = torch.randint(0, 20, (size, 5), generator=torch.Generator().manual_seed(size))
    return {"ids": ids, "mask": torch.ones(size, 5, dtype=torch.int64)}


@pytest.mark.parametrize("size", [1, 2])
def test_arguments_by_name_and_a_dataclass(size):
    model = attention()
    graph = copy_graph_module(vibfx.trace(model, batch_of(size)))
    for batch in (1, 3):
        expected, actual = model(**batch_of(batch)), graph(**batch_of(batch))
        assert type(actual) is Result
        assert torch.equal(actual.scores, expected.scores)
        assert torch.equal(actual.hidden, expected.hidden)


def test_options_are_baked_in_and_the_structure_is_kept_by_passes():
    model = attention()
    graph = vibfx.trace(model, (batch_of(2)["ids"], None), {"structured": False})
    SetMode(training=True)(graph)
    ids = batch_of(3)["ids"]
    expected, actual = model(ids, structured=False), graph(ids, None, structured=False)
    assert torch.equal(actual["scores"], expected["scores"])
    assert actual["more"][1] == 1


def test_the_oracle_and_onnx_take_such_graphs(tmp_path):
    graph = vibfx.trace(attention(), batch_of(2))
    assert vibfx.verify(graph, copy_graph_module(graph)).error == 0.0
    changed = copy_graph_module(graph)
    with torch.no_grad():
        changed.get_parameter("head.bias")[0] += 1.0
    with pytest.raises(EquivalenceError, match="first node that differs is linear_1"):
        vibfx.verify(graph, changed)
    file = export_onnx(graph, tmp_path / "model.onnx", batch_of(1)).path
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = batch_of(3)
    feed = {"input_0": given["ids"].numpy(), "input_1": given["mask"].numpy()}
    scores, hidden = session.run(None, feed)
    assert scores.shape == (3, 3)
    assert abs(hidden - graph(**given).hidden.detach().numpy()).max() < 1e-5
    save_program(graph, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.equal(program(**given).scores, graph(**given).scores)


def test_an_input_that_is_no_batch_is_fixed():
    """A mask of another size, first or last, and a number as a tensor."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, mask, x, scale):
            y = self.layer(x)
            return (y @ y.transpose(1, 2) * scale + mask).sum(1)

    torch.manual_seed(0)
    model = Masked().eval()
    for size in (1, 2):
        graph = vibfx.trace(model, (torch.ones(5, 5), torch.ones(size, 5, 8), torch.tensor(2.0)))
        assert [has_batch(n) for n in tensor_inputs(graph)] == [False, True, False]
        given = (torch.randn(5, 5), torch.randn(3, 5, 8), torch.tensor(0.5))
        assert torch.equal(graph(*given), model(*given))
        assert vibfx.verify(graph, graph).error == 0.0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_batch_that_the_model_fixes_is_kept_and_said(size, caplog, tmp_path):
    torch.manual_seed(0)
    model = Calls(lambda s, x: s.layer(x).reshape(size, 4), layer=nn.Linear(3, 4))
    with caplog.at_level(logging.WARNING):
        graph = vibfx.trace(model, torch.ones(size, 3))
    assert caplog.messages == [
        f"the batch of Calls is fixed at {size}: its code asks for that size"
    ]
    assert torch.equal(outputs(graph, (3,), size), outputs(model, (3,), size))
    assert vibfx.verify(graph, graph).error == 0.0
    file = export_onnx(graph, tmp_path / "model.onnx").path
    (entry,) = onnx.load(file).graph.input
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim] == [size, 3]


def test_inputs_without_a_common_size_stay_independent(caplog):
    class Apart(nn.Module):
        def forward(self, x, y):
            return x * 2, y + 1

    graph = vibfx.trace(Apart(), (torch.ones(2, 3), torch.ones(2, 4)))
    x, y = graph(torch.ones(3, 3), torch.ones(3, 4))
    assert (x.shape, y.shape) == ((3, 3), (3, 4))
    assert not caplog.messages


def test_a_forward_with_any_number_of_inputs():
    class Any(nn.Module):
        def forward(self, *inputs, **named):
            return torch.cat([*inputs, *named.values()], 1)

    graph = vibfx.trace(Any(), (torch.ones(1, 3), torch.ones(1, 4)), {"z": torch.ones(1, 2)})
    assert graph(torch.ones(3, 3), torch.ones(3, 4), z=torch.ones(3, 2)).shape == (3, 9)


def test_a_mask_that_is_built_by_writes_is_folded():
    def forward(self, x):
        mask = torch.zeros(4, 4)
        mask[:2, 1:] = 3
        mask[3].add_(1.0)
        return self.layer(x) @ torch.where(mask > 0, -1.0, mask)

    torch.manual_seed(0)
    model = Calls(forward, layer=nn.Linear(3, 4))
    graph = vibfx.trace(model, torch.ones(2, 3))
    assert targets(graph) == ["aten.linear.default", "aten.matmul.default"]
    assert torch.equal(outputs(graph, (3,)), outputs(model, (3,)))


def refusal(model, inputs):
    with pytest.raises(TraceError) as caught:
        vibfx.trace(model, inputs)
    return caught.value


def test_refuses_a_result_that_is_a_container_of_its_own():
    class Box:
        def __init__(self, value):
            self.value = value

    error = refusal(Calls(lambda s, x: Box(x * 2)), torch.ones(2, 3))
    assert error.what == "the model returns a Box, and not only tensors"
    assert "use_cache=False" in error.hint


def test_says_which_part_can_be_traced_instead():
    def forward(self, x):
        y = self.backbone(x)
        return self.head(y[y > 0].unsqueeze(1)) if (y > 0).sum() > 1 else y

    model = Calls(forward, head=nn.Linear(1, 90), backbone=nn.Linear(3, 4))
    error = refusal(model, torch.ones(2, 3))
    assert "data-dependent" in error.what
    assert error.hint.endswith(
        "trace a part by itself, such as model.backbone on inputs of its own."
    )
    assert vibfx.trace(model.backbone, torch.ones(2, 3))


def test_a_graph_that_breaks_a_rule_is_a_model_that_cannot_be_traced():
    def forward(self, x):
        return torch.cond(self.flag.sum() > 0, lambda y: y + 1, lambda y: y - 1, (self.layer(x),))

    model = Calls(forward, layer=nn.Linear(3, 2), flag=nn.Buffer(torch.ones(1)))
    assert "not a tensor" in refusal(model, torch.ones(2, 3)).what


def hugging_face(name, config, **options):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    kept = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "vocab_size": 20}
    return getattr(transformers, name)(
        getattr(transformers, config)(**kept, intermediate_size=16, **options)
    ).eval()


@pytest.mark.parametrize(
    ("name", "config", "options"),
    [
        ("BertModel", "BertConfig", {}),
        ("LlamaForCausalLM", "LlamaConfig", {"num_key_value_heads": 1, "use_cache": False}),
    ],
)
def test_language_models(name, config, options):
    model = hugging_face(name, config, **options)
    ids = torch.randint(3, 20, (3, 5), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    graph = vibfx.trace(model, {key: value[:2] for key, value in given.items()})
    with torch.no_grad():
        expected, actual = model(**given), graph(**given)
    assert type(actual) is type(expected)
    assert torch.equal(actual[0], expected[0])
    assert vibfx.verify(graph, graph).sensitivity > 0.1


def test_a_language_models_cache_is_refused_with_what_to_do():
    model = hugging_face("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=1)
    error = refusal(model, {"input_ids": torch.zeros(2, 5, dtype=torch.int64)})
    assert error.what == "the model returns a DynamicCache, and not only tensors"
