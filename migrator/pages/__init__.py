"""Pages between two hosts: into a page store in rounds, or late to who waits for them.

`sender.Sender` at the source reads and hashes pages and sends each content once;
`receiver.Receiver` at the destination puts them into the store and answers with what it lacks and
with digests. docs/data-plane.md has the story and the figures.
"""
