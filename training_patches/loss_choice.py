"""Which loss a run's flags mean: the host's own where it says everything, else the sum of the setups' terms.

Role: `--id-setup`, `--id-entity-loss`, `--id-false-negatives` with the host's `--siglip`, `--local-loss`,
`--gather-with-grad` and ranks -> a module that the host's loop calls with what the model returns.
"""

import argparse
from collections.abc import Callable
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.losses import POSITIVE, MatchingClipLoss, MatchingSigLipLoss, SetupsLoss, Term
from training_patches.params import KEEP, IdentityOptions
from training_patches.setups import ONLY_ENTITIES


def identity_loss(host: Callable[..., Any], args: argparse.Namespace, options: IdentityOptions) -> Any:
    """`host` is open_clip's create_loss. Raises IdClipError for a host setting that knows no labels."""
    setups = options.setups
    if not options.labelled and list(setups.values()) == [1.0]:
        return host(args)
    for flag, given in (("--distill-model", args.distill), ("--horovod", args.horovod)):
        if given:
            raise IdClipError(
                f"{flag} works with one training setup of weight 1 and open_clip's own loss only (--id-setup with_entities)."
            )
    return SetupsLoss([_term(name, weight, host, args, options) for name, weight in setups.items()])


def _term(
    name: str, weight: float, host: Callable[..., Any], args: argparse.Namespace, options: IdentityOptions
) -> Term:
    of_entities = name == ONLY_ENTITIES
    if not of_entities and options.false_negatives == KEEP:
        return Term(name, weight, host(args), labelled=False)
    others = POSITIVE if of_entities else options.false_negatives
    softmax = not args.siglip or (of_entities and options.entity_loss == "cross_entropy")
    if not softmax:
        return Term(name, weight, MatchingSigLipLoss(others, rank=args.rank, world_size=args.world_size), labelled=True)
    loss = MatchingClipLoss(
        others,
        binary=of_entities and options.entity_loss == "bce",
        local_loss=args.local_loss,
        gather_with_grad=args.gather_with_grad,
        cache_labels=True,
        rank=args.rank,
        world_size=args.world_size,
    )
    return Term(name, weight, loss, labelled=True)
