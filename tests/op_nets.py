"""For every op that has a rule, a small network in which the op meets channels that may go."""

from collections.abc import Callable
from typing import Any

import torch
from couplings import Case, Net, Value, case
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def image(f: Callable[..., Tensor], dims: int = 2, out: int = 4, **layers: nn.Module) -> Case:
    """``f(net, y)`` on four channels of ``dims`` dimensions of size 4, then read by a layer."""
    conv = CONV[dims - 1]
    net = Net(lambda net, x: net.h(f(net, net.a(x))), a=conv(2, 4, 1), h=conv(out, 3, 1), **layers)
    return case(net, 2, *[4] * dims)


def tokens(f: Callable[..., Tensor], out: int = 6, **layers: nn.Module) -> Case:
    """``f(net, y, x)`` on five tokens of six features, then read by a layer."""
    net = Net(
        lambda net, x: net.h(f(net, net.a(x), x)), a=nn.Linear(3, 6), h=nn.Linear(out, 2), **layers
    )
    return case(net, 5, 3)


def vector(f: Callable[..., Tensor], out: int = 6, **layers: nn.Module) -> Case:
    """``f(net, y, x)`` on a vector of six features, then read by a layer."""
    net = Net(
        lambda net, x: net.h(f(net, net.a(x), x)), a=nn.Linear(3, 6), h=nn.Linear(out, 2), **layers
    )
    return case(net, 3)


def plus(f: Callable[[Tensor], Tensor]) -> Case:
    """What ``f`` makes of the channels, added to them."""
    return image(lambda net, y: y + f(y))


def row(*size: int) -> Value:
    return Value(*size)


def recurrent(op: Any, gates: int, states: int) -> Case:
    def f(net: Any, y: Tensor, x: Tensor) -> Tensor:
        zero = x.new_zeros(1, x.shape[0], 4)
        weights = [net.wi.p, net.wh.p, net.bi.p, net.bh.p]
        state = [zero, zero] if states == 2 else zero
        return op(y, state, weights, True, 1, 0.0, False, False, True)[0]

    return tokens(
        f, 4, wi=row(4 * gates, 6), wh=row(4 * gates, 4), bi=row(4 * gates), bh=row(4 * gates)
    )


def looked_up() -> Case:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.h(torch.relu(aten.embedding.default(net.w.p, (x[..., 0] > 0).long())))

    return case(Net(forward, w=row(2, 6), h=nn.Linear(6, 2)), 5, 3)


def bagged() -> Case:
    """The signs of five numbers pick rows, whose mean is one bag an example."""

    def forward(net: Any, x: Tensor) -> Tensor:
        bag, index = aten._embedding_bag.default, (x > 0).long()
        offsets = torch.arange(x.shape[0]) * 5
        return net.h(torch.relu(bag(net.w.p, index.view(-1), offsets, False, 1)[0]))

    return case(Net(forward, w=row(2, 6), h=nn.Linear(6, 2)), 5)


def unpooled(dims: int) -> Case:
    pool = (F.max_pool2d, F.max_pool3d)[dims - 2]
    unpool = (aten.max_unpool2d.default, aten.max_unpool3d.default)[dims - 2]

    def forward(net: Any, y: Tensor) -> Tensor:
        values, positions = pool(y, 2, return_indices=True)
        size = list(y.shape[2:])
        more = [[2] * dims, [0] * dims] if dims == 3 else []
        return unpool(values, positions, size, *more)

    return image(forward, dims)


def _interpolate(op: Any, dims: int, *flags: bool) -> dict[Any, Callable[[], Case]]:
    none = [None] * dims
    return {
        op.default: lambda: image(lambda net, y: op.default(y, [7] * dims, *flags, *none), dims),
        op.vec: lambda: image(lambda net, y: op.vec(y, None, *flags, [2.0] * dims), dims),
    }


def _each(ops: Any, build: Callable[[Any], Case]) -> dict[Any, Callable[[], Case]]:
    return {op: lambda op=op: build(op) for op in ops}


MOVEMENT = {
    aten.view.default: lambda: image(lambda net, y: y.view(-1, 2, 2, 16).view(-1, 4, 4, 4)),
    aten.reshape.default: lambda: image(lambda net, y: y.reshape(-1, 64).reshape(-1, 4, 4, 4)),
    aten._unsafe_view.default: lambda: image(
        lambda net, y: aten._unsafe_view.default(y, [y.shape[0], 4, 16]).unflatten(2, (4, 4))
    ),
    aten.unflatten.int: lambda: image(lambda net, y: y.flatten(1).unflatten(1, (4, 4, 4))),
    aten.flatten.using_ints: lambda: tokens(lambda net, y, x: y.unflatten(2, (3, 2)).flatten(2)),
    aten.permute.default: lambda: image(
        lambda net, y: (2 * y.permute(1, 0, 2, 3)).permute(1, 0, 3, 2)
    ),
    aten.transpose.int: lambda: tokens(
        lambda net, y, x: net.c(y.transpose(1, 2)), 5, c=nn.Conv1d(6, 6, 1)
    ),
    aten.t.default: lambda: vector(lambda net, y, x: aten.t.default(aten.t.default(y) * 2)),
    aten.numpy_T.default: lambda: vector(lambda net, y, x: (aten.numpy_T.default(y) * 2).t()),
    aten.mT.default: lambda: tokens(lambda net, y, x: (aten.mT.default(y) * 2).mT),
    aten.swapaxes.default: lambda: tokens(lambda net, y, x: (y.swapaxes(1, 2) * 2).swapaxes(1, 2)),
    aten.swapdims.default: lambda: tokens(lambda net, y, x: (y.swapdims(1, 2) * 2).swapdims(1, 2)),
    aten.movedim.int: lambda: tokens(lambda net, y, x: (y.movedim(2, 0) * 2).movedim(0, 2)),
    aten.movedim.intlist: lambda: tokens(
        lambda net, y, x: (y.movedim((1, 2), (2, 1)) * 2).movedim((1, 2), (2, 1))
    ),
    aten.unsqueeze.default: lambda: tokens(lambda net, y, x: y.unsqueeze(1).mean(1)),
    aten.squeeze.dim: lambda: tokens(lambda net, y, x: y.mean(1, keepdim=True).squeeze(1)),
    aten.squeeze.dims: lambda: image(
        lambda net, y: y.mean((2, 3), keepdim=True).squeeze((2, 3))[..., None, None]
    ),
    aten.flip.default: lambda: tokens(lambda net, y, x: y.flip(2)),
    aten.repeat.default: lambda: image(lambda net, y: y.repeat(1, 2, 1, 1), 2, 8),
    aten.tile.default: lambda: image(lambda net, y: y.tile(1, 2, 1, 1), 2, 8),
    aten.repeat_interleave.self_int: lambda: image(lambda net, y: y.repeat_interleave(2, 1), 2, 8),
    aten.pixel_shuffle.default: lambda: image(
        lambda net, y: aten.pixel_shuffle.default(net.c(y), 2), 2, 4, c=nn.Conv2d(4, 16, 1)
    ),
    aten.pixel_unshuffle.default: lambda: image(
        lambda net, y: aten.pixel_unshuffle.default(y, 2), 2, 16
    ),
    aten.atleast_2d.default: lambda: vector(lambda net, y, x: aten.atleast_2d.default(y)),
    aten.expand.default: lambda: image(
        lambda net, y: y.mean((2, 3), keepdim=True).expand(-1, 4, 4, 4)
    ),
    aten.expand_as.default: lambda: image(lambda net, y: y.mean((2, 3), keepdim=True).expand_as(y)),
    aten.view_as.default: lambda: tokens(
        lambda net, y, x: y.unflatten(2, (3, 2)).contiguous().view_as(y)
    ),
    aten.reshape_as.default: lambda: tokens(lambda net, y, x: y.flatten(1).reshape_as(y)),
    aten.roll.default: lambda: image(lambda net, y: y.roll((1, 2), (1, 3))),
}

SLICING = {
    aten.slice.Tensor: lambda: image(lambda net, y: y[:, 1:], 2, 3),
    aten.narrow.default: lambda: image(lambda net, y: aten.narrow.default(y, 1, 1, 3), 2, 3),
    aten.select.int: lambda: tokens(lambda net, y, x: y[:, 1]),
    aten.unbind.int: lambda: tokens(
        lambda net, y, x: torch.add(*y.unflatten(2, (2, 3)).unbind(2)), 3
    ),
    aten.split.Tensor: lambda: image(lambda net, y: torch.mul(*y.split(2, 1)), 2, 2),
    aten.split.sizes: lambda: image(lambda net, y: aten.split.sizes(y, [1, 3], 1)[1], 2, 3),
    aten.split_with_sizes.default: lambda: image(lambda net, y: y.split([1, 3], 1)[1], 2, 3),
    aten.chunk.default: lambda: image(lambda net, y: torch.mul(*y.chunk(2, 1)), 2, 2),
    aten.tensor_split.sections: lambda: image(lambda net, y: torch.tensor_split(y, 3, 1)[0], 2, 2),
    aten.tensor_split.indices: lambda: image(
        lambda net, y: torch.tensor_split(y, (1, 3), 1)[1], 2, 2
    ),
    aten.unsafe_split.Tensor: lambda: image(lambda net, y: torch.mul(*y.unsafe_split(2, 1)), 2, 2),
    aten.unsafe_split_with_sizes.default: lambda: image(
        lambda net, y: y.unsafe_split_with_sizes([1, 3], 1)[1], 2, 3
    ),
    aten.unsafe_chunk.default: lambda: image(lambda net, y: torch.mul(*y.unsafe_chunk(2, 1)), 2, 2),
    aten.cat.default: lambda: image(lambda net, y: torch.cat([y, -y], 1), 2, 8),
    aten.concat.default: lambda: image(lambda net, y: aten.concat.default([y, -y], 1), 2, 8),
    aten.stack.default: lambda: image(lambda net, y: torch.stack([y, 2 * y], 1).sum(1)),
    aten.index_select.default: lambda: image(
        lambda net, y: y.index_select(1, torch.tensor([3, 0, 2, 2]))
    ),
    aten.index.Tensor: lambda: image(lambda net, y: y[:, [3, 0, 2, 2]]),
    aten.pad.default: lambda: image(lambda net, y: aten.pad.default(y, [1, 0, 0, 2])),
    aten.constant_pad_nd.default: lambda: image(
        lambda net, y: aten.constant_pad_nd.default(y, [1, 0, 0, 2], 0.5)
    ),
}

CREATION = {
    aten.zeros.default: lambda: tokens(
        lambda net, y, x: torch.cat([aten.zeros.default([x.shape[0], 2, 6]), y], 1).sum(1)
    ),
    aten.ones.default: lambda: tokens(lambda net, y, x: y * aten.ones.default([x.shape[0], 5, 6])),
    aten.full.default: lambda: tokens(
        lambda net, y, x: y * aten.full.default([x.shape[0], 5, 6], 0.5)
    ),
    aten.new_zeros.default: lambda: tokens(lambda net, y, x: y - y.new_zeros(5, 6)),
    aten.new_ones.default: lambda: tokens(lambda net, y, x: y - y.new_ones(y.shape[0], 5, 6)),
    aten.new_full.default: lambda: tokens(
        lambda net, y, x: y * y.new_full((y.shape[0], 5, 6), 2.0)
    ),
}

_ACTIVATIONS = (
    *(aten.relu6, aten.hardtanh, aten.hardswish, aten.hardsigmoid, aten.silu, aten.gelu, aten.elu),
    *(aten.celu, aten.selu, aten.mish, aten.tanh, aten.sigmoid, aten.log_sigmoid, aten.softplus),
    *(aten.rrelu, aten.relu, aten.leaky_relu),
)

POINTWISE = {
    **_each([op.default for op in _ACTIVATIONS], lambda op: image(lambda net, y: op(y))),
    **_each(
        [op.default for op in (aten.zeros_like, aten.ones_like, aten.rand_like, aten.randn_like)],
        lambda op: plus(lambda y: 0 * op(y)),
    ),
    aten.full_like.default: lambda: plus(lambda y: aten.full_like.default(y, 0.5)),
    aten.empty_like.default: lambda: plus(lambda y: torch.zeros_like(aten.empty_like.default(y))),
    **_each(
        [
            op.default
            for op in (aten.alias, aten.clone, aten.contiguous, aten.detach, aten.neg, aten.abs)
        ],
        lambda op: image(lambda net, y: op(y)),
    ),
    aten.lift_fresh_copy.default: lambda: image(lambda net, y: aten.lift_fresh_copy.default(y)),
    aten.sqrt.default: lambda: image(lambda net, y: y.abs().sqrt()),
    **_each(
        [
            op.default
            for op in (
                aten.dropout,
                aten.feature_dropout,
                aten.alpha_dropout,
                aten.feature_alpha_dropout,
            )
        ],
        lambda op: image(lambda net, y: op(y, 0.5, False)),
    ),
    aten.to.dtype: lambda: image(lambda net, y: aten.to.dtype(y, torch.float64).to(y)),
    aten.to.dtype_layout: lambda: image(
        lambda net, y: aten.to.dtype_layout(y, dtype=torch.float32)
    ),
    aten.to.device: lambda: image(
        lambda net, y: aten.to.device(y, torch.device("cpu"), torch.float32)
    ),
    aten._to_copy.default: lambda: image(lambda net, y: aten._to_copy.default(y)),
    aten.type_as.default: lambda: image(lambda net, y: y.type_as(2 * y)),
    aten.mul.Tensor: lambda: image(lambda net, y: y * torch.sigmoid(y)),
    aten.add.Tensor: lambda: image(lambda net, y: y + torch.sigmoid(y)),
    aten.sub.Tensor: lambda: image(lambda net, y: y - torch.sigmoid(y)),
    aten.div.Tensor: lambda: image(lambda net, y: y / (1 + y.abs())),
    aten.div.Scalar: lambda: image(lambda net, y: aten.div.Scalar(y, 3.0)),
    aten.prelu.default: lambda: image(lambda net, y: net.p(y), p=nn.PReLU(4)),
    aten.glu.default: lambda: image(lambda net, y: aten.glu.default(y, 1), 2, 2),
}

LINEAR = {
    aten.linear.default: lambda: tokens(lambda net, y, x: torch.relu(y)),
    aten.matmul.default: lambda: tokens(lambda net, y, x: torch.relu(y) @ net.w.p, 4, w=row(6, 4)),
    aten.mm.default: lambda: vector(lambda net, y, x: torch.mm(y, net.w.p), 4, w=row(6, 4)),
    aten.bmm.default: lambda: tokens(
        lambda net, y, x: torch.bmm(y, net.c(x).mT), 5, c=nn.Linear(3, 6)
    ),
    aten.mv.default: lambda: vector(lambda net, y, x: torch.mv(y, net.w.p)[:, None], 1, w=row(6)),
    aten.dot.default: lambda: vector(
        lambda net, y, x: torch.dot(y.sum(0), net.w.p) * x[:, :2], 2, w=row(6)
    ),
    aten.baddbmm.default: lambda: tokens(
        lambda net, y, x: torch.baddbmm(net.w.p, y, net.c(x).mT), 5, c=nn.Linear(3, 6), w=row(5)
    ),
    aten.addmv.default: lambda: vector(
        lambda net, y, x: torch.addmv(net.b.p, y, net.w.p)[:, None], 1, b=row(1), w=row(6)
    ),
    aten.addmm.default: lambda: vector(
        lambda net, y, x: torch.addmm(net.b.p, y, net.w.p), 4, b=row(4), w=row(6, 4)
    ),
    aten.einsum.default: lambda: tokens(
        lambda net, y, x: torch.einsum("ntc,cd->ntd", y, net.w.p), 4, w=row(6, 4)
    ),
}

ATTENTION = {
    aten.scaled_dot_product_attention.default: lambda: tokens(
        lambda net, y, x: (
            aten.scaled_dot_product_attention.default(
                *(net.c(y).unflatten(2, (3, 3, 2)).permute(2, 0, 3, 1, 4).unbind(0))
            )
            .transpose(1, 2)
            .flatten(2)
        ),
        c=nn.Linear(6, 18),
    )
}


def _plain(op: Any, dims: int, padding: Any) -> Case:
    weight = row(5, 4, *[3] * dims)
    return image(
        lambda net, y: op(y, net.w.p, net.b.p, [1] * dims, padding), dims, 5, w=weight, b=row(5)
    )


def _transposed(op: Any, dims: int) -> Case:
    weight = row(4, 5, *[3] * dims)
    return image(lambda net, y: op(y, net.w.p, net.b.p, [2] * dims), dims, 5, w=weight, b=row(5))


CONVOLUTION = {
    aten.conv1d.default: lambda: _plain(aten.conv1d.default, 1, [1]),
    aten.conv2d.default: lambda: _plain(aten.conv2d.default, 2, [1, 1]),
    aten.conv3d.default: lambda: _plain(aten.conv3d.default, 3, [1, 1, 1]),
    aten.conv1d.padding: lambda: _plain(aten.conv1d.padding, 1, "same"),
    aten.conv2d.padding: lambda: _plain(aten.conv2d.padding, 2, "same"),
    aten.conv3d.padding: lambda: _plain(aten.conv3d.padding, 3, "same"),
    aten.conv_transpose1d.default: lambda: _transposed(aten.conv_transpose1d.default, 1),
    aten.conv_transpose2d.input: lambda: _transposed(aten.conv_transpose2d.input, 2),
    aten.conv_transpose3d.input: lambda: _transposed(aten.conv_transpose3d.input, 3),
}


def _pool(op: Any, dims: int, *options: Any) -> Callable[[], Case]:
    def apply(net: Any, y: Tensor) -> Any:
        pooled = op(y, [2] * dims, *options)
        return pooled[0] if isinstance(pooled, tuple) else pooled

    return lambda: image(apply, dims)


POOLING = {
    aten.max_pool1d.default: _pool(aten.max_pool1d.default, 1),
    aten.max_pool2d.default: _pool(aten.max_pool2d.default, 2),
    aten.max_pool3d.default: _pool(aten.max_pool3d.default, 3),
    aten.avg_pool1d.default: _pool(aten.avg_pool1d.default, 1),
    aten.avg_pool2d.default: _pool(aten.avg_pool2d.default, 2),
    aten.avg_pool3d.default: _pool(aten.avg_pool3d.default, 3),
    aten.adaptive_avg_pool1d.default: _pool(aten.adaptive_avg_pool1d.default, 1),
    aten.adaptive_avg_pool2d.default: _pool(aten.adaptive_avg_pool2d.default, 2),
    aten.adaptive_avg_pool3d.default: _pool(aten.adaptive_avg_pool3d.default, 3),
    aten.adaptive_max_pool1d.default: _pool(aten.adaptive_max_pool1d.default, 1),
    aten.adaptive_max_pool2d.default: _pool(aten.adaptive_max_pool2d.default, 2),
    aten.adaptive_max_pool3d.default: _pool(aten.adaptive_max_pool3d.default, 3),
    aten.max_pool1d_with_indices.default: _pool(aten.max_pool1d_with_indices.default, 1),
    aten.max_pool2d_with_indices.default: _pool(aten.max_pool2d_with_indices.default, 2),
    aten.max_pool3d_with_indices.default: _pool(aten.max_pool3d_with_indices.default, 3),
    aten.max_unpool2d.default: lambda: unpooled(2),
    aten.max_unpool3d.default: lambda: unpooled(3),
    **_interpolate(aten.upsample_nearest1d, 1),
    **_interpolate(aten.upsample_nearest2d, 2),
    **_interpolate(aten.upsample_nearest3d, 3),
    **_interpolate(aten._upsample_nearest_exact1d, 1),
    **_interpolate(aten._upsample_nearest_exact2d, 2),
    **_interpolate(aten._upsample_nearest_exact3d, 3),
    **_interpolate(aten.upsample_linear1d, 1, False),
    **_interpolate(aten.upsample_bilinear2d, 2, False),
    **_interpolate(aten.upsample_trilinear3d, 3, True),
    **_interpolate(aten.upsample_bicubic2d, 2, False),
    **_interpolate(aten._upsample_bilinear2d_aa, 2, False),
    **_interpolate(aten._upsample_bicubic2d_aa, 2, False),
    aten.grid_sampler.default: lambda: image(
        lambda net, y: aten.grid_sampler.default(
            y, torch.linspace(-1, 1, 18).view(1, 3, 3, 2).expand(y.shape[0], -1, -1, -1), 0, 0, True
        )
    ),
    aten.im2col.default: lambda: image(
        lambda net, y: aten.im2col.default(y, [2, 2], [1, 1], [0, 0], [1, 1]).unflatten(2, (3, 3)),
        2,
        16,
    ),
    aten.col2im.default: lambda: image(
        lambda net, y: aten.col2im.default(
            net.c(y).flatten(2), [5, 5], [2, 2], [1, 1], [0, 0], [1, 1]
        ),
        2,
        5,
        c=nn.Conv2d(4, 20, 1),
    ),
    aten.unfold.default: lambda: image(lambda net, y: y.unfold(3, 2, 1).mean(-1)),
}

NORMALIZATION = {
    aten.batch_norm.default: lambda: image(lambda net, y: net.n(y), n=nn.BatchNorm2d(4)),
    aten.instance_norm.default: lambda: image(
        lambda net, y: net.n(y), n=nn.InstanceNorm2d(4, affine=True)
    ),
    aten.layer_norm.default: lambda: tokens(lambda net, y, x: net.n(y), n=nn.LayerNorm(6)),
    aten.rms_norm.default: lambda: tokens(lambda net, y, x: net.n(y), n=nn.RMSNorm(6)),
    aten.group_norm.default: lambda: image(lambda net, y: net.n(y), n=nn.GroupNorm(2, 4)),
}

REDUCTION = {
    aten.sum.dim_IntList: lambda: image(lambda net, y: y * y.sum(1, keepdim=True)),
    aten.mean.dim: lambda: image(lambda net, y: y * y.mean(1, keepdim=True)),
    aten.sum.default: lambda: image(lambda net, y: y * torch.sigmoid(y.sum() / 100)),
    aten.mean.default: lambda: image(lambda net, y: y * torch.sigmoid(y.mean())),
    aten.linalg_vector_norm.default: lambda: image(
        lambda net, y: y / aten.linalg_vector_norm.default(y, 2.0, [1], True)
    ),
    **_each(
        [aten.amax.default, aten.amin.default, aten.logsumexp.default],
        lambda op: image(lambda net, y: y * op(y, [2, 3], True)),
    ),
    **_each(
        [aten.argmax.default, aten.argmin.default],
        lambda op: image(lambda net, y: y * op(y, 3, True)),
    ),
    aten.prod.dim_int: lambda: image(lambda net, y: y + y.prod(3, True)),
    **_each(
        [aten.any.dim, aten.all.dim], lambda op: image(lambda net, y: y + op(y > 0.5, 3, True))
    ),
    **_each(
        [aten.max.dim, aten.min.dim, aten.median.dim],
        lambda op: image(lambda net, y: y + op(y, 3, True)[0]),
    ),
    **_each(
        [aten.softmax.int, aten.log_softmax.int, aten.cumsum.default, aten.cumprod.default],
        lambda op: image(lambda net, y: op(y, 3)),
    ),
    **_each(
        [aten._softmax.default, aten._log_softmax.default],
        lambda op: image(lambda net, y: op(y, 3, False)),
    ),
    aten.topk.default: lambda: image(lambda net, y: y.topk(2, 3)[0]),
    aten.sort.default: lambda: image(lambda net, y: y.sort(3)[0]),
    **_each(
        [aten.var.dim, aten.std.dim],
        lambda op: image(lambda net, y: y * op(y, [1], True, True)),
    ),
    **_each(
        [aten.var.correction, aten.std.correction],
        lambda op: image(lambda net, y: y * op(y, [1], correction=0, keepdim=True)),
    ),
    **_each(
        [aten.var_mean.dim, aten.std_mean.dim],
        lambda op: image(lambda net, y: y * torch.add(*op(y, [1], False, True))),
    ),
    **_each(
        [aten.var_mean.correction, aten.std_mean.correction],
        lambda op: image(lambda net, y: y * torch.add(*op(y, [1], correction=1, keepdim=True))),
    ),
}

RECURRENT = {
    aten.lstm.input: lambda: recurrent(aten.lstm.input, 4, 2),
    aten.gru.input: lambda: recurrent(aten.gru.input, 3, 1),
    aten.rnn_tanh.input: lambda: recurrent(aten.rnn_tanh.input, 1, 1),
    aten.rnn_relu.input: lambda: recurrent(aten.rnn_relu.input, 1, 1),
}


WRITING = {
    aten.slice_scatter.default: lambda: tokens(
        lambda net, y, x: aten.slice_scatter.default(y, net.c(x)[:, 1:3], 1, 0, 2),
        c=nn.Linear(3, 6),
    ),
    aten.select_scatter.default: lambda: tokens(
        lambda net, y, x: aten.select_scatter.default(y, net.c(x)[:, 1], 1, 0), c=nn.Linear(3, 6)
    ),
    aten.copy.default: lambda: tokens(lambda net, y, x: aten.copy.default(y, 2 * y[:, :1])),
    aten.fill.Scalar: lambda: tokens(lambda net, y, x: y * aten.fill.Scalar(y, 0.5)),
    aten.fill.Tensor: lambda: tokens(lambda net, y, x: y * aten.fill.Tensor(y, torch.tensor(0.5))),
}

EMBEDDING = {
    aten.embedding.default: looked_up,
    aten._embedding_bag.default: bagged,
}

NETS = {
    **MOVEMENT,
    **SLICING,
    **CREATION,
    **POINTWISE,
    **LINEAR,
    **ATTENTION,
    **CONVOLUTION,
    **POOLING,
    **NORMALIZATION,
    **REDUCTION,
    **RECURRENT,
    **WRITING,
    **EMBEDDING,
}
