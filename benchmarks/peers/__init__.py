"""What others offer for the same, in processes and virtual environments of their own.

``process`` runs one and asks it for samples, ``venvs`` installs what it needs. All other modules
are programs that answer; they run by the interpreter that has the peer.
"""
