"""Image files → 8-bit arrays: any format that Pillow reads, one file or many on all cores.

Nothing here imports torch, so that the processes that decode start at once.
"""
