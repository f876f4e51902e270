"""Encoding queries: IdCLIP's text tower (cut at the longest EOT) against plain open_clip's, same weights and texts.

Paired: both sides take turns in one process; the figure to quote is the median of the ratios, with the smallest and
largest beside it. Random weights of ViT-B-32's shape; nothing is downloaded.
"""

import argparse
import json
import platform
from functools import partial

import open_clip
import torch
from measuring import CAPTIONS, paired, report

import open_clip_idplugin


def main() -> None:
    """Time both sides for plain captions, and IdCLIP's for captions with a person."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    arguments = parser.parse_args()
    plain = open_clip.create_model("ViT-B-32").eval()
    identity = open_clip.create_model("IdCLIP-ViT-B-32").eval()
    identity.load_state_dict(open_clip.model.convert_to_custom_text_state_dict(plain.state_dict()))
    tokenizer = open_clip.get_tokenizer("IdCLIP-ViT-B-32")
    print(json.dumps({"torch": torch.__version__, "open_clip": open_clip.__version__, "cpu": platform.machine()}))
    for size in arguments.batch_sizes:
        captions = [CAPTIONS[number % len(CAPTIONS)] for number in range(size)]
        texts = tokenizer(captions)
        faces = torch.nn.functional.normalize(torch.randn(size, 512), dim=-1)
        people = tokenizer(
            [f"An image with {open_clip_idplugin.PLACEHOLDER}. {text}" for text in captions], faces=faces
        )
        with torch.no_grad():
            torch.testing.assert_close(identity.encode_text(texts), plain.encode_text(texts), atol=1e-4, rtol=1e-4)
            ratios = paired(partial(identity.encode_text, texts), partial(plain.encode_text, texts), arguments.rounds)
            report(f"{size} captions, IdCLIP / plain", ratios)
            ratios = paired(partial(identity.encode_text, people), partial(plain.encode_text, texts), arguments.rounds)
            report(f"{size} captions with a face token / plain captions", ratios)


if __name__ == "__main__":
    main()
