"""Images, captions and faces become a release and tar shards (see DESIGN of the project: the middle floor).

Modules are imported by name (`webdataset_tools.shards`, ...); nothing heavy is loaded here.
"""
