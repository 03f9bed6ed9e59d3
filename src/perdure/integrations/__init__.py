"""Adapters from Perdure to the tools of others, one per module.

`import perdure` loads none of them.
"""
