"""The page stream: memory from the source into the destination's page store, over one TLS stream.

The records are page_records.py's. `Sender` at the source reads and hashes pages and sends each
content once; `Receiver` at the destination puts them into the store and answers with what it lacks
and with digests. docs/data-plane.md has the story and the figures.
"""

from migrator.page_compression import Flow
from migrator.page_receiver import Receiver
from migrator.page_sender import Arrived, Sender

__all__ = ["Arrived", "Flow", "Receiver", "Sender"]
