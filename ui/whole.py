"""Updates that survive a busy browser: every part of a streamed update is sent whole or not at all."""

from __future__ import annotations

from typing import Any

import gradio as gr


class WholeUpdates(gr.Blocks):
    """``gr.Blocks`` whose generators send each changed output as a whole value.

    gradio sends the difference to the yield before, and its page applies that to the value in place. Where updates wait
    for a browser that lags behind, an earlier one then holds what a later one made of it: a verdict shown by one yield
    and left alone by the next is never seen. A replaced value is another object, and stays what it was.
    """

    def handle_streaming_diffs(
        self,
        block_fn: Any,
        data: list[Any],
        session_hash: str | None,
        run: str | None,
        final: bool,
        simple_format: bool = False,
    ) -> list[Any]:
        """As in gradio; differences that are not empty become the new value."""
        first = session_hash is None or run is None or run not in self.pending_diff_streams[session_hash]
        whole = list(data)
        sent = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format)
        if first or final or simple_format:
            return sent
        return [
            [["replace", [], value]] if changes else [] for changes, value in zip(sent, whole, strict=True)
        ]
