"""1 GiB, half of it zeros, moves while a tenth is rewritten: how many bytes cross the wire?"""
