import pytest
import torch

from quokka_ray.model.fused_block import FusedBlock
from quokka_ray.model.fused_layers import Pool
from quokka_ray.model.shapes import make_shape
from quokka_ray.model.transfer import Transfer
from quokka_ray.model.transformer import Block, rotary_table
from quokka_ray.study.config import ModelConfig

ROWS, SEQ_LEN = 2, 5


@pytest.mark.parametrize("changes", [{}, {"conv_width": 0}, {"conv_width": 7}, {"qk_norm": False}])
def test_a_blocks_gradients_are_its_finite_differences(changes):
    model = ModelConfig(seq_len=SEQ_LEN, head_dim=4, ffn_multiple=4, conv_width=3)
    model = model.model_copy(update=changes)
    block = Block(make_shape(8, 1, model), model, Transfer(branch=0.7)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).mul(0.5))
    table = rotary_table(SEQ_LEN, 4, 100.0).to(torch.complex128)
    names = [name for name, _ in block.named_parameters()]

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            ctx.gradients = {n: torch.empty_like(p) for n, p in block.named_parameters()}
            ctx.block = FusedBlock(block, "", ctx.gradients, table, x, ROWS, Pool(x))
            ctx.save_for_backward(x)
            out = x.clone()
            ctx.block.forward(out)
            return out

        @staticmethod
        def backward(ctx, d_out):
            # Going back overwrites what going forward left: each way back needs its own way there.
            ctx.block.forward(ctx.saved_tensors[0].clone())
            d_x = d_out.clone()
            ctx.block.backward(d_x)
            return d_x, *(ctx.gradients[name] for name in names)

    x = torch.randn(8, ROWS * SEQ_LEN, dtype=torch.float64, generator=generator)
    # Parameters go in as themselves, since the block reads them where they are.
    assert torch.autograd.gradcheck(
        Fused.apply, (x.requires_grad_(), *block.parameters()), fast_mode=True
    )
