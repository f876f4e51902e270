"""The miniature world: drawn people in drawn scenes, in exactly the layout of the COCO-PFS release; nothing is downloaded.

Role: `people` and `scenes` are sampled from seeds, `drawing`, `photos` and `scenes` turn them into pixels, `captions` into
words, and `release_writer` writes the release. Everything follows from integers: equal seeds give equal bytes.
"""
