"""What a discriminator that also names classes minimises: one number per image, from its class logits."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from frugan.losses.adversarial import at_least_float32


def class_loss(class_logits: Float[Tensor, "N K"], labels: Float[Tensor, "N K"]) -> Float[Tensor, " N"]:
    """The cross-entropy of each image's class logits with its one-hot label, in float32; take the mean to train.

    AC-GAN's auxiliary classifier (Odena et al. 2017), in ProGAN's form (Karras et al. 2018): the discriminator adds it
    for reals and for fakes, the generator for its fakes, each with weight 1. The weight belongs to the caller.
    """
    return -(labels * F.log_softmax(at_least_float32(class_logits), dim=1)).sum(dim=1)
