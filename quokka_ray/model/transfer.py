"""What changes with width and depth, so that hyper-parameters found at one size hold at others.

muP (Yang et al. 2022, Tensor Programs V) keeps the size of activations and of their updates level
over width; CompleteP (Dey et al. 2025) over depth too, with alpha = 1, the value that keeps every
layer learning features. With w = d_model / base width and l = layers / base layers:

| what                                     | mup        | completep    |
|------------------------------------------|------------|--------------|
| hidden matrices' initial variance        | / w        | / w          |
| hidden matrices' AdamW rate              | / w        | / w          |
| hidden matrices' AdamW weight decay      | as it is   | * w          |
| hidden matrices' Muon rate and decay     | as it is   | as it is     |
| AdamW's epsilon, all groups              | as it is   | / (w l)      |
| what a block adds to the stream          | as it is   | / l          |
| logits                                   | / w        | / w          |
| attention's scores                       | 1 / head_dim, equal to the default at the family's |
| embedding, norms, gains, convolution     | as they are | as they are |

Hidden matrices are those of the blocks and the second layer of time conditioning. Decay is
decoupled: a step shrinks a matrix by rate times decay, so CompleteP's two factors leave that
product as it is at every size. Muon's update has a spectral norm of the rate itself whatever the
matrix's width, which is what dividing AdamW's rate by the width brings about; so its rate is left
alone, and the rest of the table holds for it too.
"""

from dataclasses import dataclass

from quokka_ray.study.config import TrainingConfig
from quokka_ray.study.trajectory import Shape


@dataclass(frozen=True)
class Transfer:
    """The factors of one size; the default changes nothing.

    Attributes:
        hidden_std: On the hidden matrices' initial standard deviation.
        hidden_lr: On the hidden matrices' AdamW learning rate.
        hidden_decay: On the hidden matrices' AdamW weight decay.
        eps: On AdamW's epsilon.
        branch: On what a block's two sub-layers add to the stream.
        logits: On the logits.
        linear_attention: Scores are divided by the head's width, not by its square root.
    """

    hidden_std: float = 1.0
    hidden_lr: float = 1.0
    hidden_decay: float = 1.0
    eps: float = 1.0
    branch: float = 1.0
    logits: float = 1.0
    linear_attention: bool = False


def transfer_of(shape: Shape, training: TrainingConfig) -> Transfer:
    """Return the factors of one size under `training.transfer`."""
    if training.transfer == "none":
        return Transfer()
    complete = training.transfer == "completep"
    # The section holds the base of every rule that needs one.
    width = shape.d_model / (training.transfer_base_width or shape.d_model)
    depth = shape.layers / (training.transfer_base_layers or shape.layers)
    return Transfer(
        hidden_std=width**-0.5,
        hidden_lr=1 / width,
        hidden_decay=width if complete else 1.0,
        eps=1 / (width * depth) if complete else 1.0,
        branch=1 / depth if complete else 1.0,
        logits=1 / width,
        linear_attention=True,
    )
