"""Loss of a run: its terms and the host's flags -> a module that the host's loop calls with what the model returns.

Role: the host's own loss where that says everything, else the weighted sum of the setups' terms, with the host's
`--siglip`, `--local-loss`, `--gather-with-grad` and ranks.
"""

import argparse
from collections.abc import Callable
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.losses import MatchingClipLoss, MatchingSigLipLoss, SetupsLoss, Term
from training_patches.host_flags import switch
from training_patches.params import IdentityOptions
from training_patches.setups import BCE, CROSS_ENTROPY, TermOptions


def identity_loss(host: Callable[..., Any], args: argparse.Namespace, options: IdentityOptions) -> Any:
    """`host` is open_clip's create_loss. Raises IdClipError for a host setting that knows no labels."""
    terms = options.loss_terms
    if not options.labelled and [term.weight for term in terms] == [1.0]:
        return host(args)
    for flag, given in (("--distill-model", args.distill), ("--horovod", switch(args, "horovod"))):
        if given:
            raise IdClipError(
                f"{flag} works with one training setup of weight 1 and open_clip's own loss only (--id-setup with_entities)."
            )
    return SetupsLoss([Term(term.setup, term.weight, _module(term, host, args), term.labelled) for term in terms])


def _module(term: TermOptions, host: Callable[..., Any], args: argparse.Namespace) -> Any:
    if not term.labelled:
        return host(args)
    ranks = {"rank": args.rank, "world_size": args.world_size}
    if args.siglip and term.form != CROSS_ENTROPY:
        return MatchingSigLipLoss(term.others, **ranks)
    return MatchingClipLoss(
        term.others,
        binary=term.form == BCE,
        local_loss=args.local_loss,
        gather_with_grad=args.gather_with_grad,
        cache_labels=True,
        **ranks,
    )
