"""Proposed commands repeat what was given, and a shell takes them as they stand."""

import shlex

from open_clip_idplugin.command_line.next_step import command, search_or_serve


def test_flags_that_were_given_are_repeated_and_no_others():
    line = command(
        "index", images="my photos", model="M", checkpoint=None, device="auto", precision="amp", crops=False, mmap=True
    )
    assert line == "idclip index --images 'my photos' --model M --precision amp --mmap"
    assert command("rename", "Ann's", "b") == "idclip rename 'Ann'\"'\"'s' b"
    assert shlex.split(command("rename", "Ann's", "b")) == ["idclip", "rename", "Ann's", "b"]


def test_an_index_is_searched_or_served_with_the_same_flags():
    assert search_or_serve(index="i", model="M", device="cuda") == (
        "Next: idclip search TEXT --index i --model M --device cuda\n  or: idclip serve --index i --model M --device cuda"
    )
