"""Stories of migrations, told in a lab: demonstration, acceptance test and benchmark workload.

Each story is a package here: README.md says what it shows, run.py what is moved, expected.json is
what the result is held against. `migrator scenario list` names them.
"""
