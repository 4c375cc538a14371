"""The only home of durable file operations. Every step that must survive a power cut goes through here.

The order that holds: write a temporary name in the same folder, fsync the file, check
close, rename, fsync the folder. An fsync that failed is never retried on the same descriptor: the file is dropped.
"""

from airpack.fsops.failpoints import reach
from airpack.fsops.files import (
    NewFile,
    append_durable,
    clear_temporary,
    close_read,
    copy_in,
    free_bytes,
    is_temporary,
    link_file,
    make_dir,
    make_dirs,
    open_regular,
    publish,
    read_private,
    read_regular,
    read_start,
    remove_file,
    remove_tree,
    rename_durable,
    seal_dir,
    spare_bytes,
    swap_link,
    sync_dir,
    sync_file,
    write_durable,
)
from airpack.fsops.locks import Lock
from airpack.fsops.media import ReadBack, Room, clear_torn, look_at_room, read_blocks, writing_to
from airpack.fsops.parts import PART, GrowingFile, PartFile
from airpack.fsops.waiting import interruptible

__all__ = [
    "PART",
    "GrowingFile",
    "Lock",
    "NewFile",
    "PartFile",
    "ReadBack",
    "Room",
    "append_durable",
    "clear_temporary",
    "clear_torn",
    "close_read",
    "copy_in",
    "free_bytes",
    "interruptible",
    "is_temporary",
    "link_file",
    "look_at_room",
    "make_dir",
    "make_dirs",
    "open_regular",
    "publish",
    "reach",
    "read_blocks",
    "read_private",
    "read_regular",
    "read_start",
    "remove_file",
    "remove_tree",
    "rename_durable",
    "seal_dir",
    "spare_bytes",
    "swap_link",
    "sync_dir",
    "sync_file",
    "write_durable",
    "writing_to",
]
