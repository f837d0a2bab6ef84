"""case -> commands: what each framework needs to be started. Pure: nothing here starts a process."""
