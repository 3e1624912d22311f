"""Interlaced frames made whole, as players do: two half pictures of different moments become one."""
from collections.abc import Iterator

from av import VideoFrame
from av.error import BlockingIOError, EOFError
from av.filter import Graph


def deinterlaced(frames: Iterator[VideoFrame], stream) -> Iterator[VideoFrame]:
    """Yield as many frames as come, of the same times; those that are not interlaced stay as they are."""
    graph = Graph()
    source = graph.add_buffer(template=stream)
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    for frame in frames:
        graph.vpush(frame)
        yield from _pulled(graph)
    graph.vpush(None)
    yield from _pulled(graph)


def _pulled(graph: Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return
