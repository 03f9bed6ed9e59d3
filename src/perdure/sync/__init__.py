"""Perdure for synchronous code: `with app.node(url).sync() as node:`.

    portal.py     one event loop on one thread, and calls into it that block
    facade.py     nodes, clients and handles with blocking methods. Generated, never edited

Each method has the name, the parameters, the result and the errors of the asynchronous one.
"""

from __future__ import annotations

from perdure.sync.facade import SyncClient, SyncHandle, SyncNode, SyncWorkflowHandle
from perdure.sync.portal import LoopFactory

__all__ = ["LoopFactory", "SyncClient", "SyncHandle", "SyncNode", "SyncWorkflowHandle"]
