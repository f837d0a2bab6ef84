"""How a supervisor is started on a node and how its run folder comes back; nothing else differs."""
